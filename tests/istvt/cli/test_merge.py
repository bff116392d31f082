"""`--shard` and `istvt merge`: the result of shards is that of one run, byte for byte, and wrong shards are refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import refused

from dataloading.clips import cutting
from dataloading.engines.journal import Shard
from istvt.cli.main import main
from istvt.evaluation.robustness import score_pass
from istvt.report import evaluate_robustness


@pytest.fixture(scope="module")
def videos(synthetic_set, tmp_path_factory) -> Path:
    """Eight videos and one that is none."""
    folder = tmp_path_factory.mktemp("videos") / "videos"
    shutil.copytree(synthetic_set / "original_sequences", folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def scores(videos, trained_run, tmp_path_factory) -> Path:
    """What one run writes, and beside it three shards."""
    file = tmp_path_factory.mktemp("scores") / "scores.json"
    assert main(predict_arguments(videos, trained_run, file)) == 1
    for number in (1, 2, 3):
        assert main(predict_arguments(videos, trained_run, file, f"--shard={number}/3")) in (0, 1)
    return file


def predict_arguments(videos: Path, run: Path, file: Path, *more: str) -> list[str]:
    return ["predict", str(videos), f"--checkpoint={run}", f"--json={file}", "--clips=2", *more]


def shards_of(file: Path) -> list[str]:
    return sorted(map(str, file.parent.glob(f"{file.name}.shard-*")))


def test_merged_scores_are_those_of_one_run_byte_for_byte_and_the_video_without_one_is_named(scores, tmp_path, capsys):
    merged = tmp_path / "merged.json"
    assert main(["merge", *reversed(shards_of(scores)), f"--output={merged}"]) == 1
    assert merged.read_bytes() == scores.read_bytes()
    printed = " ".join(capsys.readouterr().out.split())
    assert "broken.mp4" in printed
    assert "8 of 9 videos scored" in printed


def test_a_merged_evaluation_is_that_of_one_run(synthetic_set, trained_run, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", "--bootstrap=50"]
    assert main([*data, f"--output={whole}"]) == 0
    for number in (1, 2):
        assert main([*data, f"--output={parts}", f"--shard={number}/2"]) == 0
    assert not (parts / "evaluation.json").exists()
    assert main(["merge", *shards_of(parts / "evaluation.json"), f"--output={parts}"]) == 0
    for name in ("evaluation.json", "scores.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    reports = [re.sub(r"Made on [^<]*", "", (folder / "report.html").read_text()) for folder in (whole, parts)]
    assert reports[0] == reports[1]


def test_merged_curves_of_perturbed_videos_are_those_of_one_run_that_was_stopped(
    synthetic_set, trained_run, tmp_path, monkeypatch, capsys
):
    """A sweep began anew where it was stopped, and shards of it were refused."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", "--bootstrap=50"]
    data += ["--data.evaluation_clips=1", "--perturb=blur:1,4", "--perturb=drop:0.3", "--perturb=h264:40"]

    def stops(model, clips, of, *how, number=[0]):  # noqa: B006 (counts over all passes)
        for outcome in score_pass(model, clips, of, *how):
            number[0] += 1
            if number[0] == 11:
                raise KeyboardInterrupt
            yield outcome

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_robustness, "score_pass", stops)
        assert main([*data, f"--output={whole}"]) == 130
    assert "finished work is kept, and the same command resumes it" in capsys.readouterr().err
    kept = (whole / "robustness.json.unfinished").read_text().splitlines()
    assert len(kept) == 1 + 10
    evaluated = (whole / "scores.csv").stat().st_mtime_ns
    message = refused(capsys, [*data, f"--output={whole}", "--perturb=noise"])
    assert "robustness.json.unfinished holds 10 of 24 readings of videos of another job (perturb is [" in message
    scored = []
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_robustness, "score_pass", lambda *a: scored.extend(a[1]) or score_pass(*a))
        assert main([*data, f"--output={whole}"]) == 0
    every = len((whole / "robustness.csv").read_text().splitlines()) - 1
    assert len(scored) == every - 8 - 10  # eight videos have two strengths of blur in one reading; ten were done
    assert (whole / "scores.csv").stat().st_mtime_ns == evaluated  # the evaluation was whole
    assert not (whole / "robustness.json.unfinished").exists()

    for number in (1, 2):
        assert main([*data, f"--output={parts}", f"--shard={number}/2"]) == 0
    perturbed = shards_of(parts / "robustness.json")
    message = refused(capsys, ["merge", *perturbed, f"--output={parts}"])
    assert "evaluation.json: cannot be read" in message
    for result in ("evaluation.json", "robustness.json"):
        assert main(["merge", *shards_of(parts / result), f"--output={parts}"]) == 0
    for name in ("robustness.json", "robustness.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    reports = [re.sub(r"Made on [^<]*", "", (folder / "report.html").read_text()) for folder in (whole, parts)]
    assert reports[0] == reports[1]


@pytest.fixture(scope="module")
def unprepared(synthetic_set, tmp_path_factory) -> Path:
    """Eight originals and eight fakes of them, one of them damaged."""
    root = tmp_path_factory.mktemp("unprepared") / "videos"
    shutil.copytree(synthetic_set, root, ignore=shutil.ignore_patterns("flicker", "both", "face_index.jsonl"))
    fake = sorted((root / "manipulated_sequences").rglob("c23/videos/*.mp4"))[0]
    fake.write_bytes(fake.read_bytes()[:500])
    return root


def test_merged_face_boxes_and_crops_are_those_of_one_run_byte_for_byte(unprepared, tmp_path):
    sets = {}
    for name in ("whole", "parts"):
        # The index names files: both sets have the same path, one after the other.
        place = tmp_path / "set"
        shutil.copytree(unprepared, place)
        sets[name] = tmp_path / name
        prepare, store = ["prepare", str(place), "--no-detect", "--workers=1"], sets[name] / "crops"
        sets[name].mkdir()
        if name == "whole":
            assert main([*prepare, f"--crops={store}"]) == 1
        else:
            shards = [main([*prepare, f"--shard={number}/3"]) for number in (3, 1, 2)]
            assert sorted(shards) == [0, 0, 1]
            index = place / "face_index.jsonl"
            assert main(["merge", *shards_of(index), f"--output={index}"]) == 1
            for number in (1, 2, 3):
                assert main([*prepare, f"--crops={store}", f"--shard={number}/3"]) == 1
            assert main(["merge", *shards_of(store / "crops.jsonl"), f"--output={store}"]) == 1
        place.rename(sets[name] / "set")
    files = {
        name: {
            str(path.relative_to(root)): path
            for path in root.rglob("*")
            if path.is_file() and ".shard-" not in path.name and not path.name.endswith(".lock")
        }
        for name, root in sets.items()
    }
    assert files["whole"].keys() == files["parts"].keys()
    assert any(name.endswith(".mkv") for name in files["whole"])
    for name, path in files["whole"].items():
        # The time of a copied file is that of the copy.
        expected, found = (re.sub(rb'"modified": \d+', b"", file.read_bytes()) for file in (path, files["parts"][name]))
        assert found == expected, name


def test_fakes_are_in_the_shard_of_their_original_whose_boxes_they_take():
    groups = ["a", "b", "c", "a", "b", "a"]
    found = [Shard(number, 2).positions(groups) for number in (1, 2)]
    assert found == [[0, 2, 3, 5], [1, 4]]


def test_a_shard_that_was_stopped_goes_on_with_what_it_has_done_and_ends_with_the_same_bytes(
    scores, videos, trained_run, monkeypatch, tmp_path
):
    """Its last line is half written; the file of one of the videos that were done has changed since."""
    from istvt.inference import predict as module

    [first, *_] = shards_of(scores)
    shard, expected = Path(first), Path(first).read_bytes()
    head, one, two, three = expected.splitlines(keepends=True)
    assert json.loads(three)["video"].endswith("mp4")
    shard.write_bytes(head + two + one.replace(b'"version": [', b'"version": [1') + three[:40])
    scored = []
    score = module.FileScoring.predict
    monkeypatch.setattr(
        module.FileScoring,
        "predict",
        lambda how, model, path, *more: scored.append(path) or score(how, model, path, *more),
    )
    assert main(predict_arguments(videos, trained_run, scores, "--shard=1/3")) in (0, 1)
    assert shard.read_bytes() == expected
    assert [str(path) for path in scored] == [json.loads(line)["video"] for line in (one, three)]


def edited(shard: str, folder: Path, change) -> str:
    """A copy of a shard with another header."""
    head, *lines = Path(shard).read_text().splitlines(keepends=True)
    header = json.loads(head)
    change(header)
    place = folder / Path(shard).name
    place.write_text(json.dumps(header) + "\n" + "".join(lines))
    return str(place)


def test_wrong_shards_are_one_sentence(scores, tmp_path, capsys):
    one, two, three = shards_of(scores)
    where = f"--output={tmp_path}/merged.json"

    def sentence(*shards: str) -> str:
        return refused(capsys, ["merge", *shards, where])

    assert "shard 2 is missing; expected all 3" in sentence(one, three)
    assert "are both shard 1/3; expected each once" in sentence(one, two, three, one)
    other_model = edited(two, tmp_path, lambda header: header["settings"].update(model="abc"))
    assert "no shard of the same job" in sentence(one, other_model, three)
    assert "(model is 'abc' in it, not" in sentence(one, other_model, three)
    other_torch = edited(two, tmp_path, lambda header: header["settings"]["versions"].update(torch="1.0"))
    assert "(versions.torch is '1.0' in it, not" in sentence(one, other_torch, three)
    assert "it is one of 4 shards, not of 3" in sentence(
        one, edited(two, tmp_path, lambda header: header["shard"].update(of=4)), three
    )
    assert "are others than these" in sentence(
        one, edited(two, tmp_path, lambda header: header.update(names="x")), three
    )
    (tmp_path / "half").write_bytes(Path(two).read_bytes()[:-400])
    assert "is unfinished: it holds 2 of 3 videos of shard 2/3" in sentence(one, str(tmp_path / "half"), three)
    assert "is no shard" in sentence(str(scores))
    assert "cannot be read" in sentence("/nowhere")
    assert "is a directory; expected the JSON file" in refused(
        capsys, ["merge", one, two, three, f"--output={tmp_path}"]
    )


def test_wrong_options_of_shards_are_one_sentence(scores, videos, trained_run, capsys, tmp_path):
    arguments = predict_arguments(videos, trained_run, scores)
    for text in ("0/3", "4/3", "3", "a/b", "1/100001"):
        sentence = refused(capsys, [*arguments, f"--shard={text}"])
        assert sentence.endswith(f"--shard is '{text}'; expected NUMBER/OF such as 3/16, counted from 1")
    assert "--shard is given without --json FILE" in refused(
        capsys, ["predict", str(videos), f"--checkpoint={trained_run}", "--shard=1/2"]
    )
    # Settings of its own: what was done with others is not thrown away.
    sentence = refused(capsys, [*arguments, "--shard=1/3", "--faces=main"])
    assert "holds 2 of 3 videos of another job (faces is 'all' in it, not 'main')" in sentence
    assert "give the settings that it was made with to go on, or delete it" in sentence
    assert "--explain measures on one machine" in refused(
        capsys, ["evaluate", f"--checkpoint={trained_run}", "--explain", "--shard=1/2"]
    )
    assert "--address is given without --engine ray" in refused(capsys, [*arguments, "--address=here:1"])


def test_a_crop_that_a_shard_has_cut_and_that_is_gone_is_named(unprepared, tmp_path, capsys):
    place, store = tmp_path / "set", tmp_path / "crops"
    shutil.copytree(unprepared, place)
    prepare = ["prepare", str(place), "--no-detect", "--workers=1"]
    assert main(prepare) == 1
    assert main([*prepare, f"--crops={store}", "--shard=1/1"]) == 1
    sorted((store / "videos").rglob("*.mkv"))[0].unlink()
    assert "lacks the crops of" in refused(
        capsys, ["merge", *shards_of(store / cutting.store.JOURNAL), f"--output={store}"]
    )
