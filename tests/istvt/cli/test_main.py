"""The command line as a whole: each mistake, a full disk and too little memory are one sentence and an exit status."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import refused

from dataloading.errors import writing
from istvt.cli import doctor
from istvt.cli.main import main


def test_a_path_with_square_brackets_is_printed_as_it_is(synthetic_set, tmp_path, capsys, train_arguments):
    """They were taken for markup: a path was printed without its [bold], and [/red] was a traceback."""
    place = tmp_path / "x [bold] y[/red]z"
    root, run, why = place / "set", place / "run", place / "why"
    shutil.copytree(synthetic_set, root)
    video = sorted((root / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    train = train_arguments(root, run, "--training.epochs=1")
    commands = [
        (["synthesize", str(root), "--identities=8", "--frames=10", "--size=48", "--workers=1"], f"{root}: "),
        (train, f"validation videos of {root}, "),
        (train, f"{run} has 1 finished epoch"),
        (train, f": {run}/best.safetensors"),
        (["evaluate", f"--checkpoint={run}", f"--data.root={root}", "--bootstrap=9"], f"report: {run}/evaluation/rep"),
        (["predict", str(video), f"--checkpoint={run}"], str(video)),
        (["explain", str(video), f"--checkpoint={run}", f"--out={why}", "--clips=1"], f"open {why}/explanation.html"),
    ]
    for arguments, message in commands:
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert "".join(message.split()) in "".join((printed.out + printed.err).split())


def test_codes_in_a_path_do_not_reach_the_terminal(tmp_path, capsys):
    """ESC was printed as it is: a file name could clear the screen, or color a verdict."""
    (tmp_path / "best.safetensors").touch()
    video = tmp_path / "a\x1b[2J\x07\u202eb.mp4"
    assert main(["predict", str(video), f"--checkpoint={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert r"a\x1b[2J\x07\u202eb.mp4 does not exist" in "".join(printed.splitlines())
    assert "\x1b[2J" not in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--data.root=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["prepare", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["evaluate", "--bootstrap=0"], "--bootstrap is 0; expected at least 1"),
        (["evaluate", "--data.root=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["predict", "a.mp4", "--json=/nowhere/scores.json"], "there is no directory /nowhere; expected a file in one"),
        (["predict", "a.mp4", "--checkpoint=/nowhere/run"], "checkpoint /nowhere/run: no such file"),
        (["explain", "a.mp4", "--checkpoint=/nowhere/run"], "checkpoint /nowhere/run: no such file"),
        (["train", "--training.warmup_epochs=30"], "training.warmup_epochs is 30 and training.epochs 20"),
        (["explain", "a.mp4", "--clips=0"], "clips is 0; expected 1 or more"),
        (["dataset", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["model", "--preset", "huge"], "preset is 'huge'; expected one of seed, published, small"),
        (["model", "--model.dim=15"], "model.dim is 15"),
        (["train", "--training.epochs=0"], "training.epochs is 0"),
        (["train", "--training.seed=-1"], "training.seed is -1; expected 0 or more"),
        (["train", "--device=tpu9"], "device is 'tpu9'"),
        (["predict", "a.mp4", "--device=meta"], "device is 'meta'; expected auto, cpu, cuda or cuda:N"),
        (["synthesize", "/tmp/never-made", "--identities=3"], "identities"),
        (["model", "--preset", "seed", "--backbone-weights", "/nowhere.pth"], "/nowhere.pth: no such file"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(capsys, arguments, says):
    assert says in refused(capsys, arguments)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "explain"])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    trained_run, synthetic_set, tmp_path, capsys, monkeypatch, train_arguments, command
):
    """What was computed for hours used to be lost with a traceback when it was to be written."""
    from istvt.evaluation import evaluate as evaluation
    from istvt.explain_video import video
    from istvt.inference import predict as prediction
    from istvt.training import trainer as training

    for module, work in (
        (training.Trainer, "train_epoch"),
        (evaluation, "score_by_video"),
        (prediction, "score_people"),
        (video, "score_people"),
    ):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "run"
    [clip, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    arguments = {
        "train": train_arguments(synthetic_set, place),
        "evaluate": ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={place}"],
        "predict": ["predict", str(clip), f"--checkpoint={trained_run}", "--no-detect", f"--json={place}/scores.json"],
        "explain": ["explain", str(clip), f"--checkpoint={trained_run}", "--no-detect", f"--out={place}"],
    }[command]
    sentence = f"{place} cannot be created (Not a directory); expected a writable directory"
    if command == "predict":  # it makes no directory: for a file that is named wrongly, one in / may be the result
        sentence = f"there is no directory {place}; expected a file in one"
    assert sentence in refused(capsys, arguments)


def test_a_full_disk_is_one_sentence_and_a_fault_of_the_program_is_not(capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_while_writing(*_):
        with writing(Path("scores.csv")):
            full()

    def broken(*_):
        raise OSError("a fault")

    for run in (full, broken):
        monkeypatch.setattr(doctor, "run", run)
        if run is full:
            assert "No space left on device" in refused(capsys, ["doctor"])
            monkeypatch.setattr(doctor, "run", full_while_writing)
            assert "scores.csv: does not fit on the disk (No space left on device)" in refused(capsys, ["doctor"])
    with pytest.raises(OSError, match="a fault"):
        main(["doctor"])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nGPU 0 has ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_is_one_sentence_that_says_what_needs_less(error, capsys, monkeypatch):
    def run(*_):
        raise error

    monkeypatch.setattr(doctor, "run", run)
    message = refused(capsys, ["doctor"])
    assert message.count("not enough memory (") == 1
    assert "GPU 0 has" not in message
    assert "a smaller --batch-size needs less" in message


@pytest.mark.parametrize("command", ["explain", "predict"])
def test_a_file_name_of_other_bytes_than_text_is_one_sentence_that_shows_them(tmp_path, capsys, command):
    """It was a sentence of Python's codec."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    Path(name).write_bytes(b"")
    assert f"{tmp_path}/caf\\xe9.mp4: is not UTF-8; expected a name in UTF-8" in refused(capsys, [command, name])
