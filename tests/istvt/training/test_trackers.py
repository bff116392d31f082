"""Trackers: the same numbers in each, one run for a run that goes on, and no training that ends by one."""

import json
from pathlib import Path

import pytest
from commands import refused
from rich.console import Console

from dataloading.errors import InputError
from istvt.training import trackers
from istvt.training.logging import RunLog
from istvt.training.trackers import Lenient, open_tracker

EPOCH = {"epoch": 1, "train_loss": 0.6, "val_auc": 0.75, "val_precision": None, "learning_rate": 1e-3}


def step_row(step: int) -> dict:
    return {
        "step": step, "epoch": 1, "loss": 1 / step, "learning_rate": 1e-3, "clips_per_second": 5.0, "skipped_steps": 0,
    }  # fmt: skip


def log_two_parts(output: Path, tracker: str) -> None:
    """A run that fails after two steps, and goes on to its third and its epoch."""
    settings = {"training": {"tracker": tracker, "epochs": 1}, "model": {"dim": 16}}
    with pytest.raises(KeyError), RunLog(output, Console(quiet=True), True, 0, 3, None, settings) as log:
        log.steps(step_row(1))
        log.steps(step_row(2) | {"loss": float("nan")})  # of steps without a clip: not a number to draw
        raise KeyError
    with RunLog(output, Console(quiet=True), True, 2, 3, None, settings) as log:
        log.steps(step_row(3))
        log.epoch(EPOCH)


def wandb_records(data: bytes, block: int = 32768) -> list[bytes]:
    """The records of a .wandb file, which is a log of LevelDB after seven bytes of its own."""
    records, at = [], 7
    while at + 7 <= len(data):
        if block - at % block < 7:  # no room for a header: zeros up to the next block
            at += block - at % block
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part, at = data[at + 7 : at + 7 + size], at + 7 + size
        records += [part] if kind in (1, 2) else []
        if kind in (3, 4):
            records[-1] += part
    return records


def test_mlflow_without_a_server_keeps_one_run_in_the_runs_directory(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "run").mkdir()
    log_two_parts(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "run/mlruns").as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("istvt").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["model.dim"] == "16"
    history = client.get_metric_history(run.info.run_id, "step/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (3, pytest.approx(1 / 3))]
    assert run.data.metrics["validation/auc"] == 0.75
    assert run.data.metrics["training/loss"] == 0.6
    assert "validation/precision" not in run.data.metrics  # it was undefined


def test_wandb_offline_keeps_one_run_in_the_runs_directory(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    log_two_parts(tmp_path, "wandb")
    wandb.teardown()  # as at the end of a process: its service writes what it has not written yet
    [identifier] = json.loads((tmp_path / "tracker.json").read_text()).values()
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    history, configured = [], ""
    for file in files:
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                configured += str(record.run.config)
                assert record.run.run_id == identifier
                assert record.run.project == "istvt"
            if record.HasField("history"):
                history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
    assert [(row["step"], row.get("step/loss")) for row in history if "step" in row] == [
        (1, 1.0), (2, None), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    [epoch] = [row for row in history if "epoch" in row]
    assert (epoch["epoch"], epoch["validation/auc"], epoch["training/loss"]) == (1, 0.75, 0.6)
    assert "model" in configured


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_read(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    (tmp_path / "set").mkdir()
    arguments = ["train", f"--data.root={tmp_path / 'set'}", f"--tracker={name}", f"--output={tmp_path / 'run'}"]
    message = refused(capsys, arguments)
    assert f"{name}, which --tracker {name} needs, is not installed: pip install 'istvt[{name}]'" in message
    assert "--tracker is 'comet'; expected one of tensorboard, wandb, mlflow, none" in refused(
        capsys, [*arguments[:2], "--tracker=comet"]
    )


def test_a_tracker_that_does_not_open_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    with pytest.raises(InputError, match=r"--tracker mlflow: cannot be opened \(.*nonsense"):
        open_tracker("mlflow", tmp_path, {}, 0)
    assert open_tracker("none", tmp_path, {}, 0) is None


def test_a_tracker_that_fails_later_is_logged_once_and_training_goes_on(caplog):
    class Failing:
        calls = 0

        def log(self, values, step, axis):
            self.calls += 1
            raise ConnectionError("the server is gone")

        def close(self, failed):
            raise ConnectionError("the server is gone")

    failing = Failing()
    lenient = Lenient("mlflow", failing)
    for step in range(3):
        lenient.log({"loss": 1.0}, step, "step")
    lenient.close(failed=False)
    assert failing.calls == 1
    [record] = caplog.records
    assert record.getMessage() == "mlflow takes no more of this run (the server is gone); training goes on"
