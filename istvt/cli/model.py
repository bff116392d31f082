"""`istvt model`: parameters and multiply-accumulates by part."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import print_lines
from istvt.cli.options import add_model, settings_of
from istvt.config import DetectorConfig, ISTVTConfig
from istvt.model.architectures import architecture


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_model(parser, base)
    parser.add_argument(
        "--backbone-weights", type=Path | None, default=None, help="check that this file fits the backbone"
    )


def run(options: Namespace, console: Console) -> int:
    """Print a model's parameters and multiply-accumulates by part.

      istvt model --preset seed --model.frames 8
      istvt model --model.architecture stil --preset published

    The layers column is what the published cost tables count; attention products stand beside it."""
    from rich.table import Table

    from istvt.model.flops import model_cost, total_cost

    config = settings_of(architecture(options.model.architecture).config, options.model)
    print_lines(console, describe(config))
    table = Table("part", "parameters", "layers, G MAC", "attention products, G MAC", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in (*model_cost(config), total_cost(config)):
        numbers = (f"{part.parameters:,}", f"{part.layer_macs / 1e9:.3f}", f"{part.attention_macs / 1e9:.3f}")
        table.add_row(part.part, *numbers, style="bold" if part.part == "total" else None)
    console.print(table)
    weights = options.backbone_weights
    if weights is None and isinstance(config, ISTVTConfig):
        return 0  # without PyTorch, which takes seconds
    import torch

    from istvt.model.architectures import build
    from istvt.model.checkpoint import load_pretrained

    with torch.device("meta"):  # shapes alone: no memory for weights
        model = build(config)
    if weights is None:
        print_lines(console, f"--backbone-weights: {model.pretrained_from or 'none, it starts from random weights'}")
        return 0
    ignored = load_pretrained(model, weights)
    print_lines(console, f"{weights} fits the backbone; {len(ignored)} tensors beyond it are ignored")
    return 0


def describe(config: DetectorConfig) -> str:
    """Return a line on the sizes of a model."""
    clip = f"{config.frames} frame{'s' * (config.frames != 1)} of {config.image_size} pixels"
    if not isinstance(config, ISTVTConfig):
        sizes = {name: value for name, value in config.to_dict().items() if name not in DetectorConfig.__annotations__}
        del sizes["architecture"]
        listed = ", ".join(f"{name} {list(v) if isinstance(v, tuple) else v}" for name, v in sizes.items())
        return f"{config.architecture}, {clip}: {listed}"
    height, width = config.feature_grid
    name = config.attention if config.architecture == "istvt" else config.architecture
    return (
        f"{name}, {clip}: {config.frame_rows} frame rows x "
        f"{config.positions} positions ({height}x{width} grid), C={config.dim}, N={config.heads}, "
        f"D={config.resolved_head_dim}, M={config.depth}; LayerNorm eps {config.layer_norm_eps:g}"
        f"{', a second one in the head' * config.head_norm}; position embedding of {config.embedded_rows} rows"
    )
