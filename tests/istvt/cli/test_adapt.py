"""`istvt adapt`: what a run of it leaves, that the old run stays, stops and goes on, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refused
from run_directory import losses, tensors_of

from istvt.cli.main import main
from istvt.comparison.adaptation.adapt import _known_sets, adapt
from istvt.config import DataSettings, TrainingSettings
from istvt.model.checkpoint import load_model, read_info, save_model
from istvt.report.hub import model_card
from istvt.training.step import TrainingStep

TRAINING = TrainingSettings(epochs=2, batch_size=8, execution="eager", log_steps=1, tracker="none")


def arguments(run: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        "adapt", f"--from={run}", "--data", str(data), f"--output={output}", "--data.manipulations=[flicker]",
        "--data.evaluation_clips=1", "--training.epochs=2", "--training.batch_size=8", "--training.log_steps=1",
        "--training.tracker=none", "--bootstrap=50", *more,
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def old_run(trained_run, tmp_path_factory) -> Path:
    """A run, and nothing beside it."""
    return Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("old") / "run"))


@pytest.fixture(scope="module")
def adapted(old_run, synthetic_set, tmp_path_factory):
    """The new run, what its command printed is on stdout; the files of the old run before it."""
    output, before = tmp_path_factory.mktemp("adapted") / "run", contents(old_run)
    assert main(arguments(old_run, synthetic_set, output)) == 0
    return output, before


def test_an_adapted_run_reports_old_and_new_before_and_after_and_the_old_run_stays(
    adapted, old_run, synthetic_set, capsys, monkeypatch
):
    output, before = adapted
    assert contents(old_run) == before
    info = read_info(output)
    assert info.settings["adaptation"]["checksum"] == read_info(old_run).checksum
    assert info.settings["adaptation"]["old"][0]["root"] == str(synthetic_set)
    assert info.synthetic and info.calibration is not None
    changed = [name for name, value in load_model(old_run)[0].state_dict().items() if not torch.equal(
        value, load_model(output)[0].state_dict()[name])]  # fmt: skip
    assert "head.weight" in changed

    found = json.loads((output / "adaptation.json").read_text())
    assert [(row["name"], row["real"], row["fake"]) for row in found["changes"]] == [("new", 2, 2), ("old", 2, 6)]
    for row in found["changes"]:
        for metric in ("auc", "accuracy"):
            assert 0 <= row[f"{metric}_before"]["value"] <= 1
            assert row[f"{metric}_after"]["low"] is not None
            change = row[f"{metric}_after"]["value"] - row[f"{metric}_before"]["value"]
            assert row[f"{metric}_change"]["value"] == pytest.approx(change)
        evaluated = json.loads((output / "evaluations" / f"after-{row['name']}" / "evaluation.json").read_text())
        assert evaluated["videos"]["auc"]["value"] == row["auc_after"]["value"]
    page = (output / "adaptation.html").read_text().replace("<wbr>", "")
    assert "AUC, old set" in page and "What was learned, and what was forgotten" in page
    text = (output / "adaptation.md").read_text()
    assert "| AUC, new set |" in text
    assert "A blind guess has an AUC of 0.5, and calling every video what most are an accuracy of 0." in text

    monkeypatch.setattr(TrainingStep, "__call__", None)  # what is done is not done again
    assert main(arguments(old_run, synthetic_set, output)) == 0
    text = capsys.readouterr().out
    assert "2 finished epochs; it is complete" in text
    assert "50% of the training clips were of the old sets" in text


def test_stopped_after_some_steps_an_adaptation_goes_on_to_the_same_weights(
    adapted, old_run, synthetic_set, tmp_path, monkeypatch
):
    """From Python, in the end; the command has made the other one."""
    step, made = TrainingStep.__call__, []

    def stop(self, *given):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(step(self, *given))

    data = DataSettings(synthetic_set, manipulations=["flicker"], evaluation_clips=1)
    how = {"training": TRAINING, "bootstrap": 50}
    monkeypatch.setattr(TrainingStep, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        adapt(old_run, data, tmp_path / "run", **how | {"training": replace(TRAINING, checkpoint_steps=1)})
    monkeypatch.undo()
    result = adapt(old_run, data, tmp_path / "run", **how)
    assert "AUC, old set" in result.markdown
    expected, actual = tensors_of(adapted[0]), tensors_of(tmp_path / "run")
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert losses(adapted[0]) == losses(tmp_path / "run")


def test_a_plain_continuation_reads_nothing_of_the_old_set_in_training(old_run, synthetic_set, tmp_path, capsys):
    plain = ["--adaptation.rehearsal=0", "--adaptation.distillation=0", "--training.epochs=1"]
    assert main(arguments(old_run, synthetic_set, tmp_path / "run", *plain)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "best.safetensors, without rehearsal" in text
    assert "A plain continuation: no clip of the old sets, no distillation." in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--from=nowhere"], "checkpoint nowhere: no such file; expected a training run, or its best.safetensors"),
        (["--model.architecture=xception"], "is of istvt; expected xception, as --model.architecture says"),
        (["--keep=nowhere"], "nowhere does not exist; expected the directory of a data set"),
        (["--data=nowhere"], "nowhere does not exist; expected the directory of a data set"),
        (["--data.manipulations=[deepfakes]"], "data.manipulations names deepfakes, which"),
        (
            ["--data.manipulations=[]"],
            "the new data set, has only real videos in its train split; expected both classes",
        ),
        (["--keep.manipulations=[blend]"], "--keep.manipulations is given without --keep DIR, whose videos it selects"),
        (["--adaptation.rehearsal=0"], "adaptation.distillation is 1 and adaptation.rehearsal 0"),
        (["--adaptation.rehearsal=1"], "adaptation.rehearsal is 1.0; expected 0.95 or less"),
    ],
)
def test_what_cannot_be_adapted_is_one_sentence_before_anything_is_written(
    old_run, synthetic_set, tmp_path, capsys, more, says
):
    assert says in refused(capsys, arguments(old_run, synthetic_set, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_neither_the_old_run_nor_another_one_is_written_into(
    adapted, trained_run, old_run, synthetic_set, tmp_path, capsys
):
    before = contents(old_run)
    for place in (old_run, old_run / "adapted"):
        message = refused(capsys, arguments(old_run, synthetic_set, place))
        assert "is in the run that is adapted, which stays as it is; choose another --output" in message
    assert contents(old_run) == before

    other = shutil.copytree(trained_run, tmp_path / "other")
    message = refused(capsys, arguments(old_run, synthetic_set, other))
    assert (
        "holds a run that was trained from its beginning, and this is an adapted run; choose another output" in message
    )
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(trained_run / "best.safetensors", lone)
    message = refused(capsys, arguments(old_run, synthetic_set, lone))
    assert f"{lone} holds a model that this command has not written; choose another --output" in message
    message = refused(capsys, arguments(old_run, synthetic_set, adapted[0], "--adaptation.rehearsal=0.25"))
    assert "adaptation.rehearsal 0.5, now 0.25" in message


def test_a_run_whose_data_set_is_gone_asks_for_it(old_run, synthetic_set, tmp_path, capsys):
    run = shutil.copytree(old_run, tmp_path / "moved")
    model, info = load_model(run)
    info.settings["data"]["root"] = "gone"
    save_model(run / "best.safetensors", model, info)
    message = refused(capsys, arguments(run, synthetic_set, tmp_path / "run"))
    assert message.endswith("expected it by --keep")
    assert "gone, which" in message
    info.settings.clear()
    save_model(run / "best.safetensors", model, info)
    assert "names no data set that it learned; expected one by --keep" in refused(
        capsys, arguments(run, synthetic_set, tmp_path / "run")
    )


def test_an_adapted_run_that_is_adapted_again_keeps_all_that_it_learned(adapted, synthetic_set):
    info = read_info(adapted[0])
    sets = _known_sets(adapted[0] / "best.safetensors", info)
    assert [(each.root, each.manipulations) for each in sets] == [(synthetic_set, ["flicker"]), (synthetic_set, None)]
    assert f"Learned earlier, and kept by rehearsal: root {synthetic_set.name}; layout auto" in model_card(adapted[0])


def test_an_adapted_run_is_calibrated_by_the_videos_of_all_sets_that_it_learned(adapted, tmp_path, capsys):
    # Those of the new set alone were read, which gave another temperature than training had.
    run = shutil.copytree(adapted[0], tmp_path / "run")
    of_training = read_info(run).calibration
    assert main(["calibrate", str(run), "--replace"]) == 0
    assert "of 2 real and 6 fake videos of the val split" in " ".join(capsys.readouterr().out.split())
    found = read_info(run).calibration
    assert found.temperature == pytest.approx(of_training.temperature, rel=1e-3)
    assert sorted(found.fake) == pytest.approx(sorted(of_training.fake), abs=1e-5)
