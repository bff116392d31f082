"""`--data.region`: training, evaluation, verdicts and explanations of a part of the face, through the commands."""

import json
from pathlib import Path
from typing import get_args

import pytest
from commands import refused

from dataloading import dataset, read_dataset
from dataloading.dataset import FACE
from dataloading.errors import InputError
from dataloading.face_index import PARTS
from dataloading.io import parse_yaml
from dataloading.layouts import open_dataset
from dataloading.video.processes import Workers
from istvt import config
from istvt.cli.main import main
from istvt.cli.service.analysis import Analyzer
from istvt.comparison.settings import ComparisonSettings, DataSet, DetectorSettings, comparison_plan
from istvt.model.checkpoint import read_info


@pytest.fixture(scope="module")
def run(tmp_path_factory, synthetic_set, train_arguments) -> Path:
    """A run of one epoch on the eyes."""
    output = tmp_path_factory.mktemp("regions") / "run"
    more = ["--data.region=eyes", "--training.epochs=1", "--data.evaluation_clips=1"]
    assert main(train_arguments(synthetic_set, output, *more)) == 0
    return output


def test_a_checkpoint_keeps_its_region_and_is_evaluated_on_it(run, synthetic_set, tmp_path, monkeypatch):
    assert read_info(run).region == "eyes"
    seen = []
    from istvt.report import evaluate_checkpoint

    split_clips = evaluate_checkpoint.split_clips
    monkeypatch.setattr(evaluate_checkpoint, "split_clips", lambda *of: seen.append(split_clips(*of)) or seen[0])
    data = [f"--data.root={synthetic_set}", "--data.evaluation_clips=1", "--bootstrap=50"]
    assert main(["evaluate", f"--checkpoint={run}", *data, f"--output={tmp_path}"]) == 0
    assert {clip.box[2] - clip.box[0] < 30 for clip in seen[0]} == {True}  # of pictures of 48 pixels


def test_verdicts_and_explanations_are_of_the_eyes_whose_landmarks_a_file_gives(run, synthetic_set, tmp_path, capsys):
    video, faces = read_dataset(synthetic_set).videos[0].path, synthetic_set / "faces.json"
    message = refused(
        capsys, ["explain", str(video), f"--checkpoint={run}", "--no-detect", f"--output={tmp_path / 'a'}"]
    )
    assert message.endswith(
        f"{video}: crops of the eyes need the landmarks of a face, and there are none: whole pictures"
    )
    box = json.loads(faces.read_text())[video.relative_to(synthetic_set).as_posix()][0][1:5]
    how = [f"--checkpoint={run}", f"--boxes={faces}"]
    assert main(["predict", str(video), *how, f"--json={tmp_path / 'verdicts.json'}"]) == 0
    [verdict] = json.loads((tmp_path / "verdicts.json").read_text())
    x0, y0, x1, y1 = verdict["people"][0]["where"]["box"]
    assert x1 - x0 < 0.9 * (box[2] - box[0])
    assert (y0 + y1) / 2 < (box[1] + box[3]) / 2  # of the eyes, above the middle of the face
    assert main(["explain", str(video), *how, f"--output={tmp_path / 'page'}"]) == 0
    explained = json.loads((tmp_path / "page" / "explanation.json").read_text())
    assert explained["probability_fake"] == pytest.approx(verdict["probability_fake"], abs=0.02)


def test_the_service_judges_the_eyes_too(run, synthetic_set, monkeypatch):
    opened, index = open_dataset(synthetic_set)
    video = opened.videos[0]
    analyzer = Analyzer.load(run, config.ServeSettings(), detect=True)
    monkeypatch.setattr(analyzer, "find", lambda *_: index.entry(video.name))  # drawn too small to be found
    with Workers() as processes:
        scored = analyzer.score(video.path, "drawn.mp4", None, processes, lambda *_: None)
    x0, y0, x1, y1 = scored.prediction.people[0].box
    face = json.loads((synthetic_set / "faces.json").read_text())[video.path.relative_to(synthetic_set).as_posix()][0]
    assert x1 - x0 < 0.9 * (face[3] - face[1])
    assert (y0 + y1) / 2 < (face[2] + face[4]) / 2


def test_a_video_whose_eyes_are_out_of_view_is_named_with_the_reason(run, synthetic_set, tmp_path, capsys):
    """The picture ends below them."""
    video = read_dataset(synthetic_set).videos[0].path
    key = video.relative_to(synthetic_set).as_posix()
    rows = json.loads((synthetic_set / "faces.json").read_text())[key]
    for row in rows:
        row[6:15:2] = [y - 30 for y in row[6:15:2]]
    (tmp_path / "faces.json").write_text(json.dumps({video.name: rows}))
    faces = tmp_path / "faces.json"
    assert main(["predict", str(video), f"--checkpoint={run}", f"--boxes={faces}"]) == 1
    out = " ".join("".join(capsys.readouterr()).split())
    assert "shows no eyes in view: on each of its 10 frames with landmarks an eye is outside of the picture" in out
    assert video.name in out


def test_a_detector_of_the_eyes_is_adapted_on_eyes(run, synthetic_set, tmp_path, monkeypatch):
    from istvt.comparison.adaptation import adapt

    def train(data, *_, **others):
        raise InputError(f"{data.region}, after {others['adaptation'].old[0].region}")

    monkeypatch.setattr(adapt, "train", train)
    with pytest.raises(InputError, match="eyes, after eyes"):
        adapt.adapt(run, config.DataSettings(synthetic_set), tmp_path / "adapted")


def test_settings_know_the_regions_that_the_index_has():
    assert get_args(config.Region) == get_args(dataset.Region) == (FACE, *PARTS)


def test_detectors_of_a_part_are_trained_on_it_unless_another_is_asked_for(tmp_path, capsys):
    def region(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="0"):
            main(["train", *arguments, "--print_config"])
        return parse_yaml(capsys.readouterr().out, "")["data"]["region"]

    assert [region(f"--model.architecture={name}") for name in ("lrcn", "lip_motion", "xception")] == [
        "eyes", "mouth", "face",
    ]  # fmt: skip
    assert region("--model.architecture=lrcn", "--data.region=face") == "face"
    settings = ComparisonSettings(
        detectors={"blink": DetectorSettings("lrcn"), "lips": DetectorSettings("xception", region="mouth")},
        data={"drawn": DataSet(root=str(tmp_path))}, train=["drawn"], test=["drawn"],
    )  # fmt: skip
    assert [model.region for model in comparison_plan(settings, tmp_path).models] == ["eyes", "mouth"]
    assert "nose" in refused(capsys, ["train", f"--data.root={tmp_path}", "--data.region=nose"])
