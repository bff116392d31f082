"""`istvt compare`: the page's example, cells that are those of `istvt evaluate`, stops, devices, published numbers."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused

from dataloading.io import read_json
from istvt.cli.main import main
from istvt.comparison.pages import write_comparison
from istvt.comparison.published import published_results
from istvt.comparison.results import Results
from istvt.model.architectures import build, model_preset
from istvt.model.checkpoint import CheckpointInfo, save_model

ROOT = Path(__file__).parents[3]
FILES = ("comparison.md", "comparison.html", "comparison.json", "comparison.csv", "comparison-tests.csv")
FILES += ("comparison-robustness.csv",)


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The first YAML of docs/comparing-detectors.md."""
    text = (ROOT / "docs/comparing-detectors.md").read_text()
    path = tmp_path_factory.mktemp("example") / "compare.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    return path


@pytest.fixture(scope="module")
def finished(example, tmp_path_factory) -> Path:
    """The comparison of the example, not stopped, by a process for each of two devices."""
    output = tmp_path_factory.mktemp("comparison") / "output"
    assert main(["compare", str(example), f"--output={output}", "--device=cpu,cpu"]) == 0
    return output


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_the_example_of_the_page_gives_the_tables_of_the_paper(finished):
    text = (finished / "comparison.md").read_text()
    for title in ("Table I: accuracy within drawn", "Table I: AUC within drawn", "Table III: variants of both"):
        assert f"## {title}" in text
    assert "every video called what most are" in text
    assert "attention spatial_only" in text
    page = (finished / "comparison.html").read_text()
    assert page.count("<svg") == 2  # ROC curves, and the curve of JPEG
    assert "says nothing about accuracy on real forgeries" in page
    cells = rows_of(finished / "comparison.csv")
    assert {(row["detector"], row["manipulation"]) for row in cells} == {
        (detector, group) for detector in ("both", "space") for group in ("all", "blend", "both", "flicker")
    }
    assert all(len(row["auc_by_seed"].split()) == 2 for row in cells)
    [pair] = rows_of(finished / "comparison-tests.csv")
    assert (pair["first"], pair["second"], pair["p"]) == ("both", "space", pair["p_other_seeds_and_videos"])
    strengths = [row["strength"] for row in rows_of(finished / "comparison-robustness.csv")]
    assert strengths == ["none", "50.0", "10.0", "mean"] * 2
    results = read_json(finished / "comparison.json", Results)
    for cell in results.perturbed:  # the spread is that of seeds, not of strengths
        by_strength = [point.auc.values for point in cell.points[1:]]
        assert cell.auc.values == pytest.approx([sum(of_seed) / 2 for of_seed in zip(*by_strength, strict=True)])
    assert results.detectors["space"].variant_of == "both"


def test_values_seed_by_seed_and_cells_of_a_checkpoint_are_those_of_evaluate(finished, tmp_path):
    """The comparison of checkpoints trains nothing."""
    runs = [finished / "runs" / name / "drawn" / "seed-0" for name in ("both", "space")]
    root, settings = finished / "data" / "drawn", tmp_path / "compare.yaml"
    settings.write_text(
        f"data: {{drawn: {{root: {root}}}}}\ntest: [drawn]\nclips: 2\nbootstrap: 200\nperturb: ['jpeg:10,50']\n"
        f"detectors: {{first: {{checkpoints: [{runs[0]}]}}, second: {{checkpoints: [{runs[1]}]}}}}\n"
    )
    assert main(["compare", str(settings), f"--output={tmp_path}/out"]) == 0
    assert not (tmp_path / "out" / "runs").exists()
    cells = json.loads((tmp_path / "out" / "comparison.json").read_text())["cells"]
    seeds = json.loads((finished / "comparison.json").read_text())["cells"]
    for run, name, trained in zip(runs, ("first", "second"), ("both", "space"), strict=True):
        how = [f"--checkpoint={run}", f"--data.root={root}", "--bootstrap=200", "--data.evaluation_clips=2"]
        assert main(["evaluate", *how, f"--output={tmp_path}/{name}"]) == 0
        evaluation = json.loads((tmp_path / name / "evaluation.json").read_text())
        expected = {"all": evaluation["videos"], **evaluation["manipulations"]}
        for cell in (cell for cell in cells if cell["detector"] == name):
            assert cell["trained_on"] == "drawn"  # the checkpoint knows its data set
            of = expected.pop(cell["manipulation"])
            assert (cell["real"], cell["fake"]) == (of["real"], of["fake"])
            for metric in ("accuracy", "auc"):
                assert cell[metric]["mean"] == of[metric]
                [of_seeds] = [
                    other[metric]["values"]
                    for other in seeds
                    if (other["detector"], other["manipulation"]) == (trained, cell["manipulation"])
                ]
                assert of_seeds[0] == of[metric]["value"]
        assert expected == {}
    robustness = json.loads((tmp_path / "out/evaluations/first/checkpoint-0/drawn/robustness.json").read_text())
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    [curve], [cell] = robustness["curves"], [c for c in results["perturbed"] if c["detector"] == "first"]
    for point, ours in zip(curve["points"], cell["points"], strict=True):
        assert ours["auc"]["mean"] == point["auc"]
        assert ours["accuracy"]["mean"] == point["accuracy"]


def test_a_comparison_that_was_killed_goes_on_and_ends_with_the_same_bytes(example, finished):
    """Killed while two processes train: they trained on, and another comparison could begin beside them."""
    expected = {name: (finished / name).read_bytes() for name in FILES}
    for name in FILES:
        (finished / name).unlink()
    for name in ("both", "space"):
        shutil.rmtree(finished / "evaluations" / name / "drawn/seed-1")
        shutil.rmtree(finished / "runs" / name / "drawn/seed-1")
    checkpoints = finished / "runs/both/drawn/seed-1/checkpoints"
    kill(
        ["compare", str(example), f"--output={finished}", "--device=cpu,cpu"], lambda: any(checkpoints.glob("epoch-*"))
    )
    assert not (finished / "comparison.md").exists()
    assert main(["compare", str(example), f"--output={finished}"]) == 0
    assert {name: (finished / name).read_bytes() for name in FILES} == expected


def kill(arguments: list[str], moment: Callable[[], bool]) -> None:
    """Run a command in a process, kill that at a moment, and wait for all processes that it has started."""
    command = [sys.executable, "-m", "istvt", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait(120) == -signal.SIGKILL
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes of a killed comparison go on")


def test_another_run_with_these_names_is_refused_and_stays(example, finished, tmp_path, capsys):
    changed = tmp_path / "compare.yaml"
    changed.write_text(example.read_text().replace("epochs: 1", "epochs: 2"))
    message = refused(capsys, ["compare", str(changed), f"--output={finished}"])
    assert "detectors.both: " in message
    assert "holds a run with other settings (training.epochs 1, now 2)" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  space:", "  both:", "detectors.both: given in line 6 and again in line 8; expected it once"),
        ("test: [drawn]", "test: [celeb]", "test names 'celeb', which data does not hold; it holds drawn"),
        ("test: [drawn]", "test: [drawn, drawn]", "test holds 'drawn' twice"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "seeds holds 1 twice"),
        ("  space:\n", "  space:\n    architecture: resnet\n", "detectors.space: model.architecture is 'resnet'"),
        ("variant_of: both", "preset: huge", "detectors.space: preset is 'huge'; expected one of seed, published"),
        ("variant_of: both", "variant_of: bath", "variant_of names 'bath', which detectors does not hold"),
        ("variant_of: both", "shade: red", "detectors.space.shade: unknown field"),
        ("attention: spatial_only", "widht: 3", "detectors.space.model holds 'widht'; expected some of frames"),
        ("attention: spatial_only", "depth: 0", "detectors.space.model: model.depth is 0; expected 1 or more"),
        ("attention: spatial_only", "frames: 12", "space: needs clips of 12 frames, and the videos of data.drawn have"),
        ("jpeg:10,50", "jpeg:0,50", "perturb is 'jpeg:0,50': quality 0; expected whole numbers from 1 to 100"),
        ("jpeg:10,50", "drop:0.9", "with drop of 0.9 part lost no video of data.drawn is long enough"),
        ("epochs: 1", "epoch: 1", "training holds 'epoch'; expected some of epochs"),
        ("batch_size: 8", "batch_size: 8, backbone_weights: no.pth", "no.pth"),
        ("synthesize: {identities: 8, frames: 10, size: 48}", "root: nowhere", "data.drawn: nowhere does not exist"),
        ("train: [drawn]\n", "", "train is empty, and both has no checkpoints; expected the names of training sets"),
        ("title:", "titel:", "titel: unknown field"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence_before_anything_is_trained(
    example, finished, tmp_path, capsys, old, new, message
):
    text = example.read_text()
    assert old in text
    settings, output = tmp_path / "compare.yaml", tmp_path / "output"
    settings.write_text(text.replace(old, new))
    (output / "data").mkdir(parents=True)
    (output / "data" / "drawn").symlink_to(finished / "data" / "drawn")
    found = refused(capsys, ["compare", str(settings), f"--output={output}"])
    assert message in found
    assert found.startswith(f"istvt: {settings}: ")
    assert not (output / "runs").exists()


def test_weights_of_another_detector_and_a_missing_file_are_refused(finished, tmp_path, capsys):
    run, settings = finished / "runs/both/drawn/seed-0", tmp_path / "compare.yaml"
    data = f"data: {{drawn: {{root: {finished}/data/drawn}}}}\ntest: [drawn]\n"
    settings.write_text(f"{data}detectors: {{stil: {{architecture: stil, checkpoints: [{run}]}}}}\n")
    message = refused(capsys, ["compare", str(settings), f"--output={tmp_path}/out"])
    assert f"detectors.stil: checkpoint {run} is of istvt; expected stil, the architecture" in message
    other = tmp_path / "other"
    other.mkdir()
    config = model_preset("xception", "small")
    save_model(other / "best.safetensors", build(config), CheckpointInfo(config))
    settings.write_text(f"{data}detectors: {{mine: {{checkpoints: [{run}, {other}]}}}}\n")  # each is read as what it is
    message = refused(capsys, ["compare", str(settings), f"--output={tmp_path}/out"])
    assert "detectors.mine: its checkpoints are of istvt and of xception; expected models of one detector" in message
    settings.write_text(f"{data}detectors: {{mine: {{checkpoints: [{tmp_path}/none]}}}}\n")
    message = refused(capsys, ["compare", str(settings), f"--output={tmp_path}/out"])
    assert f"detectors.mine: checkpoint {tmp_path}/none: no such file" in message
    message = refused(capsys, ["compare", str(tmp_path / "no.yaml")])
    assert "no.yaml: no such file; expected the YAML file of a comparison" in message


def test_published_numbers_stand_beside_measured_ones_marked_with_their_source(finished, tmp_path):
    results, published = read_json(finished / "comparison.json", Results), published_results()
    text = write_comparison(results, tmp_path, published).markdown
    assert "Published, not measured here: Zhao et al., ISTVT, IEEE TIFS 18:1335-1348, 2023" in text
    assert ", published |" not in text  # the paper has no drawn set
    row = next(line for line in text.splitlines() if line.startswith("| temporal first, self-subtract"))
    assert row == "| temporal first, self-subtract (ISTVT) | 0.960 | 0.967 | 0.998 | 0.999 |"
    assert (tmp_path / "comparison.csv").read_bytes() == (finished / "comparison.csv").read_bytes()
    like_the_paper = replace(results, tests={"drawn": replace(results.tests["drawn"], layout="celeb-df")})
    text = write_comparison(like_the_paper, tmp_path, published).markdown
    assert "| both, published | 0.998 | – | – | – |" in text  # Table I
    assert "| space, published |  | 0.985 | 0.990 | – |" in text  # Table III, spatial only
