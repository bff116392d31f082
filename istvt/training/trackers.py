"""Experiment trackers behind one interface: TensorBoard, Weights & Biases, MLflow.

Each takes named numbers at a step. Names are `step/loss`, by steps, and `validation/auc`, by epochs. A run that goes on
continues its own run of the tracker, whose identifier is kept in `tracker.json`. A tracker that fails later, as its
server cannot be reached, does not stop the training.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from dataloading.errors import InputError
from dataloading.io import read_json, write_json
from istvt.config import Tracker as TrackerName

logger = logging.getLogger(__name__)

PROJECT = "istvt"
_IDENTIFIER = "tracker.json"  # in the run's directory: by tracker, the identifier there
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
_LONGEST_VALUE = 500  # characters of a parameter, by MLflow's limit


class Tracker(Protocol):
    """What a run needs of a tracker."""

    def log(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """Take numbers by name at a step; `axis` is what it counts, "step" or "epoch"."""

    def close(self, failed: bool) -> None:
        """Write what is left and end the run."""


def require_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is not installed; imports none.

    Raises:
        InputError: it is not installed.
    """
    package = _PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise InputError(f"{package}, which --tracker {name} needs, is not installed: pip install 'istvt[{name}]'")


def open_tracker(name: TrackerName, output: Path, settings: Mapping[str, Any], step: int) -> Tracker | None:
    """Open the tracker of a run; None for "none".

    Args:
        name: of the tracker.
        output: the run's directory.
        settings: of the run, by group.
        step: finished steps; later ones in TensorBoard, of a run that was stopped, are dropped.

    Raises:
        InputError: it is not installed, or does not open.
    """
    require_tracker(name)
    match name:
        case "none":
            return None
        case "tensorboard":
            return TensorBoard(output, step)
    opener = {"wandb": WeightsAndBiases, "mlflow": MLflow}[name]
    try:
        return Lenient(name, opener(output, settings))
    except (KeyboardInterrupt, InputError):
        raise
    except Exception as error:  # of a package with exceptions of its own, and of its network
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "; WANDB_MODE=offline needs no account" if name == "wandb" else ""
        raise InputError(f"--tracker {name}: cannot be opened ({reason:.300}){advice}") from error


class TensorBoard:
    """Event files in `RUN/tensorboard`."""

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(output / "tensorboard", purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if axis == "epoch":
            self._writer.flush()

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb; project, mode and account by its own variables (WANDB_PROJECT, WANDB_MODE, WANDB_API_KEY)."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=output.resolve().name,
            dir=output,
            id=_identifier(output, "wandb"),
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._run.define_metric("step/*", step_metric="step")
        for name in ("validation/*", "training/*", "learning_rate", "seconds"):
            self._run.define_metric(name, step_metric="epoch")
        _keep_identifier(output, "wandb", self._run.id)

    def log(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """See `Tracker`."""
        self._run.log({**values, axis: step})

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow: at MLFLOW_TRACKING_URI, or without it in files of `RUN/mlruns`."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if address is None:
            address = (output / "mlruns").resolve().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it this version asks for a database
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = _identifier(output, "mlflow")
        if self._id is not None:
            self._client.set_terminated(self._id, "RUNNING")
            return
        self._id = self._client.create_run(experiment, run_name=output.resolve().name).info.run_id
        _keep_identifier(output, "mlflow", self._id)
        for group, values in settings.items():
            for key, value in values.items():
                self._client.log_param(self._id, f"{group}.{key}", str(value)[:_LONGEST_VALUE])

    def log(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, float(value), step=step)

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class Lenient:
    """A tracker whose errors are logged once and stop no training: it takes nothing after the first."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker
        self.failed = False

    def log(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """See `Tracker`."""
        if not self.failed:
            with self._logged():
                self._tracker.log(values, step, axis)

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        with self._logged():
            self._tracker.close(failed)

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self.failed:
                reason = " ".join(str(error).split()) or type(error).__name__
                logger.warning("%s takes no more of this run (%.300s); training goes on", self._name, reason)
            self.failed = True


def _identifier(output: Path, name: str) -> str | None:
    file = output / _IDENTIFIER
    return read_json(file, dict[str, str]).get(name) if file.is_file() else None


def _keep_identifier(output: Path, name: str, identifier: str) -> None:
    file = output / _IDENTIFIER
    known = read_json(file, dict[str, str]) if file.is_file() else {}
    write_json(file, known | {name: identifier})
