"""`istvt explain`: the files it writes, what it says of left-out clips, its options."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from commands import refused
from video_fixtures import write_numbered

from dataloading.clips import loader
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.synthetic import read_edited_video
from dataloading.video.probe import probe
from istvt.cli.main import main
from istvt.config import ExplanationSettings


def test_what_makes_a_verdict_doubtful_is_in_every_output_of_predict_and_of_explain(
    trained_run, tmp_path, capsys, monkeypatch
):
    """A script that read the JSON got verdicts as if they were sure; only `prepare` said that shots are not known."""
    video, output = write_numbered(tmp_path, "numbered", frames=31), tmp_path / "scores.json"
    seen = FaceTrack((0, 30), (40.0, 40.0), (40.0, 40.0), (30.0, 30.0))
    info = probe(video)
    face = FaceEntry(str(video), info.frames, info.fps, info.width, info.height, "yuface", seen)
    for module in ("istvt.explain_video.video", "istvt.inference.predict"):
        monkeypatch.setattr(f"{module}.face_entry", lambda *_, **__: face)
    remark = "its shots are not known, because not every frame can be decoded: a clip may span a cut"
    crop = "This model was trained on whole pictures, and here it is shown faces found by"
    caveat = "has only ever seen drawn faces"

    assert main(["predict", f"--checkpoint={trained_run}", str(video), "--detect", f"--json={output}"]) == 0
    [row] = json.loads(output.read_text())
    assert row["remark"].startswith(remark)
    assert [caveat in row["notes"][0], crop in row["notes"][1]] == [True, True]
    shown = capsys.readouterr().out
    assert [shown.count(sentence) for sentence in (remark, crop, caveat)] == [1, 1, 1]

    assert main(["explain", str(video), f"--checkpoint={trained_run}", "--detect", f"--out={tmp_path}/why"]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "why" / "explanation.html").read_text()
    notes = " ".join(json.loads((tmp_path / "why" / "explanation.json").read_text())["notes"])
    for sentence in (remark, crop, caveat):
        assert [text.count(sentence) for text in (shown, page, notes)] == [1, 1, 1]


def test_explain_writes_videos_strips_json_and_a_page_that_opens_from_disk(trained_run, synthetic_set, tmp_path):
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    assert main(["explain", str(video), f"--checkpoint={trained_run}", f"--output={tmp_path}"]) == 0
    assert json.loads((tmp_path / "explanation.json").read_text())["settings"]["detector"] == "none"  # as in training
    written = {path.name for path in tmp_path.iterdir()}
    assert {"explanation.html", "explanation.json", "explanation.mp4", "in_frame.mp4", "clip_1.png"} <= written
    assert "has only ever seen drawn faces" in (tmp_path / "explanation.html").read_text()


def test_explain_says_which_clips_were_left_out_and_that_there_are_fewer_than_asked_for(
    trained_run, synthetic_set, tmp_path, capsys, monkeypatch
):
    """Only the page knew it."""

    def read(clips, *arguments):
        samples = zip(clips, whole(clips, *arguments), strict=True)
        return ["it is damaged" if clip.frames[0] == 3 else sample for clip, sample in samples]

    whole = loader.read_decoded
    monkeypatch.setattr(loader, "read_decoded", read)
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    capsys.readouterr()
    assert main(["explain", str(video), f"--checkpoint={trained_run}", "--no-detect", f"--out={tmp_path}"]) == 0
    fewer, heading, skipped, opened = capsys.readouterr().out.splitlines()[-4:]
    assert fewer.startswith("clips explained: 1 of 3 asked for; no more of the 4 scored clips")
    assert heading == "clips that could not be decoded: 1"
    assert skipped == "  from frame 3: it is damaged"
    assert opened.startswith("open ")


def test_explain_takes_the_rules_of_the_method_and_refuses_a_wrong_one(trained_run, synthetic_set, tmp_path, capsys):
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    command = ["explain", str(video), f"--checkpoint={trained_run}", "--no-detect", f"--out={tmp_path}", "--clips=1"]
    assert main([*command, "--stabilizer=0.1", "--clamp=before_mean", "--order=literal"]) == 0
    settings = json.loads((tmp_path / "explanation.json").read_text())["settings"]
    assert (settings["stabilizer"], settings["clamp"], settings["order"]) == (0.1, "before_mean", "literal")
    assert main([*command, "--method=attnlrp"]) == 0
    data = json.loads((tmp_path / "explanation.json").read_text())
    assert data["settings"]["method"] == "attnlrp"
    assert data["people"][0]["explained_clips"][0]["conservation"] > 0.999
    sentence = "stabilizer is 'small'; expected \"reference\" or a number above 0, such as 0.01"
    assert sentence in refused(capsys, [*command, "--stabilizer=small"])
    sentence = "stabilizer is 0.3, but method rollout reads none; expected method lrp"
    assert sentence in refused(capsys, [*command, "--method=rollout", "--stabilizer=0.3"])


def test_options_reach_python_as_one_object_which_holds_every_setting(trained_run, edited_video, monkeypatch, capsys):
    """They were 14 arguments of a function beside an object of the other six."""
    taken = []

    def take(video, checkpoint, out, settings, **rest):
        taken.append((settings, sorted(rest)))
        raise InputError("enough")

    monkeypatch.setattr("istvt.explain_video.video.explain_video", take)
    command = ["explain", str(edited_video), f"--checkpoint={trained_run}"]
    given = {"method": "gradient", "clamp": "before_mean", "target": "real", "normalization": "frame", "clips": 2,
             "clips_scored": 9, "person": 2, "detector": "opencv", "precision": "float32", "batch_size": 3,
             "workers": 1}  # fmt: skip
    assert "enough" in refused(capsys, [*command, *(f"--{name}={value}" for name, value in given.items())])
    assert "enough" in refused(capsys, [*command, "--no-detect", "--stabilizer=0.1", "--order=literal"])
    assert "enough" in refused(capsys, [*command, f"--boxes={trained_run}/boxes.json"])
    sampled = {"method": "shap", "evaluations": 500, "tiles": 3, "spans": 2, "seed": 7, "time_limit": 2.5}
    searched = {"method": "counterfactual", "bound": 2.5, "steps": 9}
    for more in (sampled, searched):
        assert "enough" in refused(capsys, [*command, *(f"--{name}={value}" for name, value in more.items())])
    assert [settings for settings, _ in taken] == [
        ExplanationSettings(**given),
        ExplanationSettings(detect=False, stabilizer=0.1, order="literal"),
        ExplanationSettings(boxes=trained_run / "boxes.json"),
        ExplanationSettings(**sampled),
        ExplanationSettings(**searched),
    ]
    assert all(rest == ["advance", "device"] for _, rest in taken)
    covered = {*given, *sampled, *searched, "detect", "stabilizer", "order", "boxes"}
    assert {field.name for field in fields(ExplanationSettings)} == covered


def test_each_person_has_a_section_and_a_line_in_the_chart_with_the_cuts_and_one_can_be_explained_alone(
    trained_run, edited_video, tmp_path, capsys, monkeypatch
):
    face = replace(read_edited_video(edited_video).face_entry(edited_video), detector="yuface", brief=((3, 4, 9.0),))
    face = replace(face, briefs=1)
    monkeypatch.setattr("istvt.explain_video.video.face_entry", lambda *_, **__: face)
    command = [
        "explain",
        str(edited_video),
        f"--checkpoint={trained_run}",
        "--detect",
        f"--out={tmp_path}",
        "--clips=1",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    page, data = (tmp_path / "explanation.html").read_text(), json.loads((tmp_path / "explanation.json").read_text())
    worst = max(data["people"], key=lambda person: person["probability_fake"])
    assert (data["person"], data["verdict"]) == (worst["person"], worst["verdict"])
    assert data["shots"] == [[0, 14], [15, 24], [25, 34], [35, 44], [45, 54]]
    assert f"that of person {worst['person']}, the most suspicious of 2 people: " in page
    for person in data["people"]:
        number, probability = person["person"], person["probability_fake"]
        assert f'<section id="person-{number}">' in page
        assert f"person {number}: {person['verdict']} {probability:.1%}, seen {person['seconds_seen']:.1f} s" in shown
        section = page[page.index(f'<section id="person-{number}">') :]
        assert f"Probability of fake {probability:.3f}, " in section[: section.index("</section>")]
        dots = re.findall(rf"<title>person {number}, ([0-9.]+) s: ([0-9.]+)</title>", page)
        middles = [(clip["frames"][0] + 3) / 25 for clip in person["scored_clips"]]
        assert [float(time) for time, _ in dots] == pytest.approx(middles, abs=0.006)
        assert person["target"] == person["verdict"]
        assert len(person["explained_clips"]) == 1
        for name in ("explanation.mp4", "in_frame.mp4", "clip_1.png"):
            assert (tmp_path / f"person_{number}_{name}").stat().st_size > 500
    assert "a face of 9 pixels in frames 3 to 4 (0.1 to 0.2 s) is not scored" in page
    assert "Upright lines are cuts between the 5 shots" in page
    assert page.count("<video ") == 4

    assert main([*command, "--person=2"]) == 0
    alone = json.loads((tmp_path / "explanation.json").read_text())
    [person] = alone["people"]
    assert person["scored_clips"] == data["people"][1]["scored_clips"]
    assert (alone["person"], person["person"]) == (2, 2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"explanation.html", "explanation.json", "explanation.mp4", "in_frame.mp4", "clip_1.png"}
    assert "shows 2 people, and person is 7; expected 1 to 2" in refused(capsys, [*command, "--person=7"])


def test_boxes_given_by_hand_for_one_of_two_people_explain_that_one_and_say_so(trained_run, edited_video, tmp_path):
    track = read_edited_video(edited_video).face_entry(edited_video).people[1]
    half = track.size / 2
    rows = np.column_stack([track.frame, track.x - half, track.y - half, track.x + half, track.y + half]).tolist()
    (tmp_path / "boxes.json").write_text(json.dumps({edited_video.name: rows}))
    command = ["explain", str(edited_video), f"--checkpoint={trained_run}", f"--boxes={tmp_path / 'boxes.json'}"]
    assert main([*command, f"--out={tmp_path}", "--clips=1"]) == 0
    data = json.loads((tmp_path / "explanation.json").read_text())
    assert [[shot["shot"] for shot in person["shots"]] for person in data["people"]] == [[2, 3, 4]]
    assert "the face whose boxes were given is scored; others were not looked for" in data["notes"]
    assert data["settings"]["detector"] == "boxes file"
