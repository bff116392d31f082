"""Inputs that were a traceback, a wrong answer or a loss: each is one sentence that names file and field, or right."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from commands import refused
from safetensors.torch import load_file, safe_open, save_file
from seeds import LISTS, adapting, copy_tree, training, write

from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.faces.boxes_file import read_boxes
from dataloading.io import read_bytes
from dataloading.layouts import read_dataset
from dataloading.synthetic import read_edited_video
from istvt.cli.main import main
from istvt.cli.service.server import read_token
from istvt.config import DataSettings, ISTVTConfig, ServeSettings, TrainingSettings
from istvt.explain.faithfulness.report import read_faithfulness
from istvt.model.checkpoint import load_model
from istvt.report.evaluation_files import read_evaluation
from istvt.report.hub import model_card
from istvt.training.checkpoint import newest_checkpoint
from istvt.training.distributed import Processes

DEEP = "[" * 5_000
DIGITS = "9" * 5_000


@pytest.fixture(scope="session")
def checkpoint(seeds):
    """Metadata and tensors of a trained model."""
    path = seeds.run / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["istvt"]), load_file(path)


def refusal(path: Path, metadata: str, state: dict[str, torch.Tensor]) -> str:
    save_file(state, path, metadata={"istvt": metadata})
    with pytest.raises(InputError) as error:
        load_model(path)
    sentence = str(error.value)
    assert sentence.startswith(f"checkpoint {path}: ")
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("config", DEEP, "not JSON (recursion limit exceeded"),
        ("image_size", DIGITS, "not JSON (number out of range"),
        ("image_size", "40.5", "config.image_size: 40.5; expected a whole number"),
        ("image_size", "NaN", "config.image_size: nan; expected a finite number"),
        ("image_size", "1000000000000000000", "model.image_size is 1000000000000000000; expected 8,192 or less"),
        ("grid", "[2.5, 2]", "config.grid[0]: 2.5; expected a whole number"),
        ("grid", "[NaN, 2]", "config.grid[0]: nan; expected a finite number"),
        ("grid", "[1000000000000000000, 1]", "model.grid is (1000000000000000000, 1); expected (height, width), each"),
        ("head_dim", "7.5", "config.head_dim: 7.5; expected a whole number"),
        ("head_dim", "1000000000000000000", "model.head_dim is 1000000000000000000; expected 128 or less"),
        ("backbone_dims", "[4, 4, 8, 0.5]", "config.backbone_dims[3]: 0.5; expected a whole number"),
        ("backbone_dims", "[4, 4, 8, 1000000000000000000]", "expected four channel counts, each from 1 to 65,536"),
        ("backbone_dims", "[4]", "config.backbone_dims[1]: missing"),
        ("architecture", "[1]", "config.architecture: [1]; expected one of istvt, xception"),
        ("architecture", '"c3d"', "config.grid: unknown field with the value"),
        ("settings", "[]", "settings: []; expected an object"),
        ("settings", '{"data": 3}', "settings.data: 3; expected an object"),
        ("metrics", '"good"', "metrics: 'good'; expected an object"),
        ("detectors", "7", "detectors: 7; expected a list"),
        ("detectors", '[["yuface"]]', "detectors[0]: ['yuface']; expected text"),
    ],
)
def test_metadata_of_another_type_or_beyond_its_bounds_is_named(checkpoint, tmp_path, field, value, says):
    metadata, state = checkpoint
    metadata = json.loads(json.dumps(metadata))
    (metadata if field in metadata else metadata["config"])[field] = "replaced"
    assert says in refusal(tmp_path / "a.safetensors", json.dumps(metadata).replace('"replaced"', value), state)


@pytest.mark.parametrize(
    ("group", "values", "command", "says"),
    [
        ("data", {"root": None}, "evaluate", "settings.data.root is None; expected text, a path"),
        ("data", {"root": "a\0b"}, "evaluate", "settings.data.root is 'a\\x00b'; expected text, a path"),
        ("training", {"backbone_weights": 3}, "card", "settings.training.backbone_weights is 3; expected text, a"),
        ("adaptation", {"old": 7}, "card", "settings: adaptation.old: 7; expected a list"),
        ("adaptation", {"old": ["x"], "rehearsal": 0.5}, "adapt", "settings: adaptation.old[0]: 'x'; expected an obj"),
    ],
)
def test_what_a_checkpoint_says_of_its_training(checkpoint, seeds, tmp_path, capsys, group, values, command, says):
    """Each was a traceback of the command that reads it, and of no other."""
    metadata, state = checkpoint
    metadata = json.loads(json.dumps(metadata))
    metadata["settings"].setdefault(group, {}).update(values)
    path = tmp_path / "old" / "best.safetensors"
    path.parent.mkdir()
    save_file(state, path, metadata={"istvt": json.dumps(metadata)})
    if command == "card":
        with pytest.raises(InputError) as error:
            model_card(path)
        sentence = str(error.value)
    else:
        place = f"--data.root={seeds.small}"
        arguments = {
            "evaluate": ["evaluate", f"--checkpoint={path}", place, "--split=val"],
            "adapt": adapting(path, seeds.set, tmp_path / "out"),
        }
        sentence = refused(capsys, arguments[command])
    assert f"checkpoint {path}: {says}" in sentence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: {name: value.to(torch.int8) for name, value in state.items()}, "of torch.int8, not torch.fl"),
        (lambda state: {name: value.to(torch.bool) for name, value in state.items()}, "of torch.bool, not torch.fl"),
        (lambda state: {name: torch.zeros_like(value) for name, value in state.items()}, "give any clip a logit of 0,"),
        (lambda state: state | {"norm.weight": state["norm.weight"] * float("nan")}, "norm.weight holds numbers"),
        (
            lambda state: state | {"norm.weight": torch.tensor([1e300] * 16, dtype=torch.float64)},
            "norm.weight holds numbers",
        ),
        (lambda state: state | {"head.weight": torch.zeros(1, 16)}, "whatever it shows; expected"),
        (lambda state: state | {"backbone.bn1.running_var": -torch.ones(4)}, "give noise a logit of nan"),
        (lambda state: state | {"norm.weight": torch.zeros(16, 1)}, "norm.weight has shape (16, 1), not (16,)"),
    ],
    ids=["int8", "bool", "zero", "nan", "beyond float32", "head of zero", "negative variance", "shape"],
)
def test_weights_that_cannot_be_right_give_no_verdict(checkpoint, tmp_path, change, says):
    """Weights of int8 were "fake 100 %", and weights of zero 50 %."""
    metadata, state = checkpoint
    assert says in refusal(tmp_path / "a.safetensors", json.dumps(metadata), change(dict(state)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_are_read(checkpoint, tmp_path, dtype):
    metadata, state = checkpoint
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"istvt": json.dumps(metadata)})
    model, _ = load_model(tmp_path / "a.safetensors")
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("training: &a {seed: *a}", "nested too deeply"),
        ("training: {seed: " + "{a: " * 300 + "1" + "}" * 300 + "}", "nested too deeply"),
        ("training: {seed: !!int abc}", "not YAML (invalid literal for int"),
        ("training: {seed: !!timestamp x}", "not YAML (a value does not fit its tag)"),
        ("training: {tf32: !!bool 7}", "not YAML (a value does not fit its tag)"),
        (f"training: {{seed: {DIGITS}}}", "not YAML (Exceeds the limit"),
        ("training: {seed: 18446744073709551616}", "training.seed: 18446744073709551616; expected a number of at most"),
        ("training: {batch_size: 1000000000}", "training.batch_size is 1000000000; expected 65,536 or less"),
        ("model: {depth: 1000000}", "model.depth is 1000000; expected 1,024 or less"),
        ("data: {workers: 1000000}", "data.workers is 1000000; expected 1,024 or less"),
    ],
)
def test_settings_files(tmp_path, capsys, content, says):
    (tmp_path / "settings.yaml").write_text(content)
    assert says in refused(capsys, ["train", f"--config={tmp_path}/settings.yaml"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--training.seed=!!int abc"], "--training.seed is '!!int abc'; expected a whole number"),
        (["train", "--training.seed=18446744073709551616"], "training.seed is 18446744073709551616; expected 9,223,"),
        (["train", "--training.tf32=!!bool 7"], "--training.tf32 is '!!bool 7'; expected true or false"),
        (["evaluate", "--bootstrap=1000000000"], "--bootstrap is 1000000000; expected at most 1,000,000"),
        (["predict", "a.mp4", "--clips=1000000000"], "--clips is 1000000000; expected at most 100,000"),
        (["synthesize", "/tmp/never-made", "--identities=1000000000"], "takes at most 100,000"),
    ],
)
def test_options(capsys, arguments, says):
    assert says in refused(capsys, arguments)


def test_settings_from_python_have_the_same_bounds():
    for make, says in (
        (lambda: TrainingSettings(momentum=float("nan")), "training.momentum is nan"),
        (lambda: TrainingSettings(epochs=2.5), "training.epochs is 2.5; expected a whole number from 1"),
        (lambda: DataSettings(workers=True), "data.workers is True; expected a whole number"),
        (lambda: ISTVTConfig(depth=10**6), "model.depth is 1000000; expected 1,024 or less"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


def test_a_model_beyond_the_memory_is_refused_before_memory_is_taken(seeds, tmp_path, capsys):
    """Depth 10^6 took 3 GB and then ended in a MemoryError."""
    arguments = [*training(seeds.set, tmp_path / "run"), "--model.depth=1000", "--model.mlp_dim=1000000"]
    assert main([*arguments, "--model.dim=4096", "--model.heads=32"]) == 2
    sentence = capsys.readouterr().err
    assert "parameters and batches of 8 clips need at least " in sentence
    assert "expected a smaller model (model.depth, model.dim, model.mlp_dim) or training.batch_size" in sentence


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dfdc/part/metadata.json", DEEP, "not JSON (recursion limit"),
        ("dfdc/part/metadata.json", '{"a.mp4": {"label": ' + DIGITS + "}}", "not JSON (number out of range"),
        ("dfdc/part/metadata.json", '{"a.mp4": []}', "['a.mp4']: []; expected an object"),
        ("preview/dataset.json", DEEP, "not JSON (recursion limit"),
        ("preview/dataset.json", '{"method_A/a.mp4": {"label": "fake", "target_id": 1e400}}', "inf; expected a finite"),
        ("ff/splits/train.json", DEEP, "not JSON (recursion limit"),
        ("ff/splits/train.json", f'[["000", {DIGITS}]]', "not JSON (number out of range"),
        ("dfdc_test/labels.csv", "filename,label\n" + "x" * 200_000 + ",1\n", "not CSV (field larger than field limit"),
        ("dfdc_test/labels.csv", "filename,label\n,1\n", "line 2: filename: missing; expected a value"),
        ("celeb/List_of_testing_videos.txt", "1 Celeb-real/\ud800.mp4", "not UTF-8 text"),
    ],
)
def test_lists_of_data_sets(seeds, tmp_path, name, content, says):
    directory, _, inside = name.partition("/")
    root = copy_tree(seeds.lists / directory, tmp_path / "set")
    write(root / inside, content.encode(errors="surrogatepass"))
    with pytest.raises(InputError) as error:
        read_dataset(root)
    assert str(error.value).startswith(f"{root / inside}: ")
    assert says in str(error.value)


TRACK = '"boxes": {"frame": [0], "x": [1.0], "y": [1.0], "size": [%s]}'


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (TRACK % "Infinity", "boxes.size[0]: inf; expected a finite number"),
        (TRACK % "1e400", "boxes.size[0]: inf; expected a finite number"),
        ('"boxes": null, "detector": "\\ud800"', "not JSON ("),
        ('"boxes": null, "boxes_of": []', "boxes_of: []; expected text"),
        ('"boxes": []', "boxes: []; expected an object"),
        ('"boxes": null, "frames": 1e30', "frames: 1e+30; expected a whole number"),
    ],
)
def test_lines_of_a_face_index(tmp_path, fields, says):
    line = '{"video": "a", "frames": 9, "fps": 25.0, "width": 64, "height": 64, ' + fields + "}\n"
    if '"frames": 1e30' in fields:
        line = line.replace('"frames": 9, ', "")
    (tmp_path / "face_index.jsonl").write_text(line * 2)
    with pytest.raises(InputError) as error:
        FaceIndex.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/face_index.jsonl: line 1: ")
    assert says in str(error.value)


@pytest.mark.parametrize("size", ["1e30", "-5", "0"])
def test_a_box_that_is_none_leaves_out_its_video_and_no_other(seeds, tmp_path, capsys, size):
    root = copy_tree(seeds.small, tmp_path / "set")
    lines = (root / "face_index.jsonl").read_text().splitlines()
    entry = json.loads(lines[0]) | json.loads("{" + TRACK % size + "}")
    write(root / "face_index.jsonl", "\n".join([json.dumps(entry), *lines[1:], ""]).encode())
    status = main([*training(root, tmp_path / "run"), "--training.epochs=1"])
    printed = capsys.readouterr()
    assert status == 2
    assert printed.err.count("istvt: ") == 1


def test_boxes_that_are_of_the_video_itself_are_prepared_anew(seeds, tmp_path, capsys):
    """It was an endless recursion."""
    root = copy_tree(seeds.small, tmp_path / "set")
    entries = [json.loads(line) for line in (root / "face_index.jsonl").read_text().splitlines()]
    entries[0]["boxes_of"] = entries[0]["video"]
    write(root / "face_index.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    assert main(["prepare", str(root), "--no-detect", "--workers=1"]) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"train/real/train_real": [[0, 1, 1, ' + "9" * 400 + ", 5]]}", "number"),
        ('{"train/real/train_real": [[0, 1, 1, 1e400, 5]]}', "expected a finite number"),
        ('{"train/real/train_real": [[1e300, 1, 1, 5, 5]]}', ""),
        (None, "which is not a file"),
    ],
)
def test_boxes_files(seeds, tmp_path, content, says):
    path = Path("/dev/zero") if content is None else tmp_path / "boxes.json"
    if content is not None:
        path.write_text(content)
    dataset = read_dataset(seeds.small)
    if says:
        with pytest.raises(InputError, match=says):
            read_boxes(path, dataset)
    else:
        assert read_boxes(path, dataset)


def test_a_small_file_takes_little_memory_however_large_it_may_be(tmp_path):
    """Reading a face index of a kilobyte asked the system for 4 GiB."""
    import tracemalloc

    (tmp_path / "a").write_bytes(b"x" * 1_000)
    tracemalloc.start()
    assert len(read_bytes(tmp_path / "a", 4 << 30)) == 1_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


STATE_FIELDS = ("settings", "history", "skipped", "decoder", "detectors", "world_size", "step", "clips", "seconds")
SANITY_ROW = {"cascade": [[0.1]], "other_clip": [0.2], "other_target": [0.1], "sensitivity": [0.3]}
SANITY_ROW |= {"conservation": None}
ROW = {"epoch": 1, "learning_rate": 0.1, "train_loss": 0.5, "clips_per_second": 1.0, "skipped_steps": 0}
ROW |= {"val_accuracy": 0.5, "val_precision": None, "val_recall": 0.5, "val_f1": None, "val_loss": 0.7, "val_auc": 0.5}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *[({name: [[]]}, name) for name in STATE_FIELDS],
        *[({name: "x"}, name) for name in STATE_FIELDS if name != "decoder"],
        ({"epoch": -1}, "epoch is -1; expected at least 0"),
        ({"epoch": 0.5}, "epoch: 0.5; expected a whole number"),
        ({"epoch": 2}, "history has 1 row; expected one for each of the 2 finished epochs"),
        ({"history": []}, "history has 0 rows; expected one for each of the 1 finished epochs"),
        ({"history": [ROW]}, "history[0].seconds: missing"),
        ({"history": [ROW | {"seconds": 1.0, "epoch": 7}]}, "history has 1 row; expected one for each"),
        ({"history": {"epoch": 1}}, "history: {'epoch': 1}; expected a list"),
        ({"csv_size": -1}, "csv_size is -1; expected at least 0"),
        ({"seconds": 0.0, "clips": 9}, "seconds is 0.0 and clips 9; expected the time that they took"),
        ({"seconds": "inf"}, "seconds: 'inf'; expected a number"),
    ],
)  # fmt: skip
def test_states_of_runs(seeds, tmp_path, change, says):
    run = copy_tree(seeds.half_run, tmp_path / "run")
    [path] = run.glob("checkpoints/epoch-0001-*/run.json")
    write(path, json.dumps(json.loads(path.read_text()) | change).encode())
    with pytest.raises(InputError) as error:
        newest_checkpoint(run, Processes())
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)


@pytest.mark.parametrize("content", ["step,loss\n".encode("utf-16"), b"x" * 5_000_000, b"\0" * 10])
def test_steps_of_a_run_in_another_encoding_or_enormous_are_cut_where_the_run_stands(seeds, tmp_path, content):
    run = copy_tree(seeds.half_run, tmp_path / "run")
    write(run / "steps.csv", content)
    assert main(training(seeds.set, run)) == 0
    assert (run / "checkpoints").is_dir()


def test_an_evaluation_that_is_kept_names_its_settings_as_an_object(seeds, tmp_path, capsys):
    """Another type was a traceback when an adaptation or a comparison looked whether it is the one that it wants."""
    out = copy_tree(seeds.adapted, tmp_path / "out")
    path = out / "evaluations" / "before-new" / "evaluation.json"
    kept = json.loads(path.read_text())
    kept["settings"]["evaluation"] = [1]
    write(path, json.dumps(kept).encode())
    sentence = refused(capsys, adapting(seeds.run, seeds.set, out))
    assert f"{path}: settings.evaluation is [1]; expected an object" in sentence


@pytest.mark.parametrize("lines", [0, 1, -1])
def test_scores_that_lack_videos_of_their_evaluation_are_not_compared(seeds, tmp_path, lines):
    """None were a ZeroDivisionError, and fewer gave other metrics than the evaluation's in silence."""
    out = copy_tree(seeds.compared / "evaluations" / "a" / "checkpoint-0" / "drawn", tmp_path / "out")
    path = out / "scores.csv"
    write(path, b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    with pytest.raises(InputError) as error:
        read_evaluation(out)
    assert str(error.value).startswith(f"{path}: holds ")
    assert str(error.value).endswith(f" videos; expected the 2 and 2 of {out}/evaluation.json")


@pytest.mark.parametrize(
    "change",
    [
        {"fractions": []},
        {"fractions": [0.0]},
        {"clips": []},
        {"methods": {}},
        {"methods": {"raw": {"deletion": [[0.5]]}}},
        {"sanity": {"stages": ["head"], "videos": ["a"], "methods": {"raw": SANITY_ROW | {"cascade": []}}}},
        {"sanity": {"stages": ["head"], "videos": ["a"], "methods": {"raw": SANITY_ROW | {"sensitivity": []}}}},
    ],
)
def test_explanations_that_are_measured_in_part_are_not_in_the_report(seeds, tmp_path, change):
    """Lists of other lengths than the clips were tracebacks of the report, where model and videos were its own."""
    from targets import FAITHFULNESS as whole

    (tmp_path / "faithfulness.json").write_text(json.dumps(whole))
    assert read_faithfulness(tmp_path).videos == 2
    (tmp_path / "faithfulness.json").write_text(json.dumps(whole | change))
    assert read_faithfulness(tmp_path) is None


@pytest.mark.parametrize("content", ["{}", "1e400", '{"url": "http://localhost:9/", "whole": false}'])
def test_a_data_set_of_a_stranger_stands_for_no_url(seeds, tmp_path, content):
    """The marker of a cached URL was read wherever it lay: a traceback, or its videos were fetched from there."""
    root = copy_tree(seeds.small, tmp_path / "set")
    (root / ".remote.json").write_text(content)
    assert main(["dataset", str(root)]) == 0
    [video, *_] = sorted(root.rglob("*.mp4"))
    assert main(["predict", str(video), f"--checkpoint={seeds.run}", "--no-detect", "--clips=1"]) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shots": [[0, 8], [9, 1000], [15, 20]]}, "shots are ((0, 8), (9, 1000), (15, 20)); expected [first, last]"),
        ({"shots": []}, "[0, 3, 3] shots, people and places; expected as many of each"),
        ({"people": [[1], [1, 1], [2]]}, "people[1] are (1, 1) in 2 places; expected numbers from 1, each once"),
        ({"fps": 0}, "fps is 0 and size 48; expected numbers from 1"),
        ({"forged_shot": 9}, "forged_shot is 9; expected 1 to 3"),
    ],
)
def test_what_is_said_of_an_edited_video(tmp_path, change, says):
    from targets import EDITED as whole

    (tmp_path / "edited.json").write_text(json.dumps(whole))
    assert len(read_edited_video(tmp_path / "edited.mp4").face_entry("edited.mp4").people) == 2
    (tmp_path / "edited.json").write_text(json.dumps(whole | change))
    with pytest.raises(InputError) as error:
        read_edited_video(tmp_path / "edited.mp4")
    assert str(error.value).startswith(f"{tmp_path}/edited.json: ")
    assert says in str(error.value)


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", "/proc/self/mem"])
def test_a_token_is_a_line_of_a_file(path):
    """A device was read until the memory was full."""
    with pytest.raises(InputError, match=r"^--token_file .*: (holds no token|cannot be read)"):
        read_token(ServeSettings(token_file=Path(path)))


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["whole", "planner_data"])
def test_a_training_checkpoint_runs_no_code(seeds, tmp_path, capsys, where):
    """The metadata of torch.distributed.checkpoint is a pickle, and resuming a run ran whatever it held."""
    run = copy_tree(seeds.half_run, tmp_path / "run")
    [path] = run.glob("checkpoints/epoch-0001-*/.metadata")
    metadata = pickle.loads(path.read_bytes())
    if where == "whole":
        metadata = _RunsCode(tmp_path / "code was run")
    else:
        metadata.planner_data = _RunsCode(tmp_path / "code was run")
    write(path, pickle.dumps(metadata))
    sentence = refused(capsys, training(seeds.set, run))
    assert f"{path.parent}: cannot be read (UnpicklingError: posix.mkdir has no place in a checkpoint)" in sentence
    assert not (tmp_path / "code was run").exists()


def test_a_training_checkpoint_that_is_damaged_is_refused_without_the_advice_to_run_its_code(seeds, tmp_path, capsys):
    """The sentence went on with that of torch.load: again with `weights_only` set to False."""
    out = copy_tree(seeds.adapted, tmp_path / "out")
    [share] = out.glob("checkpoints/*/*.distcp")
    head = seeds.videos["h264.mp4"].read_bytes()[:33]
    write(share, head + share.read_bytes()[33:])
    sentence = refused(capsys, adapting(seeds.run, seeds.set, out))
    assert f"checkpoint {share.parent}: cannot be read (" in sentence
    assert sentence.endswith("); delete it to use the one before it")
    assert "weights_only" not in sentence


def test_an_object_of_a_training_checkpoint_that_is_no_tensor_is_refused(seeds, tmp_path, capsys):
    """It was read by torch.load without `weights_only`."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    run = copy_tree(seeds.half_run, tmp_path / "run")
    [path] = run.glob("checkpoints/epoch-0001-*/.metadata")
    metadata = pickle.loads(path.read_bytes())
    metadata.state_dict_metadata["progress.counters"] = BytesStorageMetadata()
    write(path, pickle.dumps(metadata))
    assert "BytesStorageMetadata has no place in a checkpoint" in refused(capsys, training(seeds.set, run))


@pytest.mark.parametrize("kind", ["link to a directory", "file"])
def test_what_is_left_of_a_checkpoint_is_removed_and_what_a_link_names_is_not(seeds, tmp_path, kind):
    """A link to / was followed by a look at what was about to be removed."""
    run = copy_tree(seeds.half_run, tmp_path / "run")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    left = run / "checkpoints" / "epoch-0002-step-00000004.partial"
    left.symlink_to(precious) if kind != "file" else left.write_text("x")
    assert main(training(seeds.set, run)) == 0
    assert not left.is_symlink() and not left.exists()
    assert (precious / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "content",
    [{1: torch.zeros(2)}, {("a", 2): torch.zeros(2)}, {"conv1.weight": 3}, {"state_dict": {3: torch.zeros(1)}}, {}],
)
def test_backbone_files_whose_keys_are_no_text(tmp_path, capsys, content):
    torch.save(content, tmp_path / "x.pth")
    sentence = refused(capsys, ["model", f"--backbone-weights={tmp_path}/x.pth"])
    assert f"backbone weights {tmp_path}/x.pth: expected a state dict of tensors" in sentence


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(4, 3, 3, 3).to_sparse(), "conv1.weight is of torch.float32 in torch.sparse_coo, not torch.fl"),
        (torch.zeros(4, 3, 3, 3, dtype=torch.complex64), "conv1.weight is of torch.complex64, not torch.float32"),
        (torch.full((4, 3, 3, 3), float("inf")), "conv1.weight holds numbers that are not finite"),
    ],
)
def test_backbone_weights_that_cannot_be_right(seeds, tmp_path, capsys, value, says):
    state = torch.load(seeds.weights / "backbone.pth", weights_only=True)
    torch.save(state | {"conv1.weight": value}, tmp_path / "x.pth")
    from seeds import MODEL

    assert says in refused(capsys, ["model", *MODEL, f"--backbone-weights={tmp_path}/x.pth"])


def test_names_that_are_no_text_are_left_out_and_the_others_are_used(seeds, tmp_path, capsys):
    """`prepare` ended in a UnicodeEncodeError."""
    root = copy_tree(seeds.small, tmp_path / "set")
    os.link(seeds.videos["h264.mp4"], os.fsdecode(os.fsencode(root) + b"/train/real/caf\xe9.mp4"))
    assert main(["prepare", str(root), "--no-detect", "--workers=1"]) == 0
    reason = "a file whose name is not UTF-8 (a link to it may have one that is)"
    assert f"Left out: 1\n  1  {reason}" in capsys.readouterr().out
    assert main(["predict", str(root), f"--checkpoint={seeds.run}", f"--json={tmp_path}/scores.json"]) == 0
    assert f"1 video left out: {reason}" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "scores.json").read_text())) == 4


@pytest.mark.parametrize("name", ["tab\there", "line\nbreak", "\x1b[31mred", "\u202egnp", "a\u0301\u0301", "العربية"])
def test_control_characters_in_a_name_are_no_fault_of_the_pictures(seeds, tmp_path, name):
    """They were `raqm_layout() failed`."""
    path = tmp_path / f"{name}.mp4"
    shutil.copyfile(seeds.videos["h264.mp4"], path)
    arguments = [f"--checkpoint={seeds.run}", "--no-detect", f"--out={tmp_path}/why", "--clips=1"]
    assert main(["explain", str(path), *arguments]) == 0


def test_titles_of_a_video_that_are_no_text_are_no_fault_of_its_pictures(seeds, tmp_path):
    """They were a UnicodeDecodeError in predicting and training."""
    data = seeds.videos["h264.mp4"].read_bytes()
    at = data.index(b"Lavf")  # the name of the program that wrote it
    path = tmp_path / "h264.mp4"
    path.write_bytes(data[:at] + b"\xe6\xff" + data[at + 2 :])
    assert main(["predict", str(path), f"--checkpoint={seeds.run}", "--no-detect"]) == 0


def test_a_long_value_is_shown_shortened(seeds, tmp_path, capsys):
    root = copy_tree(seeds.set, tmp_path / "set")
    settings = json.loads((root / "synthetic.json").read_text()) | {"splits": [0.0] * 100_000}
    write(root / "synthetic.json", json.dumps(settings).encode())
    sentence = refused(capsys, ["synthesize", str(root), "--identities=8", "--frames=10", "--size=48"])
    assert f"{root} holds a synthetic set made with splits (0.0, 0.0, 0.0," in sentence
    assert len(sentence) < 500


def test_the_middle_of_a_long_sentence_is_left_out(seeds, tmp_path, capsys):
    root = copy_tree(seeds.lists / "celeb", tmp_path / "set")
    write(root / "List_of_testing_videos.txt", b"x" * 200_000)
    for arguments in (["dataset", str(root)], ["train", f"--device={'[' * 3_000}"]):
        sentence = refused(capsys, arguments)
        assert " ... " in sentence
        assert "; expected a line such as" in sentence or "; expected auto, cpu" in sentence
        assert len(sentence) < 1_600


def test_every_list_of_the_fuzzer_is_read_whole(seeds):
    for directory in {name.split("/")[0] for name in LISTS}:
        assert read_dataset(seeds.lists / directory).videos
