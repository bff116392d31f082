"""`istvt predict`: verdicts on any video file, and invalid checkpoints."""

import functools
import json
import shutil
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from commands import refused
from face_fixtures import detector_or_skip
from rich.console import Console
from safetensors.torch import save_file
from video_fixtures import uneven_times, write_numbered, write_sound

from bench.experiments.edited_videos import still_with_voice, write
from dataloading.clips.sampling import clips_over_shots
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.faces import find_face
from dataloading.synthetic import read_edited_video
from istvt.cli.console import progress_bar
from istvt.cli.main import main
from istvt.config import DataSettings
from istvt.inference.predict import face_entry as in_a_process
from istvt.inference.score import score_clips
from istvt.model.checkpoint import Calibration, load_model, save_model
from istvt.report.evaluate_checkpoint import evaluate_checkpoint


def test_predict_scores_the_good_files_names_the_bad_one_and_exits_1(trained_run, synthetic_set, tmp_path, capsys):
    videos = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[:2]
    for video in videos:
        shutil.copy(video, tmp_path)
    (tmp_path / "broken.mp4").write_bytes(videos[0].read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("not meant as a video")
    output = tmp_path / "scores.json"
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path), "--no-detect", f"--json={output}"]) == 1
    text = capsys.readouterr().out
    assert "2 of 3 videos scored" in text
    assert "broken.mp4" in text
    assert "has only ever seen drawn faces: its verdict says nothing about a real video." in text
    rows = json.loads(output.read_text())
    assert [row["path"].endswith("broken.mp4") for row in rows].count(True) == 1
    assert all(0 <= row["probability_fake"] <= 1 for row in rows if "verdict" in row)


def test_with_an_error_rate_scores_in_a_band_around_one_half_have_no_verdict(
    trained_run, synthetic_set, tmp_path, capsys
):
    [video, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    command = ["predict", str(video), "--no-detect", f"--json={tmp_path}/scores.json"]
    validation = DataSettings(root=synthetic_set, evaluation_clips=2)
    scores = evaluate_checkpoint(trained_run, validation, tmp_path / "val", split="val", bootstrap=10).scores
    model, info = load_model(trained_run)
    for label, kept in enumerate((info.calibration.real, info.calibration.fake)):  # training keeps them
        found = [score.probability for score in scores if score.label == label]
        assert len(found) > 0 and sorted(kept) == pytest.approx(sorted(found), abs=1e-5)
    message = refused(capsys, [*command, f"--checkpoint={trained_run}", "--max-error=0.05"])
    assert "max_error is 0.05, and the 8 validation videos of this model support no error rate below 0." in message

    # 20 of 220 videos of each class are on the wrong side, and the surest 200 are not.
    info.calibration = Calibration(2.0, [0.1] * 200 + [0.6] * 20, [0.9] * 200 + [0.4] * 20)
    save_model(tmp_path / "sure.safetensors", model, info)
    command.append(f"--checkpoint={tmp_path}/sure.safetensors")
    assert main(command) == 0
    plain, rows = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    assert main([*command, "--max-error=0.05"]) == 0
    text = capsys.readouterr().out
    assert "not sure between 10.0% and 90.0%: of 440 validation videos 40 (9%) would have no verdict and 0" in text
    assert "not sure  probability of fake" in text and "not sure" not in plain
    written, model_option = (tmp_path / "scores.json").read_bytes(), f"--checkpoint={tmp_path}/sure.safetensors"
    assert "expected it with istvt merge" in refused(capsys, [*command, "--max-error=0.05", "--shard=1/1"])
    assert main([*command, "--shard=1/1"]) == 0
    merge = ["merge", f"{tmp_path}/scores.json.shard-1-of-1", f"--output={tmp_path}/merged.json", "--max-error=0.05"]
    assert "expected both, or neither" in refused(capsys, merge)
    message = refused(capsys, [*merge, f"--checkpoint={trained_run}"])
    assert f"{trained_run}: is not the model that the shards are of" in message
    assert main([*merge, model_option]) == 0
    assert (tmp_path / "merged.json").read_bytes() == written
    [row] = json.loads((tmp_path / "scores.json").read_text())
    assert (row["verdict"], row["people"][0]["verdict"]) == ("not sure", "not sure")
    assert row.pop("not_sure") == {"max_error": 0.05, "between": pytest.approx([0.1, 0.9])}
    raw = row["probability_fake"]
    scaled = row["people"][0].pop("calibrated_probability_fake")
    assert scaled == pytest.approx(1 / (1 + ((1 - raw) / raw) ** 0.5))
    row["verdict"] = row["people"][0]["verdict"] = rows[0]["verdict"]
    assert row == rows[0]

    info.calibration = None
    save_model(tmp_path / "sure.safetensors", model, info)
    sentence = "holds no scores of a validation split with both classes, which max_error needs"
    assert sentence in refused(capsys, [*command, "--max-error=0.05"])
    assert "max_error is 0.7; expected more than 0 and less than 0.5" in refused(
        capsys, [*command, f"--checkpoint={trained_run}", "--max-error=0.7"]
    )


def test_a_video_on_a_server_is_scored_as_its_file_is_and_one_that_is_not_there_is_named(
    trained_run, synthetic_set, tmp_path, capsys
):
    [video, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(video.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        paths = [str(video), f"{url}/{video.name}", f"{url}/missing.mp4"]
        output = tmp_path / "scores.json"
        assert main(["predict", f"--checkpoint={trained_run}", *paths, "--isolate", f"--json={output}"]) == 1
        server.shutdown()
    rows = json.loads(output.read_text())
    assert [row["path"] for row in rows] == paths
    assert rows[0]["clip_probabilities"] == rows[1]["clip_probabilities"]
    assert f"not scored  {url}/missing.mp4 does not exist; expected a file" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["directory", "files"])
def test_a_link_to_a_file_that_is_gone_is_listed_and_does_not_stop_the_others(
    trained_run, synthetic_set, tmp_path, capsys, named
):
    """One of them in a directory refused all of it, and the good file beside it was not scored."""
    [video, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    shutil.copy(video, tmp_path / "good.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    paths = [tmp_path] if named == "directory" else sorted(tmp_path.iterdir())
    assert main(["predict", f"--checkpoint={trained_run}", *map(str, paths)]) == 1
    text = capsys.readouterr().out
    assert f"not scored  {tmp_path / 'dangling.mp4'} does not exist; expected a video file." in text
    assert "1 of 2 videos scored" in text


def test_the_clips_that_a_damaged_video_has_lost_are_counted_in_its_verdict(trained_run, tmp_path, capsys):
    """A video damaged half way was judged by its first clips, with no word of the others."""
    video, output = write_numbered(tmp_path, "a", frames=40), tmp_path / "scores.json"
    content = bytearray(video.read_bytes())
    start = content.find(b"mdat") + 4
    end = content.find(b"moov") if content.find(b"moov") > start else len(content)
    middle = (start + end) // 2
    content[middle : end - 4] = np.random.default_rng(0).bytes(end - 4 - middle)
    video.write_bytes(content)
    command = ["predict", f"--checkpoint={trained_run}", str(video), "--no-detect", f"--json={output}"]
    assert main(command) == 0
    [row] = json.loads(output.read_text())
    scored = len(row["clip_probabilities"])
    assert 0 < scored < 8
    assert row["remark"].startswith(f"{8 - scored} of the 8 clips could not be decoded: {video} is damaged: frame ")
    shown = capsys.readouterr().out
    assert all(reason in shown for reason in row["remark"].split("; "))


def test_a_processor_scores_in_the_precision_that_was_asked_for(trained_run, synthetic_set, tmp_path):
    [video, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    probabilities = {}
    for precision in ("auto", "float32", "bfloat16"):
        output = tmp_path / f"{precision}.json"
        command = ["predict", f"--checkpoint={trained_run}", str(video), "--no-detect", f"--json={output}"]
        assert main([*command, f"--precision={precision}", "--clips=2"]) == 0
        probabilities[precision] = np.array(json.loads(output.read_text())[0]["clip_probabilities"])
    assert (probabilities["auto"] == probabilities["float32"]).all()
    difference = np.abs(probabilities["bfloat16"] - probabilities["float32"])
    assert 0 < difference.max() < 0.01


def test_predict_in_three_lines_of_python_gives_the_command_lines_scores(trained_run, synthetic_set, tmp_path):
    from istvt.inference.predict import predict

    video = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0]
    model, _ = load_model(trained_run)
    [prediction] = predict(model, [video], detect=False)

    output = tmp_path / "scores.json"
    assert main(["predict", f"--checkpoint={trained_run}", str(video), "--no-detect", f"--json={output}"]) == 0
    assert json.loads(output.read_text())[0]["probability_fake"] == pytest.approx(prediction.score.probability)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"hello " * 500), "not a video"),
    ],
)
def test_predict_on_what_is_no_video_is_one_sentence(trained_run, tmp_path, capsys, make, says):
    path = tmp_path / "clip.mp4"
    make(path)
    capsys.readouterr()
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--no-detect"]) == 1
    captured = capsys.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if "clip.mp4" in line]
    assert len(lines) == 1
    assert says in lines[0]


def test_a_path_that_names_no_video_at_all_is_refused_alike_whether_it_is_missing_or_empty(
    trained_run, tmp_path, capsys
):
    """A missing file was reported on standard output with status 1, an empty directory refused with status 2."""
    (tmp_path / "empty").mkdir()
    command = ["predict", f"--checkpoint={trained_run}"]
    assert "empty holds no video file" in refused(capsys, [*command, str(tmp_path / "empty")])
    assert "a.mp4 does not exist; expected a video file" in refused(capsys, [*command, str(tmp_path / "a.mp4")])


def test_the_masks_of_a_data_set_are_left_out_counted_and_said(trained_run, synthetic_set, capsys):
    """They were scored, and called real or fake, like videos of faces."""
    folder = synthetic_set / "manipulated_sequences" / "blend"
    masks = len(list((folder / "masks").rglob("*.mp4")))
    assert main(["predict", f"--checkpoint={trained_run}", str(folder), "--clips=1"]) == 0
    text = capsys.readouterr().out
    assert f"{masks} videos left out: in masks/, where data sets keep" in text
    assert "8 of 8 videos scored" in text


def test_videos_are_cropped_as_those_of_training_were_unless_that_is_overridden(
    trained_run, synthetic_set, tmp_path, capsys
):
    """A model of whole pictures was shown face boxes by default, which turned verdicts round without a word."""
    video, output = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0], tmp_path / "scores.json"
    found = {}
    for option in ("", "--no-detect", "--detect"):
        command = ["predict", f"--checkpoint={trained_run}", str(video), f"--json={output}", *filter(None, [option])]
        assert main(command) == 0
        found[option] = json.loads(output.read_text())[0]["probability_fake"], capsys.readouterr().out
    assert found[""][0] == found["--no-detect"][0] != found["--detect"][0]
    assert "whole pictures, as this model was trained on them (--detect looks for faces)" in found[""][1]
    assert "trained on whole pictures" not in found["--no-detect"][1]
    assert "This model was trained on whole pictures, and here it is shown faces found by" in found["--detect"][1]
    assert "--detect and --no-detect are given together" in refused(capsys, [*command, "--no-detect"])


def test_options_that_exclude_each_other_are_refused_before_the_model_is_loaded(
    trained_run, synthetic_set, capsys, monkeypatch
):
    """`predict` loaded all of the model first."""
    monkeypatch.setattr("istvt.model.checkpoint.load_model", None)
    video = str(sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0])
    for command in ("predict", "explain"):
        arguments = [command, video, f"--checkpoint={trained_run}", "--no-detect"]
        assert "--detector dlib and --no-detect are given together" in refused(capsys, [*arguments, "--detector=dlib"])
        assert "--detect and --no-detect are given together" in refused(capsys, [*arguments, "--detect"])


def test_a_face_video_without_a_face_is_named(trained_run, synthetic_set, tmp_path, capsys):
    import av
    import numpy as np

    path = tmp_path / "empty_room.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 96
        for _ in range(8):
            picture = np.full((96, 96, 3), 90, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--detect"]) == 1
    assert "shows no face" in capsys.readouterr().out.replace("\n", " ")


def test_a_checkpoint_that_is_none_is_one_sentence(trained_run, tmp_path, capsys):
    video = str(write_numbered(tmp_path, "a", frames=8))
    assert "no such file" in refused(capsys, ["predict", f"--checkpoint={tmp_path}/absent.safetensors", video])
    states = trained_run / "checkpoints"
    for place in (states, *states.iterdir()):
        message = refused(capsys, ["predict", f"--checkpoint={place}", video])
        assert message.endswith(f"not a model file; give the run's directory, {trained_run}")
    (tmp_path / "text.safetensors").write_text("hello")
    message = refused(capsys, ["predict", f"--checkpoint={tmp_path}/text.safetensors", video])
    assert "text.safetensors" in message
    assert "safetensors" in message
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "holds no ISTVT configuration" in refused(
        capsys, ["predict", f"--checkpoint={tmp_path}/other.safetensors", video]
    )


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[1, 2]", "[1, 2]; expected an object"),
        ('"0.3"', "'0.3'; expected an object"),
        ('{"version": 3}', "config: missing; expected a value"),
        ('{"config": null}', "config: None; expected an object"),
        ('{"config": {"layers": 3}}', "config.layers: unknown field with the value 3"),
        ('{"config": {"backbone_dims": 3}}', "config.backbone_dims: 3; expected a list"),
    ],
)
def test_a_file_with_metadata_of_the_same_name_and_another_kind_is_one_sentence(tmp_path, capsys, said, says):
    """It ended in a TypeError or a KeyError."""
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"istvt": said})
    message = refused(capsys, ["predict", f"--checkpoint={path}", str(write_numbered(tmp_path, "a", frames=8))])
    assert f"checkpoint {path}: " in message
    assert says in message


def test_a_checkpoint_whose_bytes_have_changed_is_refused(trained_run, tmp_path):
    """safetensors reads flipped bytes without complaint, and so did everything above it."""
    content = bytearray((trained_run / "best.safetensors").read_bytes())
    content[-100] ^= 0x40
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"best.safetensors: is damaged \(its content does not match its checksum"):
        load_model(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_read(trained_run, synthetic_set, tmp_path):
    """It has no checksum and no calibration and says neither how its clips were cropped nor that they were drawn."""
    model, info = load_model(trained_run)
    said = {**info.__dict__, "config": info.config.to_dict()}
    del said["detectors"], said["synthetic"], said["calibration"]
    save_file(model.state_dict(), tmp_path / "best.safetensors", metadata={"istvt": json.dumps(said)})
    loaded, earlier = load_model(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert earlier.detectors == []
    assert earlier.caveats == info.caveats != []  # the data set is still where it was


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(trained_run, tmp_path):
    model, info = load_model(trained_run)
    with pytest.raises(InputError, match=r"nowhere/best\.safetensors: cannot be written \("):
        save_model(tmp_path / "nowhere" / "best.safetensors", model, info)


def test_a_checkpoint_whose_tensors_are_of_another_configuration_names_them(trained_run, tmp_path, capsys):
    model, info = load_model(trained_run)
    info.config = type(info.config)(**{**info.config.to_dict(), "depth": 3})
    save_model(tmp_path / "wrong.safetensors", model, info)
    video = str(write_numbered(tmp_path, "a", frames=8))
    message = refused(capsys, ["predict", f"--checkpoint={tmp_path}/wrong.safetensors", video])
    assert "another configuration" in message
    assert "blocks.2." in message


@pytest.mark.parametrize(
    ("codec", "size", "options"),
    [
        ("h264", (128, 96), {"timestamps": uneven_times(12)}),  # variable frame rate
        ("h264", (128, 96), {"pixel_format": "yuv420p10le"}),  # 10 bit
        ("h264", (128, 96), {"rotation": 90}),  # a phone held upright
        ("h264", (131, 97), {"pixel_format": "yuv444p"}),  # odd sizes
    ],
)
def test_predict_takes_unusual_videos(trained_run, tmp_path, codec, size, options):
    path = write_numbered(tmp_path, "unusual", codec, 12, *size, **options)
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--no-detect"]) == 0


def test_predict_says_that_a_file_has_sound_only(trained_run, tmp_path, capsys):
    write_sound(tmp_path / "song.mp4")
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path / "song.mp4"), "--no-detect"]) == 1
    assert "song.mp4 is not a video: it has sound only." in capsys.readouterr().out


def test_predict_names_a_video_shorter_than_a_clip(trained_run, tmp_path, capsys):
    write_numbered(tmp_path, "blink", frames=3)
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path / "blink.mp4"), "--no-detect"]) == 1
    assert "blink.mp4: has 3 frames; a clip needs 6." in capsys.readouterr().out


@pytest.fixture
def two_people(edited_video, monkeypatch):
    """The detector finds the two drawn people of the edited video, and a third face too briefly."""
    content = read_edited_video(edited_video)
    entry = content.face_entry(edited_video)
    found = replace(entry, detector="yuface", brief=((12, 14, 20.0),), briefs=1)

    def face_entry(path, finder, frames, rows=None, **options):
        return found if rows is None else in_a_process(path, finder, frames, rows, **options)

    monkeypatch.setattr("istvt.inference.predict.face_entry", face_entry)
    return edited_video


def rows_of(output, *arguments):
    assert main(["predict", *map(str, arguments), "--detect", f"--json={output}"]) == 0
    [row] = json.loads(output.read_text())
    return row


def test_every_person_has_a_verdict_and_the_videos_own_is_that_of_the_most_suspicious(
    trained_run, two_people, tmp_path, capsys
):
    output = tmp_path / "scores.json"
    row = rows_of(output, two_people, f"--checkpoint={trained_run}")
    shown = capsys.readouterr().out
    people = row["people"]
    assert [person["person"] for person in people] == [1, 2]
    worst = max(people, key=lambda person: person["probability_fake"])
    assert (row["person"], row["verdict"], row["probability_fake"]) == (
        worst["person"], worst["verdict"], worst["probability_fake"],
    )  # fmt: skip
    assert row["clip_frames"] == worst["clip_frames"]
    assert [person["seconds_seen"] for person in people] == [1.4, 1.2]
    assert [[shot["shot"] for shot in person["shots"]] for person in people] == [[1, 3, 5], [2, 3, 4]]
    for person in people:
        assert person["clips"] == len(person["clip_probabilities"]) == 8
        means = [shot["probability_fake"] for shot in person["shots"]]
        assert min(means) <= person["probability_fake"] <= max(means)
        clips = list(zip(person["clip_frames"], person["clip_probabilities"], strict=True))
        for shot in person["shots"]:
            inside = [p for frames, p in clips if shot["first_frame"] <= frames[0] and frames[-1] <= shot["last_frame"]]
            assert len(inside) == shot["clips"]
            assert shot["probability_fake"] == pytest.approx(np.mean(inside))
        assert f"      person {person['person']}: {person['verdict']}" in shown
        assert f"(8 clips, seen {person['seconds_seen']:.1f} of 2.2 s; around x " in shown
    assert f"(person {row['person']} of 2)  {two_people}" in shown
    brief = (
        "a face of 20 pixels in frames 12 to 14 (0.5 to 0.6 s) is not scored: a clip needs the same face in 6 frames"
    )
    assert row["not_scored"][0].startswith(brief)
    assert shown.count(brief) == 1


def test_one_line_a_video_or_one_person_alone_where_that_is_asked_for(trained_run, two_people, tmp_path, capsys):
    output, run = tmp_path / "scores.json", f"--checkpoint={trained_run}"
    both = rows_of(output, two_people, run)["people"]
    for options, number in ((["--faces=main"], 1), (["--person=1"], 1), (["--person=2"], 2)):
        capsys.readouterr()
        row = rows_of(output, two_people, run, *options)
        shown = capsys.readouterr().out
        assert [person["person"] for person in row["people"]] == [row["person"]] == [number]
        assert shown.count(" of 2.2 s)") == shown.count("probability of fake") == 1
        if options != ["--faces=main"]:
            assert row["people"][0]["probability_fake"] == pytest.approx(both[number - 1]["probability_fake"], abs=1e-6)
    command = ["predict", str(two_people), run]
    assert "person is 0; expected at least 1" in refused(capsys, [*command, "--person=0"])
    assert "person is 2 and faces is main; expected one of them" in refused(
        capsys, [*command, "--person=2", "--faces=main"]
    )
    assert "--faces is 'none'; expected one of all, main" in refused(capsys, [*command, "--faces=none"])
    assert main([*command, "--detect", "--person=3"]) == 1
    assert "shows 2 people, and person is 3; expected 1 to 2." in capsys.readouterr().out


def test_boxes_given_by_hand_for_one_of_two_people_score_that_one_and_say_so(trained_run, two_people, tmp_path, capsys):
    output, run, boxes = tmp_path / "scores.json", f"--checkpoint={trained_run}", tmp_path / "boxes.json"
    entry = read_edited_video(two_people).face_entry(two_people)
    track = entry.people[1]
    half = track.size / 2
    rows = np.column_stack([track.frame, track.x - half, track.y - half, track.x + half, track.y + half]).tolist()
    boxes.write_text(json.dumps({two_people.name: rows}))
    expected = rows_of(output, two_people, run, "--person=2")["people"][0]["probability_fake"]
    row = rows_of(output, two_people, run, f"--boxes={boxes}")
    assert row["probability_fake"] == pytest.approx(expected, abs=1e-6)
    assert "the face whose boxes were given is scored; others were not looked for" in capsys.readouterr().out
    assert any("here it is shown faces of a boxes file" in note for note in row["notes"])
    command = ["predict", str(two_people), run, f"--boxes={boxes}"]
    sentence = f"boxes is {boxes}, but whole pictures are asked for; expected one of them"
    assert sentence in refused(capsys, [*command, "--no-detect"])
    boxes.write_text(json.dumps({"other.mp4": rows}))
    assert f"None of the 1 videos named in {boxes} is in the videos given." in refused(capsys, command)
    boxes.write_text(json.dumps({two_people.name: [rows[0], rows[0]]}))
    assert "two boxes for one frame; expected one" in refused(capsys, command)
    boxes.write_text(json.dumps({two_people.name: [[99, *rows[0][1:]]]}))
    assert main(command) == 1
    assert "has 55 frames, but its boxes file has frame 99." in capsys.readouterr().out
    assert main([*command, "--person=2"]) == 1


def test_the_verdict_on_a_still_picture_with_a_voice_says_that_nothing_moves(trained_run, tmp_path, capsys):
    """There is no evidence over time in it, and a verdict without a word claimed some."""
    detector_or_skip("yuface")
    still, output = write(tmp_path / "still.mp4", still_with_voice()), tmp_path / "scores.json"
    model, _ = load_model(trained_run)
    entry = find_face(still, detector_or_skip("yuface"), clip_frames=model.config.frames)
    clips = clips_over_shots(Video(still, 0, "unlabeled", None, "v", "v"), replace(entry, video="v"))
    assert score_clips(model, clips, workers=1).motion.max() < 0.01
    assert main(["predict", f"--checkpoint={trained_run}", str(still), "--detect", f"--json={output}"]) == 0
    sentence = "nothing moves in its clips: there is no evidence over time, and the verdict is on a still picture"
    assert sentence in " ".join(capsys.readouterr().out.split())
    [row] = json.loads(output.read_text())
    assert sentence in row["remark"]


def test_the_time_that_is_left_is_estimated_for_each_task_by_itself(monkeypatch, capsys):
    """Half an hour of video is searched for minutes before its first clip is scored."""
    now = 1000.0
    monkeypatch.setattr("istvt.cli.console.time.monotonic", lambda: now)
    console = Console(width=120)
    with progress_bar(console, "scoring videos") as update:
        update(0, 45000, "looking for faces in long.mp4")
        now += 30
        update(4500, 45000, "looking for faces in long.mp4")
        now += 270
        update(45000, 45000, "looking for faces in long.mp4")
        update(0, 1, "scoring long.mp4")
        now += 25
        update(0.1, 1, "scoring long.mp4")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "looking for faces in long.mp4: 10% done, about 4 min more",
        "scoring long.mp4: 10% done, about 4 min more",
    ]
