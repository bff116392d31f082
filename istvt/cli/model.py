"""`istvt model`: parameters and multiply-accumulates by part."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import print_lines
from istvt.cli.options import add_model, settings_of
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """Add the options."""
    add_model(parser, base)
    parser.add_argument(
        "--backbone-weights", type=Path | None, default=None, help="check that this Xception file fits the backbone"
    )


def run(options: Namespace, console: Console) -> int:
    """Print a model's parameters and multiply-accumulates by part.

    The layers column is what the published cost tables count; attention products stand beside it."""
    from rich.table import Table

    from istvt.model.flops import model_cost, total_cost

    config = settings_of(ISTVTConfig, options.model)
    height, width = config.feature_grid
    print_lines(
        console,
        f"{config.attention}, {config.frames} frames of {config.image_size} pixels: {config.frame_rows} frame rows x "
        f"{config.positions} positions ({height}x{width} grid), C={config.dim}, N={config.heads}, "
        f"D={config.resolved_head_dim}, M={config.depth}; LayerNorm eps {config.layer_norm_eps:g}"
        f"{', a second one in the head' * config.head_norm}; position embedding of {config.embedded_rows} rows",
    )
    table = Table("part", "parameters", "layers, G MAC", "attention products, G MAC", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in (*model_cost(config), total_cost(config)):
        numbers = (f"{part.parameters:,}", f"{part.layer_macs / 1e9:.3f}", f"{part.attention_macs / 1e9:.3f}")
        table.add_row(part.part, *numbers, style="bold" if part.part == "total" else None)
    console.print(table)
    if options.backbone_weights is not None:
        import torch

        from istvt.model.checkpoint import load_backbone_weights
        from istvt.model.xception import XceptionEntryFlow

        with torch.device("meta"):  # shapes alone: no memory for weights
            backbone = XceptionEntryFlow(config.backbone_dims, config.dim)
        ignored = load_backbone_weights(backbone, options.backbone_weights)
        beyond = f"{len(ignored)} tensors beyond it are ignored"
        print_lines(console, f"{options.backbone_weights} fits the backbone; {beyond}")
    return 0
