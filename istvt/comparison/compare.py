"""Comparison of detectors: everything is checked, what is missing is trained and evaluated, and the tables are written.

    DIR/runs/DETECTOR/SET/seed-0/            the run that is trained, as of `istvt train`
    DIR/evaluations/DETECTOR/SET/seed-0/TEST/ its evaluation, as of `istvt evaluate`
    DIR/comparison.md, .csv, .html, .json, comparison-tests.csv, comparison-robustness.csv

A comparison that was stopped goes on where it was: a run from its last checkpoint, an evaluation from its last video.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console

from dataloading.engines import ModelEngine
from dataloading.errors import InputError
from dataloading.io import locked
from istvt.comparison.check import checked
from istvt.comparison.devices import finish_on_devices
from istvt.comparison.models import Bars, finish_model, no_bars, read_model
from istvt.comparison.pages import Comparison, write_comparison
from istvt.comparison.published import published_results
from istvt.comparison.results import gather
from istvt.comparison.settings import ComparisonSettings, comparison_plan, read_comparison
from istvt.device import pick_device
from istvt.run_dir import output_directory

LOCK = "comparison.lock"


def compare(
    settings: ComparisonSettings | str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    published: bool = False,
    engine: ModelEngine | None = None,
    console: Console | None = None,
    bars: Bars = no_bars,
) -> Comparison:
    """Train and evaluate what is missing of a comparison, and write its tables.

    Args:
        settings: of the comparison, or its YAML file.
        output: directory of everything written; what an earlier call has finished there is used.
        device: "auto", "cpu", "cuda" or "cuda:N", or several with commas between them, each of which trains a model of
            its own; "auto" is every GPU of this machine.
        published: put the paper's numbers beside the measured ones, marked as published.
        engine: scores videos on other machines; training stays on this one.
        console: for the progress of training.
        bars: shows that of the rest.

    Raises:
        InputError: something in the settings, a data set, a checkpoint or the output does not fit; before anything is
            trained.
    """
    console = console or Console(quiet=True)
    where = "settings" if isinstance(settings, ComparisonSettings) else str(settings)
    if not isinstance(settings, ComparisonSettings):
        settings = read_comparison(settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("istvt compare was started by torchrun; expected one process, which uses every GPU by itself")
    plan, devices = comparison_plan(settings, output, where), _devices(device)
    if engine is not None and len(devices) > 1:
        raise InputError(f"device is {device} and an engine is given; expected one device, which trains")
    output = output_directory(output)
    with locked(output / LOCK, f"writing to {output}; wait for it, or choose another --output"):
        with bars("checking") as update:
            ready = checked(plan, where, devices[0], lambda what: update(0, 1, f"checking: {what}"))
        models = ready.plan.models
        missing = sum(model.checkpoint not in ready.trained for model in models)
        console.print(f"{len(models)} models, {missing} of them to be trained or finished", style="dim")
        if len(devices) > 1:
            with bars(f"models on {len(devices)} devices") as update:
                finish_on_devices(ready, devices, update)
        else:
            for model in models:
                finish_model(ready, model, device=devices[0], engine=engine, console=console, bars=bars)
        evaluated = [read_model(model, test, plan.sweeps) for model in models for test in settings.test]
        with bars("computing intervals and tests") as update:
            results = gather(ready, evaluated, update)
        return write_comparison(results, output, published_results() if published else None)


def _devices(device: str) -> list[str]:
    """Return the devices of a list with commas; "auto" is every GPU where there are several."""
    names = device.split(",")
    if names == ["auto"] and torch.cuda.device_count() > 1:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(pick_device(name)) if len(names) > 1 else name for name in names]
