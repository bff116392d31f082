"""What a run says before it starts: what it is about to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from rich.markup import escape

from dataloading import Video
from dataloading.clips.sampling import TrainingClips
from dataloading.dataset import only_class
from dataloading.face_index import crop_name
from istvt.config import DataSettings, ISTVTConfig, TrainingSettings
from istvt.model.attention import resolve_backend
from istvt.model.flops import total_cost
from istvt.report.summary import skipped_line
from istvt.training.distributed import Processes
from istvt.training.step import TrainingStep

# A coarser feature grid than this leaves spatial attention, and its explanation, hardly a place to point at.
LEAST_GRID = 3


def announce(
    config: ISTVTConfig,
    training: TrainingSettings,
    data: DataSettings,
    videos: Mapping[str, Sequence[Video]],
    detectors: Sequence[str],
    sampler: TrainingClips,
    step: TrainingStep,
    processes: Processes,
    console: Console,
) -> None:
    """Print model, cost, device, precision, attention backend, processes, data, crops and batch size, and warnings."""
    cost = total_cost(config)
    console.print(
        f"[bold]{config.attention}[/] model of {cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.layer_macs / 1e9:.2f} G multiply-accumulates a clip of {config.frames} frames at "
        f"{config.image_size} pixels, attention products not counted\n"
        f"on {_where(step.device, training, processes)}, {_how(step.dtype, training)}, attention by "
        f"{resolve_backend(training.backend, step.device)}\n"
        f"{len(videos['train'])} training and {len(videos['val'])} validation videos of "
        f"{escape(str(data.root))}, {escape(crop_name(detectors))}; "
        f"{sampler.clips_in_all} clips an epoch in steps of {_step_size(training, processes)}, "
        f"{training.epochs} epoch{'s' * (training.epochs != 1)}"
    )
    height, width = config.feature_grid
    if min(height, width) < LEAST_GRID:
        console.print(
            f"[yellow]the feature grid is only {height}x{width}: a larger model.image_size would show where something "
            "is[/]",
            soft_wrap=True,
        )
    if training.parallel == "fsdp" and not processes.is_distributed:
        console.print(
            "[yellow]training.parallel fsdp has no effect with one process; torchrun starts several[/]", soft_wrap=True
        )
    if (only := only_class(videos["val"])) is not None:
        console.print(
            f"[yellow]the validation split holds only {only} videos: AUC is undefined, "
            "the best epoch is chosen by loss[/]"
        )


def list_skipped(skipped: Mapping[str, str], title: str, console: Console) -> None:
    """Name the videos that are not used, each with its reason; `{}` in the title is how many they are."""
    if skipped:
        console.print(f"[yellow]{title.format(f'{len(skipped)} video' + 's' * (len(skipped) != 1))}[/]")
        for name, reason in sorted(skipped.items()):
            console.print(f"  {skipped_line(name, reason)}", markup=False, highlight=False, soft_wrap=True)
        if any("; a clip needs " in reason for reason in skipped.values()):
            console.print("  (--model.frames says how many frames a clip has)", highlight=False)


def _where(device: torch.device, training: TrainingSettings, processes: Processes) -> str:
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return (
        f"{processes.world_size} processes ({training.parallel}), each on {name}" if processes.is_distributed else name
    )


def _how(dtype: torch.dtype, training: TrainingSettings) -> str:
    parts = [str(dtype).removeprefix("torch.") + (" with TF32" if training.tf32 else "")]
    parts += [training.execution]
    parts += ["activation checkpointing"] if training.activation_checkpointing else []
    return ", ".join(parts)


def _step_size(training: TrainingSettings, processes: Processes) -> str:
    size = f"{training.batch_size} clips"
    size += f" x {training.accumulation} batches" if training.accumulation > 1 else ""
    return size + (f" x {processes.world_size} processes" if processes.is_distributed else "")
