"""The short run of the fuzzer: some inputs of every kind, and that the fuzzer itself sees what it looks for."""

import json
import sys
from dataclasses import asdict
from random import Random

import pytest
from fork_server import ForkServer, Result
from fuzzing import ALLOWED, SECONDS, problem_of, run_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from long_run import BEGIN, END, counts, inputs
from mutations import changed_json, damaged, fields, with_field
from targets import TARGETS

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry
from dataloading.io import parse_json
from istvt.explain.faithfulness.evaluate import Faithfulness
from istvt.model.checkpoint import CheckpointInfo
from istvt.report.evaluation_files import StoredEvaluation
from istvt.training.checkpoint import RunState

SEED = 1  # another one than that of the long run
COUNTS = dict.fromkeys(
    ("explain", "train", "request", "masks", "adaptation", "learned", "unfinished", "kept_comparison"), 1
)
COUNTS |= dict.fromkeys(("prepare", "checkpoint_tensors", "weights"), 3)


@pytest.fixture(scope="module")
def server():
    with ForkServer(ALLOWED, SECONDS) as server:
        yield server


@pytest.mark.parametrize("target", list(TARGETS))
def test_damaged_inputs_are_used_or_refused_in_a_sentence(server, seeds, target):
    for number in range(COUNTS.get(target, 2)):
        outcome = run_input(server, seeds, target, SEED, number)
        assert outcome.problem is None, f"{target} {number}: {outcome.problem} ({outcome.what})\n{outcome.text}"


def test_the_executable_ends_as_the_fork_does(server, seeds):
    outcome = run_input(server, seeds, "dataset_list", SEED, 0, executable=True)
    assert (outcome.executable, outcome.problem) == (True, None)


def faulty(arguments: list[str]) -> int:
    """A function with the fault that is asked for."""
    [kind] = arguments
    if kind == "traceback":
        raise KeyError("a fault")
    if kind == "hang":
        import time

        time.sleep(60)
    if kind == "crash":
        import ctypes

        ctypes.string_at(0)
    if kind == "memory":
        held = bytearray(1 << 31)
        held[::4096] = b"x" * len(held[::4096])
    if kind == "beyond":
        bytearray(ALLOWED + (1 << 30))
    if kind == "two sentences":
        print("istvt: one\nistvt: two", file=sys.stderr)
        return 2
    return {"status": 3, "silent": 2}.get(kind, 0)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("none", None),
        ("traceback", "a traceback"),
        ("hang", "did not end within"),  # two seconds, and what a busy machine adds
        ("crash", "ended by signal 11"),
        ("memory", "MiB of memory"),
        ("beyond", "a traceback"),  # MemoryError, which no command lets through
        ("status", "exit status 3"),
        ("silent", "0 sentences for a refusal"),
        ("two sentences", "2 sentences for a refusal"),
    ],
)
def test_a_fault_of_each_kind_is_seen(tmp_path, server, monkeypatch, kind, problem):
    monkeypatch.setattr(server, "seconds", 2.0 if kind == "hang" else SECONDS)
    found = problem_of(server.run([kind], tmp_path, "test_fuzz:faulty"))
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(("change", "says"), [(lambda p: p, None), (lambda p: p + 0.01, "; their pictures have ")])
def test_a_score_of_other_pictures_is_seen(server, seeds, tmp_path, change, says):
    video, scores = seeds.videos["vp8.webm"], tmp_path / "scores.json"
    arguments = ["predict", str(video), f"--checkpoint={seeds.run}", "--detect", f"--json={scores}"]
    assert server.run(arguments, tmp_path).status == 0
    rows = json.loads(scores.read_text())
    people = rows[0]["people"]
    assert people and people[0]["clip_probabilities"]
    people[0]["clip_probabilities"][-1] = change(people[0]["clip_probabilities"][-1])
    scores.write_text(json.dumps(rows))
    check = server.run([str(video), str(scores), str(seeds.run), "--detect"], tmp_path, "expected_scores:main")
    assert (check.status, check.out) == (0, "") if says is None else says in check.out


def test_frames_that_a_decoder_reports_as_damaged_must_not_be_scored(server, seeds, tmp_path):
    """A packet in the middle is noise: what is scored must be before it, or after the next keyframe."""
    import av

    source = seeds.videos["mpeg4.avi"].read_bytes()
    with av.open(str(seeds.videos["mpeg4.avi"])) as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][7])
    video = tmp_path / "mpeg4.avi"
    video.write_bytes(source.replace(packet, bytes(len(packet))))
    scores = tmp_path / "scores.json"
    row = {"people": [{"person": None, "clip_frames": [[6, 7, 8, 9, 10, 11]], "clip_probabilities": [0.5]}]}
    scores.write_text(json.dumps([row]))
    check = server.run([str(video), str(scores), str(seeds.run), "--no-detect"], tmp_path, "expected_scores:main")
    assert check.status == 1
    assert "frames [6, 7, 8, 9, 10, 11] are scored, and " in check.out


def test_an_input_is_made_from_its_seed_and_number_alone():
    first, again, other = (
        damaged(bytes(range(256)) * 9, Random(seed), b"donor" * 99) for seed in ("0 a 1", "0 a 1", "0 a 2")
    )
    assert first == again != other


def test_every_field_of_a_tree_can_be_replaced_by_any_text():
    tree = {"a": [1, {"b": None}], "c": {"d": "e"}}
    assert fields(tree) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",), ("c", "d")]
    assert with_field(tree, ("a", 1, "b"), "[NaN") == '{"a": [1, {"b": [NaN}], "c": {"d": "e"}}'
    assert tree == {"a": [1, {"b": None}], "c": {"d": "e"}}
    seen = {changed_json(tree, Random(number))[0] for number in range(50)}
    assert len(seen) > 30


def test_a_long_run_has_the_inputs_that_are_asked_for_and_counts_them():
    wanted = inputs(2_000, 0, list(TARGETS))
    assert len(wanted) >= 1_990
    assert len(set(wanted)) == len(wanted)
    assert {target for target, _ in wanted[:200]} == set(TARGETS)
    outcome = {"status": 2, "seconds": 1.4, "memory": 3 << 20, "scored": False, "executable": True, "what": "x"}
    rows = [outcome | {"target": target, "number": number, "problem": None} for target, number in wanted[:10]]
    rows[0] |= {"problem": "a traceback"}
    text = counts(rows, 0)
    assert "| all | 10 | 0 | 0 | 10 | 1 |" in text
    assert text.endswith(": a traceback ('x')")


def test_the_counts_of_the_last_long_run_stand_in_the_document(request):
    text = (request.config.rootpath / "SECURITY.md").read_text()
    table = text.partition(BEGIN)[2].partition(END)[0]
    [in_all] = [line.split("|")[2] for line in table.splitlines() if line.startswith("| all |")]
    assert int(in_all) >= 2_000


# Hypothesis on the readers themselves: no process, so many examples.

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "real", "fake"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def trees(seeds):
    """A whole file of each kind that is written and read back, as values of JSON."""
    [state] = seeds.half_run.glob("checkpoints/*/run.json")
    index = (seeds.small / "face_index.jsonl").read_text().splitlines()
    curve = {"name": "lrp", "method": "lrp", "stabilizer": 0.01}
    info = {"config": {"frames": 6, "dim": 16, "heads": 2, "grid": [2, 2], "backbone_dims": [4, 4, 8, 8]}}
    info |= {"settings": {"data": {"root": "x"}}, "metrics": {"loss": 0.5}, "versions": {"a": "1"}, "detectors": ["a"]}
    track = {"frame": [0, 5], "x": [1.0, 2.0], "y": [1.0, 2.0], "size": [3.0, 4.0]}
    entry = json.loads(index[0]) | {"boxes": track, "shots": [[0, 6], [7, 15]], "others": [track], "boxes_of": "b"}
    evaluation = json.loads((seeds.run / "evaluation" / "evaluation.json").read_text())
    return [
        (FaceEntry, entry),
        (RunState, json.loads(state.read_text())),
        (StoredEvaluation, evaluation),
        (CheckpointInfo, info),
        (Faithfulness, {"orderings": [curve], "fractions": [0.0], "videos": 1, "clips": 1}),
    ]


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field_is_read_or_refused_in_a_sentence(trees, data):
    model, tree = data.draw(st.sampled_from(trees))
    text = json.dumps(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        tree = json.loads(text)
        path = data.draw(st.sampled_from(fields(tree)))
        text = with_field(tree, path, json.dumps(data.draw(anything)))
        if not isinstance(json.loads(text), dict):
            break
    try:
        assert isinstance(parse_json(text.encode(), model, "where"), model)
    except InputError as refused:
        assert str(refused).startswith("where: ")
        assert "expected " in str(refused)
        assert len(str(refused)) < 1_000


def test_a_result_is_plain_data():
    assert asdict(Result(0, "", "", 0.0, 0)) == {"status": 0, "out": "", "err": "", "seconds": 0.0, "memory": 0}
