"""Commands that are stopped at random moments: each goes on and ends with the files of an undisturbed run.

`make kill-test` runs all 100 moments. A moment is a fraction of the time that the undisturbed run took here, drawn from
a seed, so that a failing one can be run again by its name. Stopped are the command itself, single worker processes,
single processes of two that train together, and single workers of a Ray cluster. Every command that writes files has a
row in `COMMANDS` and its share of the moments in `MOMENTS`.
"""

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds of one run, on a busy machine too
# What the clock says differs from run to run, and so does the length of a file that holds it.
CLOCK = ("seconds", "clips_per_second", "csv_size")
MOMENTS = {
    "synthesize": 12, "prepare": 14, "store": 6, "adapt": 8, "train": 14, "train by two": 12, "evaluate": 8,
    "explain": 8, "shard": 9, "cluster": 9,
}  # fmt: skip
SIGNALS = {
    "command": ("SIGINT", "SIGTERM", "SIGKILL"),
    "worker": ("SIGKILL", "SIGTERM"),
    "rank": ("SIGKILL", "SIGTERM"),
    "node's worker": ("SIGKILL", "SIGTERM"),
}
CLUSTER = "cluster.json"  # in the folder of the inputs: address of a Ray cluster, and its raylets


@dataclass(frozen=True)
class Command:
    """How to run it, what it writes, and what of it may be stopped.

    Attributes:
        arguments: called with the folder of the inputs and that of the run.
        inputs: what of the inputs it writes to, and so is copied for each run.
        targets: keys of `SIGNALS`.
        processes: 2 under torchrun.
    """

    arguments: Callable[[Path, Path], list[str]]
    targets: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    processes: int = 1


def train_arguments(inputs: Path, run: Path) -> list[str]:
    return [
        "train", f"--data.root={inputs}/prepared", f"--output={run}/out", "--training.epochs=2",
        "--training.batch_size=4", "--training.checkpoint_steps=2", "--training.log_steps=1",
        "--data.evaluation_clips=2", "--model.image_size=40", "--model.dim=16", "--model.heads=2",
        "--model.mlp_dim=24", "--model.backbone_dims=[4,4,8,8]",
    ]  # fmt: skip


def adapt_arguments(inputs: Path, run: Path) -> list[str]:
    return [
        "adapt", f"--from={inputs}/trained", f"--data={inputs}/prepared", f"--output={run}/out",
        "--data.manipulations=[flicker]", "--data.evaluation_clips=2", "--training.epochs=2",
        "--training.batch_size=4", "--training.checkpoint_steps=2", "--training.log_steps=1", "--bootstrap=50",
    ]  # fmt: skip


def synthesize_arguments(_: Path, run: Path) -> list[str]:
    return ["synthesize", f"{run}/out", "--identities=8", "--frames=10", "--size=64"]


def prepare_arguments(_: Path, run: Path) -> list[str]:
    return ["prepare", f"{run}/videos", "--workers=2", "--every=1"]


def store_arguments(_: Path, run: Path) -> list[str]:
    return ["prepare", f"{run}/videos", "--no-detect", f"--crops={run}/out", "--workers=2"]


def predict_arguments(inputs: Path, run: Path) -> list[str]:
    return ["predict", f"{inputs}/prepared", f"--checkpoint={inputs}/trained", f"--json={run}/scores.json"]


def shard_arguments(inputs: Path, run: Path) -> list[str]:
    return [*predict_arguments(inputs, run), "--shard=1/2"]


def cluster_arguments(inputs: Path, run: Path) -> list[str]:
    address = json.loads((inputs / CLUSTER).read_text())["address"]
    return [*predict_arguments(inputs, run), "--engine=ray", f"--address={address}"]


def evaluate_arguments(inputs: Path, run: Path) -> list[str]:
    where = [f"--checkpoint={inputs}/trained", f"--data.root={inputs}/prepared", f"--output={run}/out"]
    return ["evaluate", *where, "--bootstrap=200"]


def explain_arguments(inputs: Path, run: Path) -> list[str]:
    [video, *_] = sorted((inputs / "prepared" / "manipulated_sequences").rglob("c23/videos/*.mp4"))
    return ["explain", str(video), f"--checkpoint={inputs}/trained", f"--out={run}/out"]


COMMANDS = {
    "synthesize": Command(synthesize_arguments, ("command", "worker")),
    "prepare": Command(prepare_arguments, ("command", "worker"), inputs=("videos",)),
    "store": Command(store_arguments, ("command", "worker"), inputs=("videos",)),
    "shard": Command(shard_arguments, ("command", "worker")),
    "cluster": Command(cluster_arguments, ("command", "node's worker")),
    "adapt": Command(adapt_arguments, ("command", "worker")),
    "train": Command(train_arguments, ("command", "worker")),
    "train by two": Command(train_arguments, ("command", "rank", "worker"), processes=2),
    "evaluate": Command(evaluate_arguments, ("command", "worker")),
    "explain": Command(explain_arguments, ("command", "worker")),
}


def start(name: str, inputs: Path, run: Path) -> subprocess.Popen:
    command, temporary = COMMANDS[name], run / "tmp"
    temporary.mkdir(exist_ok=True)
    python = [sys.executable, "-m"]
    if command.processes > 1:
        python += ["torch.distributed.run", f"--nproc-per-node={command.processes}", "--rdzv-backend=c10d"]
        python += ["--rdzv-endpoint=localhost:0", "-m"]
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (run / "log").open("ab") as log:
        return subprocess.Popen(
            [*python, "istvt", *command.arguments(inputs, run)], cwd=ROOT, env=environment, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def finish(process: subprocess.Popen) -> int:
    with process:
        return process.wait(timeout=LIMIT)


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, and they, with their command lines."""
    found, left = {}, [pid]
    while left:
        for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, children.read_text().split()):
                    line = Path(f"/proc/{child}/cmdline").read_bytes()
                    found[child] = line.replace(b"\0", b" ").decode(errors="replace")
                    left.append(child)
    return found


def workers_of_nodes(inputs: Path) -> list[int]:
    """Return the processes of a Ray cluster that hold a model."""
    raylets = json.loads((inputs / CLUSTER).read_text())["raylets"]
    return [pid for raylet in raylets for pid, line in descendants(raylet).items() if line.startswith("ray::_Worker")]


def is_alive(pid: int, line: str) -> bool:
    """Whether it runs, and its number is not that of a later process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") == line
    return False


def new_run(name: str, inputs: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for part in COMMANDS[name].inputs:
        shutil.copytree(inputs / part, folder / part)
    return folder


def products(run: Path) -> dict[str, object]:
    """Return what a run has written, by path, without what the clock says."""
    found: dict[str, object] = {}
    own = {str(run): "RUN"}
    with contextlib.suppress(FileNotFoundError), safe_open(run / "out" / "best.safetensors", "pt") as file:
        own[file.metadata()["checksum"]] = "CHECKSUM"  # of weights and metadata, which hold the seconds of an epoch
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name == "log" or name.startswith("tmp/") or path.suffix == ".lock" or "tensorboard" in name:
            continue
        found[name] = content(path, own)
    return found


def content(path: Path, own: dict[str, str]) -> object:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key).numpy().tobytes() for key in sorted(file.keys())}
            metadata = {
                key: timeless(json.loads(value), own) for key, value in file.metadata().items() if value[:1] in "{["
            }
        return tensors, metadata
    if path.suffix == ".distcp" or path.name == ".metadata":
        return None  # shares of a checkpoint, of which the next lines of training are the test
    if path.suffix == ".csv":
        return [[cell for key, cell in row.items() if key not in CLOCK] for row in csv.DictReader(path.open())]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()), own)
    data = re.sub(rb"Made on [^<]+", b"Made on", path.read_bytes())
    if path.suffix == ".html":  # the rows of history.csv: the fourth and the last cell are times
        cells = rb"(<tr>(?:<td>[^<]*</td>){3})<td>[^<]*</td>((?:<td>[^<]*</td>){7})<td>[^<]*</td></tr>"
        data = re.sub(cells, rb"\1\2", data.replace(b"<wbr>", b""))
    for mine, name in own.items():
        data = data.replace(mine.encode(), name.encode())
    return data


def timeless(value: object, own: dict[str, str]) -> object:
    if isinstance(value, dict):
        return {key: timeless(item, own) for key, item in value.items() if key not in CLOCK}
    if isinstance(value, list):
        return [timeless(item, own) for item in value]
    if isinstance(value, str):
        for mine, name in own.items():
            value = value.replace(mine, name)
    return value


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A set of videos, the same one prepared, and a trained model."""
    from istvt.cli.main import main

    folder = tmp_path_factory.mktemp("inputs")
    assert main(["synthesize", f"{folder}/videos", "--identities=8", "--frames=10", "--size=96"]) == 0
    shutil.copytree(folder / "videos", folder / "prepared")
    assert main(["prepare", f"{folder}/prepared", "--no-detect"]) == 0
    assert main([*train_arguments(folder, folder), f"--output={folder}/trained"]) == 0
    return folder


@pytest.fixture(scope="session")
def cluster(inputs):
    """A Ray cluster of two nodes."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes.list_all_nodes()]
    (inputs / CLUSTER).write_text(json.dumps({"address": nodes.address, "raylets": raylets}))
    yield
    nodes.shutdown()


@pytest.fixture(scope="session")
def undisturbed(inputs, tmp_path_factory):
    """Called with a command's name: what it writes, and the seconds that it takes."""
    known: dict[str, tuple[dict[str, object], float]] = {}

    def of(name: str) -> tuple[dict[str, object], float]:
        if name not in known:
            run = new_run(name, inputs, tmp_path_factory.mktemp("undisturbed") / "run")
            began = time.monotonic()
            status = finish(start(name, inputs, run))
            assert status in (0, 1), (run / "log").read_text()
            known[name] = products(run), time.monotonic() - began
        return known[name]

    return of


def cases() -> list[tuple[str, str, str, float]]:
    """Return command, what is stopped, by which signal, and when, as a fraction of the undisturbed time."""
    chosen, drawn = [], random.Random(2026)
    for name, count in MOMENTS.items():
        ways = [(target, sent) for target in COMMANDS[name].targets for sent in SIGNALS[target]]
        chosen += [(name, *ways[number % len(ways)], round(drawn.uniform(0, 1), 3)) for number in range(count)]
    return chosen


def test_there_are_a_hundred_moments():
    assert len(cases()) == 100
    assert {name for name, *_ in cases()} == set(COMMANDS)


@pytest.mark.parametrize(("name", "target", "sent", "moment"), cases())
def test_stopped_at_any_moment_a_command_goes_on_and_ends_with_the_same_files(
    inputs, undisturbed, tmp_path, name, target, sent, moment, request
):
    if name == "cluster":
        request.getfixturevalue("cluster")
    expected, seconds = undisturbed(name)
    run = new_run(name, inputs, tmp_path / "run")
    process = start(name, inputs, run)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment * seconds)
    children = descendants(process.pid)
    marks = {"worker": "dataloading.video.processes", "rank": " -m istvt "}
    if target == "command":
        victims = [process.pid]
    elif target == "node's worker":
        victims = workers_of_nodes(inputs)
    else:
        victims = [pid for pid, line in children.items() if marks[target] in line]
    if victims and process.poll() is None:
        victim = random.Random(moment).choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.Signals[sent])
        if COMMANDS[name].processes > 1 and target == "command" and sent == "SIGKILL":
            for child in children:  # torchrun's processes do not know that it is gone: as if the machine were
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    status = finish(process)
    if "worker" in target and COMMANDS[name].processes == 1:
        assert status in (0, 1), (run / "log").read_text()  # it costs nothing
    deadline = time.monotonic() + 60
    while any(is_alive(pid, line) for pid, line in children.items()):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.05)
    stopped_log = (run / "log").read_text()
    if COMMANDS[name].processes == 1:  # torchrun prints tracebacks of its own
        assert "Traceback" not in stopped_log, stopped_log
    if status not in (0, 1) or (status and COMMANDS[name].processes > 1):  # torchrun ends with 1 when it is stopped
        status = finish(start(name, inputs, run))
    assert status in (0, 1), (run / "log").read_text()

    written = products(run)
    assert written.keys() == expected.keys()
    assert [path for path in written if written[path] != expected[path]] == []
    assert [path for path in run.rglob("*") if ".partial" in path.name] == []
    assert [path.name for path in (run / "tmp").iterdir() if not path.name.startswith("torchelastic")] == []
