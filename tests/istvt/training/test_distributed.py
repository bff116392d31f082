"""Two torchrun processes on CPU with gloo: the same steps, the same result after a kill, on any number of processes."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from run_directory import losses, tensors_of, whole_checkpoints

from dataloading.clips.sampling import evaluation_clips
from dataloading.layouts import open_dataset
from istvt.cli.main import main
from istvt.config import DataSettings
from istvt.evaluation.metrics import epoch_metrics
from istvt.inference.score import score_clips
from istvt.model.checkpoint import load_model
from istvt.training import trainer as training

ROOT = Path(__file__).parents[3]
EPOCHS = 2
CLIPS = 16  # of an epoch: as many of the four real videos as of the eight fakes
STEPS = 4  # of an epoch, two batches of one clip a step in each of two processes
LIMIT = 300  # seconds; a machine under load starts three Pythons slowly


def command(root: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", f"--data.root={root}", f"--output={output}", "--data.evaluation_clips=2", "--device=cpu",
        f"--training.epochs={EPOCHS}", "--training.batch_size=1", "--training.log_steps=1",
        "--data.manipulations=[blend,flicker]", "--training.accumulation=2", "--training.augment=false",
        "--model.image_size=40", "--model.dim=16", "--model.heads=2", "--model.mlp_dim=24",
        "--model.backbone_dims=[4,4,8,8]", "--training.ema_decay=0.9", *more,
    ]  # fmt: skip


def torchrun(arguments: list[str], processes: int = 2, start: Sequence[str] = ("-m", "istvt")) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*launcher, *start, *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    """Return the output of the processes, which must exit with status 0."""
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        kill(process)
    assert process.returncode == 0, output
    return " ".join(output.split())


def refused(process: subprocess.Popen) -> tuple[list[str], str]:
    """Return the error sentences of istvt and the whole output of processes that must fail."""
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        kill(process)
    assert process.returncode != 0, output
    return [line for line in output.splitlines() if line.startswith("istvt: ")], output


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the launcher and to every process that it started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    for pid in [process.pid, *pids]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@pytest.fixture(scope="module")
def damaged_set(synthetic_set, tmp_path_factory) -> tuple[Path, str]:
    """The set with one training video cut off after it was prepared, and that video's name."""
    root = tmp_path_factory.mktemp("damaged") / "videos"
    shutil.copytree(synthetic_set, root)
    victim = sorted((root / "manipulated_sequences/blend/c23/videos").glob("*.mp4"))[0]
    victim.write_bytes(victim.read_bytes()[:900])
    return root, victim.stem


@pytest.fixture(scope="module")
def straight(damaged_set, tmp_path_factory) -> tuple[Path, str]:
    """An uninterrupted run of two processes, and its output."""
    output = tmp_path_factory.mktemp("straight") / "run"
    start = [str(Path(__file__).with_name("train_and_check_teardown.py"))]
    return output, finished(torchrun(command(damaged_set[0], output), start=start))


@pytest.fixture(scope="module")
def killed(damaged_set, tmp_path_factory) -> Path:
    """A run of two processes, killed by SIGKILL while they wrote the checkpoint of step 3."""
    output = tmp_path_factory.mktemp("killed") / "run"
    process = torchrun(command(damaged_set[0], output, "--training.checkpoint_steps=1"))
    try:
        third, deadline = output / "checkpoints" / "epoch-0000-step-00000003", time.monotonic() + LIMIT
        while not (third.with_suffix(".partial").exists() or third.exists()):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        kill(process)
    return output


def test_only_the_first_process_prints_and_says_what_is_used(straight):
    _, printed = straight
    assert "2 processes (ddp), each on CPU" in printed
    assert "1 clips x 2 batches x 2 processes" in printed
    for once in ("attention by", "epoch 1/2", "best epoch"):
        assert printed.count(once) == 1


def test_two_torchruns_as_on_two_nodes_learn_what_two_processes_of_one_learn_bit_for_bit(
    straight, damaged_set, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}", "--rdzv-id=two-nodes", "-m", "istvt",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*launcher, *command(damaged_set[0], tmp_path / "run")],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [finished(node) for node in nodes]
    assert sum("2 processes (ddp), each on CPU" in text for text in printed) == 1, "process 0 alone prints"
    assert losses(tmp_path / "run") == losses(straight[0])
    expected, actual = tensors_of(straight[0]), tensors_of(tmp_path / "run")
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_process_whose_batch_is_undecodable_takes_part_and_the_video_is_named(straight, damaged_set):
    """With one clip a batch the damaged video leaves one process without a batch: the other must not hang."""
    run, printed = straight
    assert damaged_set[1] in printed.split("1 video skipped:")[1]
    assert sorted(losses(run)) == list(range(1, EPOCHS * STEPS + 1))


def test_a_mistake_of_all_processes_is_said_once_and_torchrun_names_it_as_the_cause():
    sentence = "/nowhere does not exist; expected the directory of a data set."
    message, output = refused(torchrun(["train", "--data.root=/nowhere", "--device=cpu"]))
    assert message == [f"istvt: {sentence}"]
    assert f"InputError: {sentence}" in output.split("Root Cause")[1]


@pytest.mark.parametrize("where", ["before they meet", "in a collective"])
def test_a_mistake_that_another_process_meets_alone_names_it_and_the_first_adds_no_traceback(
    synthetic_set, tmp_path, where
):
    """The first process is in the middle of a collective when its peer is gone."""
    wrong, sentence = "/nowhere", "/nowhere does not exist; expected the directory of a data set."
    if where == "in a collective":
        wrong = shutil.copytree(synthetic_set, tmp_path / "unprepared")
        (wrong / "face_index.jsonl").unlink()
        sentence = f"There is no face index {wrong}/face_index.jsonl: run `istvt prepare {wrong}` first."
    root = f"if [ $RANK = 1 ]; then root={wrong}; else root={synthetic_set}; fi"
    script = f'{root}; exec {sys.executable} -m istvt "$@" --data.root=$root'
    arguments = command(synthetic_set, tmp_path / "run")
    message, output = refused(torchrun(arguments, start=("--no-python", "sh", "-c", script, "sh")))
    assert message == [f"istvt: process 1: {sentence}"]
    assert "[rank0]: Traceback" not in output
    assert "Connection closed" not in output


def test_validation_is_shared_out_and_gives_the_metrics_of_one_process(straight, damaged_set):
    model, info = load_model(straight[0])
    data = DataSettings(root=damaged_set[0], manipulations=["blend", "flicker"], evaluation_clips=2)
    dataset, index = open_dataset(**data.source)
    clips = evaluation_clips(dataset.split_videos("val"), index, model.config.frames, data.evaluation_clips)
    alone = epoch_metrics(score_clips(model, clips).videos())
    for name, value in alone.items():
        assert info.metrics[f"val_{name}"] == pytest.approx(value, abs=1e-5), name


def test_killed_while_writing_a_checkpoint_a_run_goes_on_to_the_same_end_bit_for_bit(
    straight, killed, damaged_set, tmp_path
):
    assert whole_checkpoints(killed), "the kill came before the first checkpoint"
    assert int(whole_checkpoints(killed)[-1].name[-8:]) in (2, 3, 4)
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    printed = finished(torchrun(command(damaged_set[0], run)))
    assert "has 0 finished epochs and" in printed
    expected, actual = tensors_of(straight[0]), tensors_of(run)
    assert expected.keys() == actual.keys()
    assert {"random.cpu.0", "random.cpu.1"} <= expected.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert losses(run) == losses(straight[0])
    assert not list((run / "checkpoints").glob("*.partial"))


def test_a_run_of_two_processes_goes_on_in_one_where_it_was_in_the_data(killed, damaged_set, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    [*_, newest] = whole_checkpoints(run)
    steps = int(newest.name[-8:])
    assert main(command(damaged_set[0], run)) == 0
    assert "written by 2 processes" in " ".join(capsys.readouterr().out.split())
    # Four clips a step until the kill, two a step after it; every clip of the epoch once.
    epochs = [row["epoch"] for row in csv.DictReader((run / "steps.csv").open())]
    assert epochs.count("1") == steps + (CLIPS - 4 * steps) // 2
    assert epochs.count("2") == CLIPS // 2


def test_a_run_of_one_process_goes_on_in_two_with_the_rest_of_the_data_and_learns_what_one_would(
    damaged_set, tmp_path, monkeypatch
):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Trainer, "validate", die)
    assert main(command(damaged_set[0], tmp_path / "one", "--training.checkpoint_steps=4")) == 130
    monkeypatch.undo()
    for newer in whole_checkpoints(tmp_path / "one")[1:]:
        shutil.rmtree(newer)
    [checkpoint] = whole_checkpoints(tmp_path / "one")
    assert (checkpoint.name[-8:], json.loads((checkpoint / "run.json").read_text())["clips"]) == ("00000004", 8)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert "written by 1 process)" in finished(torchrun(command(damaged_set[0], tmp_path / "two")))
    # What two processes use in a step, one uses with twice the accumulation: the rest of the first epoch is two such.
    record = checkpoint / "run.json"
    record.write_text(record.read_text().replace('"accumulation": 2', '"accumulation": 4'))
    assert main(command(damaged_set[0], tmp_path / "one", "--training.accumulation=4")) == 0
    expected, actual = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(actual) == sorted(expected) == list(range(1, 4 + 2 + STEPS + 1))
    for step, loss in expected.items():
        assert actual[step] == pytest.approx(loss, abs=1e-4), step


def test_two_processes_learn_what_one_learns_from_the_same_clips(straight, damaged_set, tmp_path):
    """Batches of one in both: what two processes add up in a step, one adds up from four batches in a row."""
    assert main(command(damaged_set[0], tmp_path, "--training.accumulation=4")) == 0
    alone = losses(tmp_path)
    assert losses(straight[0]).keys() == alone.keys()
    for step, loss in losses(straight[0]).items():
        assert loss == pytest.approx(alone[step], abs=1e-4), step


def test_a_ddp_run_goes_on_with_fsdp_to_the_same_losses_and_one_process_reads_its_shards(
    straight, killed, damaged_set, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    printed = finished(torchrun(command(damaged_set[0], run, "--training.parallel=fsdp")))
    assert "2 processes (fsdp)" in printed
    expected, actual = losses(straight[0]), losses(run)
    assert actual.keys() == expected.keys()
    for step, loss in expected.items():
        assert actual[step] == pytest.approx(loss, abs=2e-3), step
    # Each process wrote its own half of every tensor; together they are the whole.
    written = tensors_of(run)
    for name, tensor in tensors_of(straight[0]).items():
        assert written[name].shape == tensor.shape, name
        if name.startswith("average."):
            torch.testing.assert_close(written[name], tensor, rtol=0, atol=2e-3, msg=name)
    assert len(list(whole_checkpoints(run)[-1].glob("*.distcp"))) == 2
    assert main(command(damaged_set[0], run)) == 0
    assert "2 finished epochs" in " ".join(capsys.readouterr().out.split())
    model, info = load_model(run)
    assert info.settings["training"]["parallel"] == "fsdp"
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
