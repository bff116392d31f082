"""A training run: output, files, and resuming from any moment with the same result."""

import csv
import errno
import functools
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from run_directory import losses, tensors_of
from torch.distributed import checkpoint as dcp
from video_fixtures import video_of, write_numbered

from dataloading.clips.sampling import TrainingClips
from dataloading.errors import InputError
from dataloading.video import decoder as decoder_choice
from istvt.cli.console import logging_to
from istvt.config import DataSettings, ISTVTConfig, TrainingSettings
from istvt.model.checkpoint import load_model
from istvt.model.istvt import ISTVT
from istvt.training import checkpoint
from istvt.training import trainer as training
from istvt.training.compile import accelerate
from istvt.training.distributed import Processes
from istvt.training.step import TrainingStep

CONFIG = ISTVTConfig(image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))
STEPS = 6  # of an epoch: 24 clips by 4


@pytest.mark.parametrize(
    "used, world_size, begun", [(0, 3, 0), (8, 4, 2), (8, 3, 2), (10, 3, 4), (10, 4, 3), (10, 16, 1)]
)
def test_an_epoch_that_some_processes_have_finished_is_finished_for_any_other_number(used, world_size, begun):
    """Killed in the validation and started again with fewer processes, a run made a step on a clip it had used."""
    sampler = TrainingClips.__new__(TrainingClips)
    sampler._clips_per_class, sampler.world_size = 5, world_size
    run = SimpleNamespace(
        sampler=sampler, state=SimpleNamespace(clips=used), processes=SimpleNamespace(world_size=world_size)
    )
    assert training.Trainer.clips_used.fget(run) == begun


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


def train(root: Path, output: Path, console: Console | None = None, **settings) -> training.TrainingResult:
    settings = {"epochs": 2, "batch_size": 4, "log_steps": 1, **settings}
    data = DataSettings(root=root, evaluation_clips=1)
    return training.train(data, CONFIG, TrainingSettings(**settings), output, console=console or Console(quiet=True))


def die_after(monkeypatch, steps: int) -> None:
    """End the process right after a number of steps."""
    step, made = TrainingStep.__call__, []

    def call(self, *arguments):
        if len(made) == steps:
            raise Killed
        made.append(step(self, *arguments))

    monkeypatch.setattr(TrainingStep, "__call__", call)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def shown_steps(run: Path) -> list[tuple[int, float]]:
    """Return the steps in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("step/loss")]


@pytest.fixture(scope="module")
def straight(synthetic_set, tmp_path_factory) -> Path:
    """An uninterrupted run of two epochs."""
    output = tmp_path_factory.mktemp("straight")
    train(synthetic_set, output)
    return output


@pytest.mark.parametrize("steps", [1, 5, 6, 9])
def test_killed_after_any_step_a_run_goes_on_to_the_same_end_bit_for_bit(
    straight, synthetic_set, tmp_path, monkeypatch, steps
):
    die_after(monkeypatch, steps)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path, checkpoint_steps=2)
    monkeypatch.undo()
    made = []
    step = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", lambda *arguments: made.append(step(*arguments)))
    train(synthetic_set, tmp_path)
    assert len(made) == 2 * STEPS - steps // 2 * 2  # only the steps since the last checkpoint are made again
    expected, actual = tensors_of(straight), tensors_of(tmp_path)
    assert expected.keys() == actual.keys()
    assert {name.split(".")[0] for name in expected} == {"model", "optimizer", "loss_scale", "progress", "random"}
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert losses(straight) == losses(tmp_path)
    assert shown_steps(tmp_path) == shown_steps(straight)  # those made twice were shown twice
    weights = [load_model(run)[0].state_dict() for run in (straight, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_average_of_the_weights_is_what_is_validated_and_kept_and_it_goes_on_bit_for_bit(
    straight, synthetic_set, tmp_path, monkeypatch
):
    train(synthetic_set, tmp_path / "whole", ema_decay=0.9)
    die_after(monkeypatch, 9)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path / "killed", ema_decay=0.9, checkpoint_steps=2)
    monkeypatch.undo()
    result = train(synthetic_set, tmp_path / "killed", ema_decay=0.9)
    expected, actual = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "killed")
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert expected["average.updates"] == 2 * STEPS
    # Steps are those of a run without it; what is validated and written is the average.
    plain, (model, info) = tensors_of(straight), load_model(tmp_path / "whole")
    assert all(torch.equal(plain[name], expected[name]) for name in plain)
    assert info.settings["training"]["ema_decay"] == 0.9
    if result.best_epoch == 2:  # the newest checkpoint is of this epoch
        assert all(torch.equal(value, expected[f"average.{name}"]) for name, value in model.state_dict().items())
    assert not torch.equal(load_model(straight)[0].head.weight, model.head.weight)
    with pytest.raises(InputError, match=r"training\.ema_decay 0\.9, now 0\.0"):
        train(synthetic_set, tmp_path / "whole")


def test_killed_in_validation_a_run_makes_no_step_again(straight, synthetic_set, tmp_path, monkeypatch):
    """Without checkpoints between, all steps of the epoch used to be lost."""

    def die(*_):
        raise Killed

    monkeypatch.setattr(training, "validate", die)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path)
    monkeypatch.undo()
    made = []
    step = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", lambda *arguments: made.append(step(*arguments)))
    train(synthetic_set, tmp_path)
    assert len(made) == STEPS
    expected, actual = tensors_of(straight), tensors_of(tmp_path)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert losses(straight) == losses(tmp_path)


def test_a_checkpoint_that_was_being_written_leaves_the_one_before(straight, synthetic_set, tmp_path, monkeypatch):
    save = dcp.save

    def die_in_the_middle(tensors, **options):
        save(tensors, **options)
        if "00000004" in str(options["storage_writer"].path):
            raise Killed

    monkeypatch.setattr(checkpoint.dcp, "save", die_in_the_middle)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path, checkpoint_steps=2)
    monkeypatch.undo()
    assert checkpoints(tmp_path) == ["epoch-0000-step-00000002", "epoch-0000-step-00000004.partial"]
    train(synthetic_set, tmp_path)
    assert not [name for name in checkpoints(tmp_path) if name.endswith(".partial")]
    expected, actual = tensors_of(straight), tensors_of(tmp_path)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_checkpoint_that_was_being_deleted_does_not_look_like_a_whole_one(synthetic_set, tmp_path, monkeypatch):
    """Outdated ones were deleted under their own names, file by file."""
    delete = shutil.rmtree

    def die_in_the_middle(path):
        delete(path) if path.name.endswith("00000002.partial") else next(path.glob("*.distcp")).unlink()
        raise Killed

    monkeypatch.setattr(checkpoint.shutil, "rmtree", die_in_the_middle)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path, checkpoint_steps=2)
    monkeypatch.undo()
    whole = [name for name in checkpoints(tmp_path) if not name.endswith(".partial")]
    assert whole == ["epoch-0000-step-00000004", "epoch-0000-step-00000006"]
    assert all(list((tmp_path / "checkpoints" / name).glob("*.distcp")) for name in whole)
    train(synthetic_set, tmp_path)
    assert checkpoints(tmp_path) == ["epoch-0001-step-00000012", "epoch-0002-step-00000012"]


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_one_sentence(synthetic_set, tmp_path, monkeypatch):
    save = dcp.save

    def on_a_full_disk(tensors, **options):
        def write_data(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(options["storage_writer"], "write_data", write_data)
        save(tensors, **options)

    monkeypatch.setattr(checkpoint.dcp, "save", on_a_full_disk)
    with pytest.raises(InputError, match=r"epoch-0000-step-00000006: cannot be written \(OSError: .*No space left"):
        train(synthetic_set, tmp_path)


@pytest.mark.parametrize(("doing", "work"), [("writing", "write_data"), ("reading", "read_data")])
def test_a_stop_within_a_checkpoint_is_a_stop(straight, synthetic_set, tmp_path, monkeypatch, doing, work):
    """It ended in a traceback while one was written; while one was read it advised to delete a good one."""

    class Stop(KeyboardInterrupt):
        """As SIGTERM is."""

    def stop(*_):
        raise Stop

    run = shutil.copytree(straight, tmp_path / "run") if doing == "reading" else tmp_path / "run"
    place = dcp.FileSystemWriter if doing == "writing" else dcp.FileSystemReader
    monkeypatch.setattr(place, work, stop)
    with pytest.raises(Stop):
        train(synthetic_set, run, epochs=2)


def test_only_the_newest_checkpoints_are_kept(straight):
    assert checkpoints(straight) == ["epoch-0001-step-00000012", "epoch-0002-step-00000012"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(straight, synthetic_set, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for path in (run / "checkpoints" / "epoch-0002-step-00000012").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"epoch-0002-step-00000012: cannot be read .* delete it"):
        train(synthetic_set, run)
    shutil.rmtree(run / "checkpoints" / "epoch-0002-step-00000012")
    train(synthetic_set, run)
    expected, actual = tensors_of(straight), tensors_of(run)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_run_may_go_on_with_settings_that_do_not_decide_what_is_learned(straight, synthetic_set, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    train(synthetic_set, run, checkpoint_steps=3, log_steps=7, activation_checkpointing=True, execution="compile")
    with pytest.raises(InputError, match=r"training.accumulation 1, now 2"):
        train(synthetic_set, run, accumulation=2)


def test_a_checkpoint_is_due_by_the_clock_too(synthetic_set, tmp_path, monkeypatch):
    die_after(monkeypatch, 3)
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path, checkpoint_minutes=1e-6)
    assert checkpoints(tmp_path) == ["epoch-0000-step-00000002", "epoch-0000-step-00000003"]


@pytest.mark.parametrize(("in_second_share", "chosen"), [("h264", "dali"), ("mpeg4", "pyav")])
def test_all_processes_decode_alike_even_where_one_process_has_only_videos_that_dali_decodes(
    tmp_path, monkeypatch, in_second_share, chosen
):
    """The decoder used to be chosen by each process for its own clips, so that one run could mix two."""
    monkeypatch.setattr(decoder_choice, "has_nvdec", lambda: True)
    codecs = ["h264", in_second_share]
    videos = [video_of(write_numbered(tmp_path, f"{i}", codec, frames=8)) for i, codec in enumerate(codecs)]
    answers = {}

    class Process(Processes):
        def all_gather(self, value):
            answers[self.rank] = value
            return list(answers.values())

    device = torch.device("cuda")
    for rank in (1, 0):  # what the last one decides, it decides knowing what all others found
        decided = training._one_decoder("auto", videos, Process(rank, 2), device)
    assert answers == {0: "dali", 1: chosen}
    assert decided == chosen


def test_every_logged_step_is_in_csv_and_tensorboard(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = list(csv.DictReader((straight / "steps.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 2 * STEPS + 1))
    assert [row["epoch"] for row in rows] == ["1"] * STEPS + ["2"] * STEPS
    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    logged = [event.value for event in events.Scalars("step/loss")]
    assert logged == pytest.approx([float(row["loss"]) for row in rows])
    assert [event.step for event in events.Scalars("validation/auc")] == [1, 2]
    [first, _] = csv.DictReader((straight / "history.csv").open())
    assert float(first["train_loss"]) == pytest.approx(sum(float(row["loss"]) for row in rows[:STEPS]) / STEPS)


def test_a_line_that_was_being_written_is_dropped_from_the_csv(straight, synthetic_set, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    before = losses(run)
    with (run / "steps.csv").open("a") as file:
        file.write("abc,3\n13,3,0.5")
    train(synthetic_set, run)
    assert losses(run) == before


def test_a_run_says_what_it_uses_and_shows_a_live_line(synthetic_set, tmp_path):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, legacy_windows=False)
    how = {"epochs": 1, "precision": "bfloat16", "accumulation": 2, "activation_checkpointing": True}
    with logging_to(console):
        train(synthetic_set, tmp_path, console, **how)
    text = screen.getvalue()
    for part in ("M parameters", "G multiply-accumulates a clip", "CPU, ", "bfloat16, eager", "attention by", "sdpa"):
        assert part in text.replace("\x1b[1;36m", "").replace("\x1b[0m", ""), part
    assert "activation checkpointing" in text
    plain = "".join(text.split("\x1b["))
    for shown in ("epoch 1/1, step", "3/3", "loss ", "clips/s", "ETA"):
        assert shown in plain, shown


def test_options_that_have_no_effect_here_are_warned_of_and_those_that_cannot_work_refused(
    synthetic_set, tmp_path, caplog, capsys
):
    """A program that calls `train` gets records, and nothing on its console."""
    settings = TrainingSettings(epochs=1, batch_size=16, parallel="fsdp")
    config, data = replace(CONFIG, image_size=32), DataSettings(root=synthetic_set, evaluation_clips=1)
    training.train(data, config, settings, tmp_path)
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    fsdp, grid = (next(each for each in said if part in each[2]) for part in ("fsdp has no effect", "grid is only 2x2"))
    assert fsdp[:2] == grid[:2] == ("istvt.training", "WARNING")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(InputError, match=r"training.execution is cuda_graphs, which needs a GPU, .* device is cpu"):
        training.train(data, config, replace(settings, execution="cuda_graphs"), tmp_path / "run", device="cpu")


def test_a_run_does_not_go_on_with_boxes_of_another_kind(straight, synthetic_set, tmp_path):
    root, run = shutil.copytree(synthetic_set, tmp_path / "set"), shutil.copytree(straight, tmp_path / "run")
    for path in (run / "checkpoints").glob("*/run.json"):
        path.write_text(path.read_text().replace(str(synthetic_set), str(root)))
    train(root, run)
    index = root / "face_index.jsonl"
    index.write_text(index.read_text().replace('"detector": "none"', '"detector": "boxes file"'))
    with pytest.raises(InputError, match=r"a run on whole pictures, and the face index .* faces of a boxes file"):
        train(root, run)


def test_a_diverging_run_stops_with_one_sentence(synthetic_set, tmp_path):
    with pytest.raises(InputError, match=r"not finite in 1\d steps in a row: training has diverged; lower training"):
        train(synthetic_set, tmp_path, learning_rate=1e30, warmup_epochs=0, batch_size=1, gradient_clip=0)


def test_a_batch_that_no_memory_holds_is_one_sentence_that_says_what_to_lower(synthetic_set, tmp_path, monkeypatch):
    """It was a traceback of the allocator, on a processor a RuntimeError like any other."""
    sentence = r"training.batch_size is 4, which does not fit into the memory of cpu; expected a smaller one \("

    def failing_with(error: Exception | None, **settings) -> None:
        def step(*_):
            if error:
                raise error
            torch.empty(2**47)

        monkeypatch.setattr(TrainingStep, "__call__", step)
        train(synthetic_set, tmp_path, **settings)

    with pytest.raises(InputError, match=sentence + "a larger training.accumulation .* training.activation_check"):
        failing_with(None)  # but the allocator of the processor
    with pytest.raises(InputError, match=sentence + r"a larger training.accumulation gives a step as many clips\)$"):
        failing_with(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), activation_checkpointing=True
        )
    with pytest.raises(RuntimeError, match="must match the size"):
        failing_with(RuntimeError("The size of tensor a (3) must match the size of tensor b (2)"))


def test_a_compiled_and_recomputed_run_learns_what_an_eager_one_learns(straight, synthetic_set, tmp_path, monkeypatch):
    """Traced whole (`fullgraph`), with recomputation, run without code generation: the same losses."""
    monkeypatch.setattr(training, "accelerate", functools.partial(accelerate, backend="aot_eager"))
    die_after(monkeypatch, STEPS)  # the second epoch would run what the first has compiled
    with pytest.raises(Killed):
        train(synthetic_set, tmp_path, execution="compile", activation_checkpointing=True)
    found = losses(tmp_path)
    assert list(found) == list(range(1, STEPS + 1))
    for step, loss in found.items():
        assert loss == pytest.approx(losses(straight)[step], abs=1e-4), step


def test_a_block_compiles_to_code_without_a_break():
    from istvt.model.block import Block

    torch.manual_seed(0)
    block, tokens = Block(CONFIG, 0).eval(), torch.randn(2, 7, 10, 16)
    with torch.no_grad():
        expected = block(tokens)
        block.compile(fullgraph=True, dynamic=False)
        torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


def test_the_record_of_a_checkpoint_says_where_the_run_stands(straight):
    record = json.loads((straight / "checkpoints" / "epoch-0001-step-00000012" / "run.json").read_text())
    assert (record["epoch"], record["step"], record["clips"], record["world_size"]) == (1, 12, 24, 1)
    assert record["settings"]["training"]["batch_size"] == 4
    assert len(record["history"]) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epoch": "2"}, "epoch: '2'; expected a whole number"),
        ({"step": -1}, "step is -1; expected at least 0"),
        ({"history": [{"epoch": 1}]}, r"history\[0\].learning_rate: missing"),
        ({"pace": 3}, "pace: unknown field with the value 3"),
        ({"settings": None}, "settings: None; expected an object"),
    ],
)
def test_a_record_that_is_none_is_one_sentence_that_names_file_and_field(
    straight, synthetic_set, tmp_path, change, says
):
    run = shutil.copytree(straight, tmp_path / "run")
    [*_, newest] = sorted((run / "checkpoints").glob("*/run.json"))
    newest.write_text(json.dumps(json.loads(newest.read_text()) | change))
    with pytest.raises(InputError, match=rf"00000012/run.json: {says}.*; delete .* to use the one before it"):
        train(synthetic_set, run)


def test_the_attention_backend_is_chosen_on_the_device_that_trains(synthetic_set, tmp_path, monkeypatch):
    """Chosen while the weights were still on the CPU, `triton` was refused on a machine with a GPU."""
    calls, backends = [], []

    def watched(name: str):
        method = getattr(ISTVT, name)

        def call(self, *args, **options):
            calls.append(name)
            backends.append(args)
            return method(self, *args, **options)

        return call

    for name in ("to", "set_backend"):
        monkeypatch.setattr(ISTVT, name, watched(name))
    data, device = DataSettings(root=synthetic_set), torch.device("cpu")
    training.Trainer(data, CONFIG, TrainingSettings(), tmp_path, Processes(), device, Console(quiet=True))
    assert calls[calls.index("to") :][:2] == ["to", "set_backend"]
    assert set(backends[: calls.index("to")]) <= {(), ("auto",)}  # when the model is built
