"""`istvt evaluate`: the report and its files, replaced evaluations, measured explanations."""

import csv
import json
import shutil

import torch
from commands import refused

from istvt.cli.main import main
from istvt.config import DataSettings
from istvt.model.checkpoint import load_model, save_model
from istvt.report.evaluate_checkpoint import evaluate_checkpoint


def test_evaluation_writes_a_report_scores_and_json(trained_run, synthetic_set, tmp_path, capsys):
    arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    assert main([*arguments, "--bootstrap=100"]) == 0
    assert "AUC" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(metrics["manipulations"]) == {"blend", "both", "flicker"}
    assert metrics["videos"]["count"] == 8
    assert len(list(csv.DictReader((tmp_path / "scores.csv").open()))) == 8
    page = (tmp_path / "report.html").read_text()
    assert "says nothing about accuracy on real forgeries" in page
    assert f"<title>ISTVT on the synthetic set in {synthetic_set}, test split</title>" in page
    assert "data:image" in page  # frames of examples


def test_an_evaluation_says_when_boxes_are_of_another_kind_than_those_of_training(
    trained_run, synthetic_set, tmp_path, capsys
):
    root = shutil.copytree(synthetic_set, tmp_path / "videos")
    boxes = {"detector": "yuface", "boxes": {"frame": [0, 9], "x": [24, 24], "y": [24, 24], "size": [24, 24]}}
    lines = [json.loads(line) | boxes for line in (root / "face_index.jsonl").read_text().splitlines()]
    (root / "face_index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--output={tmp_path}/out"]
    assert main([*command, "--bootstrap=20"]) == 0
    message = "trained on whole pictures, and here it is shown faces found by yuface: another part of the picture"
    assert message in capsys.readouterr().out
    assert message in (tmp_path / "out" / "report.html").read_text()


def test_an_evaluation_does_not_replace_one_of_other_videos_unasked(trained_run, synthetic_set, tmp_path, capsys):
    """Every evaluation of a run went to one folder, and the last one was all that was left."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=20"]
    assert main([*command, "--data.evaluation_clips=1"]) == 0
    assert main([*command, "--split=val", "--data.evaluation_clips=1"]) == 0
    of = {name: json.loads((run / name / "evaluation.json").read_text()) for name in ("evaluation", "evaluation-val")}
    assert [metrics["evaluated"]["split"] for metrics in of.values()] == ["test", "val"]
    (run / "evaluation").rename(run / "other")
    (run / "evaluation-val").rename(run / "evaluation")
    held = f"holds an evaluation of {synthetic_set}, c23, val split; give this one an --output"
    assert held in refused(capsys, command)
    (run / "evaluation" / "explanations").mkdir()
    assert (
        "evaluation/explanations holds explanations that are not known to be of this model and these videos"
        in refused(capsys, [*command, f"--output={run}/evaluation"])
    )
    (run / "evaluation" / "explanations").rmdir()
    assert main([*command, f"--output={run}/evaluation", "--data.evaluation_clips=1"]) == 0
    assert "val split, which this one replaces" in capsys.readouterr().out


def test_an_evaluation_of_another_model_on_the_same_videos_is_not_replaced_without_a_word(
    trained_run, synthetic_set, tmp_path, capsys
):
    """It was, and the other model's explanations stayed beside the new report as if they were of it."""
    other, output = other_model(trained_run, tmp_path), tmp_path / "out"
    command = ["evaluate", f"--data.root={synthetic_set}", f"--output={output}", "--bootstrap=20"]
    command += ["--data.evaluation_clips=1"]
    assert main([*command, f"--checkpoint={trained_run}"]) == 0
    assert main([*command, f"--checkpoint={trained_run}"]) == 0
    assert "replaces" not in capsys.readouterr().out
    assert main([*command, f"--checkpoint={other}"]) == 0
    held = f"{output} held an evaluation of {synthetic_set}, c23, test split by {trained_run}/best.safetensors"
    assert f"{held} as it was then, which this one replaces" in capsys.readouterr().out
    (output / "explanations").mkdir()
    (output / "explanations" / "faithfulness.json").write_text("{}")  # of an earlier version
    before = (output / "evaluation.json").read_bytes()
    sentence = (
        f"{output}/explanations holds explanations that are not known to be of this model and these videos; measure"
    )
    assert sentence in refused(capsys, [*command, f"--checkpoint={other}"])
    assert (output / "evaluation.json").read_bytes() == before


def test_an_evaluation_that_does_not_say_of_which_model_it_is_may_be_of_this_one(
    trained_run, synthetic_set, tmp_path, capsys
):
    command = ["evaluate", f"--data.root={synthetic_set}", f"--output={tmp_path}", f"--checkpoint={trained_run}"]
    command += ["--bootstrap=20", "--data.evaluation_clips=1"]
    assert main(command) == 0
    written = json.loads((tmp_path / "evaluation.json").read_text())
    del written["checkpoint"], written["evaluated"]["checksum"]
    (tmp_path / "evaluation.json").write_text(json.dumps(written))
    capsys.readouterr()
    assert main(command) == 0
    assert "replaces" not in capsys.readouterr().out


def test_a_run_that_was_trained_on_is_evaluated_again_in_its_own_place(trained_run, synthetic_set, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run / "best.safetensors", run)
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=20"]
    command += ["--data.evaluation_clips=1"]
    assert main(command) == 0
    shutil.copy(other_model(trained_run, tmp_path), run / "best.safetensors")
    assert main(command) == 0
    assert "as it was then, which this one replaces" in capsys.readouterr().out


def other_model(run, folder):
    """A model file of other weights."""
    model, info = load_model(run)
    with torch.no_grad():
        model.head.bias += 1
    save_model(folder / "other.safetensors", model, info)
    return folder / "other.safetensors"


def test_an_evaluation_of_damaged_videos_alone_names_the_set_and_the_first_reason(
    trained_run, synthetic_set, tmp_path, capsys
):
    root = tmp_path / "damaged"
    shutil.copytree(synthetic_set, root)
    for video in root.rglob("c23/videos/*.mp4"):
        video.write_bytes(video.read_bytes()[:900])
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--output={tmp_path}/out"]
    message = refused(capsys, command)
    assert f"{root}: no video of the test split could be scored; the first reason: {root}" in message
    assert "cut short" in message


def test_a_history_that_is_none_is_one_sentence(trained_run, synthetic_set, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run / "best.safetensors", run)
    (run / "history.csv").write_text("epoch,train_loss\n1,low\n")
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=10"]
    assert "history.csv: line 2: train_loss: 'low'; expected a number" in refused(capsys, command)


def test_what_explanations_are_measured_with_is_looked_at_before_the_evaluation_and_not_ignored_without_explain(
    trained_run, synthetic_set, capsys
):
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}"]
    assert "methods holds 'lpr'; expected some of" in refused(capsys, [*command, "--explain", "--methods=[lpr]"])
    assert "methods holds 'lrp' twice; expected each once" in refused(
        capsys, [*command, "--explain", "--methods=[lrp,lrp]"]
    )
    assert "methods is (); expected a list" in refused(capsys, [*command, "--explain", "--methods=[]"])
    assert "--methods is given without --explain" in refused(capsys, [*command, "--methods=[lrp]"])
    assert "--sanity is given without --explain" in refused(capsys, [*command, "--sanity"])


def test_perturbations_are_looked_at_before_anything_is_scored(trained_run, synthetic_set, tmp_path, capsys):
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}/out"]
    for option, sentence in (
        ("--perturb=jpeg:0..50", "perturb is 'jpeg:0..50': quality 0; expected whole numbers from 1 to 100, as a..b"),
        ("--perturb=[blur,fog]", "perturb is 'fog': no perturbation 'fog'; expected jpeg, downscale,"),
    ):
        assert sentence in refused(capsys, [*command, option])
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text("{}")
    moved = refused(capsys, [*command, f"--data.root={tmp_path}/store", "--perturb", "shift"])
    assert f"shift, which moves boxes in the whole picture, and {tmp_path}/store is a crop store" in moved
    sentence = "--explain measures on one machine; expected it without --shard and --engine ray"
    assert sentence in refused(capsys, [*command, "--explain", "--shard=1/2"])
    assert not (tmp_path / "out").exists()


def test_perturbations_are_given_one_by_one_or_in_a_file_and_their_curves_stay_in_the_report(
    trained_run, synthetic_set, tmp_path, capsys
):
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    command += ["--data.evaluation_clips=1", "--bootstrap=20"]
    assert main([*command, "--perturb", "jpeg:10..50/2", "--perturb=dropout:8"]) == 0
    printed = capsys.readouterr().out
    assert "Robustness to jpeg (quality)" in printed and "Robustness to dropout (squares)" in printed
    assert "Calling every video what most are gives an accuracy of 0.750" in " ".join(printed.split())
    (tmp_path / "settings.yaml").write_text("perturb: [blur:2]\n")
    assert main([*command, f"--config={tmp_path}/settings.yaml"]) == 0
    curves = json.loads((tmp_path / "robustness.json").read_text())["curves"]
    assert {curve["perturbation"]: [point["strength"] for point in curve["points"]] for curve in curves} == {
        "jpeg": [None, 50, 10], "dropout": [None, 8], "blur": [None, 2],
    }  # fmt: skip
    other = f"--checkpoint={other_model(trained_run, tmp_path)}"
    assert main([*command, other]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "robustness.json holds curves of another model or other videos" in page


def test_evaluate_explain_measures_every_method_against_random_order(trained_run, synthetic_set, tmp_path, capsys):
    arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    methods = ("lrp", "attnlrp", "raw", "random")
    arguments += ["--explain", "--sanity", f"--methods=[{','.join(methods)}]", "--data.evaluation_clips=1"]
    arguments += ["--bootstrap=50"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert all(table.count(f"| `{method}` |") >= 3 for method in methods)
    assert "max-sensitivity" in table
    assert {path.suffix for path in (tmp_path / "explanations").iterdir()} == {".json", ".md", ".svg"}
    page = (tmp_path / "report.html").read_text()  # it said nothing of them
    assert '<a href="#explanations">' in page
    section = page.split('<section id="explanations"')[1].split("</section>")[0]
    assert section.count('<th scope="row"') == 4 + 4 + 4 + 3  # curves, accuracy, places, sanity
    assert section.count('<svg class="chart"') == 4

    # Without --explain the report lost its section, and the explanations stayed beside it, unlinked.
    assert main([*arguments[:4], "--data.evaluation_clips=1", "--bootstrap=50"]) == 0
    again = (tmp_path / "report.html").read_text()
    assert '<a href="#explanations">' in again
    assert again.split('<section id="explanations"')[1].split("</section>")[0] == section
    other = f"--checkpoint={other_model(trained_run, tmp_path)}"
    assert "explanations holds explanations that are not known to be of this model" in refused(
        capsys, [*arguments[:1], other, *arguments[2:4]]
    )
    outdated = evaluate_checkpoint(tmp_path / "other.safetensors", DataSettings(root=synthetic_set), tmp_path)
    page = outdated.report.read_text()  # Python does as it is told, and says it
    assert "explanations holds explanations that are not known to be of this model and these videos" in page
    assert page.count('<section id="explanations"') == 1
    assert section not in page
