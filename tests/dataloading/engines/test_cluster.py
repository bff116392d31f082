"""A real Ray cluster of two nodes on this machine: the same results as from one, also where workers and nodes die."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dataloading import read_dataset
from dataloading.engines import cluster as module
from dataloading.engines.cluster import RayEngine
from dataloading.errors import InputError
from dataloading.faces.prepare import prepare
from istvt.cli.main import main


def on_a_cluster(test: Callable) -> Callable:
    """Mark a test that starts one: `make cluster`, after `make test`, which has no minute for it."""
    missing = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'istvt[ray]'")
    return pytest.mark.exhaustive(missing(test))


def start_cluster(head: dict, attempts: int = 4) -> Any:
    """Ray gives a node 30 seconds to start, which a machine under load may not."""
    from ray.cluster_utils import Cluster

    cluster = None
    for attempt in range(attempts):
        with contextlib.ExitStack() as stack:
            if attempt < attempts - 1:
                stack.enter_context(contextlib.suppress(Exception))
            cluster = cluster or Cluster(initialize_head=True, head_node_args=head)
            cluster.add_node(num_cpus=1)
            return cluster
    raise AssertionError


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head with one core and another node with one core."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A node that is gone is known to be so after two seconds instead of fifteen.
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    cluster = start_cluster(head)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def engine(nodes) -> Iterator[RayEngine]:
    with RayEngine(nodes.address) as connected:
        yield connected


def doing(function: Callable) -> Callable:
    """A setup: pickled by value, as a worker cannot import this module."""

    def setup() -> Callable:
        return function

    return setup


def done(engine: RayEngine, function: Callable, jobs: list) -> dict:
    return dict(engine.map(doing(function), jobs, lambda job: f"{job}.mp4", gpu=False))


@on_a_cluster
def test_jobs_are_done_on_both_nodes_and_errors_are_of_their_jobs(engine):
    def work(job):
        import os

        from dataloading.errors import InputError

        time.sleep(0.3)
        if job == 3:
            raise InputError("3.mp4 is empty.")
        return 1 // (job - 4) and os.getppid()

    assert engine.description == "Ray cluster of 2 machines with 2 cores and 0 GPUs"
    assert engine.device_type("auto") == "cpu"
    with pytest.raises(InputError, match="device is cuda, and no machine of the Ray cluster has a GPU"):
        engine.device_type("cuda")
    results = done(engine, work, list(range(10)))
    assert list(results.pop(3).args) == ["3.mp4 is empty."]
    assert re.match(r"4\.mp4 failed \(.*by zero\)\.$", str(results.pop(4)))
    raylets = {result for job, result in results.items() if job > 4}
    assert len(raylets) == 2, "both nodes take jobs"


@on_a_cluster
def test_a_job_that_kills_its_worker_twice_is_named_and_left_out_and_the_others_are_done(nodes, tmp_path):
    def work(job):
        import os

        (tmp_path / f"{job}-{time.monotonic_ns()}").touch()
        if job == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return job

    sentences = []
    with RayEngine(nodes.address, warn=sentences.append) as engine:
        results = done(engine, work, list(range(6)))
    assert re.match(r"2\.mp4 made its worker die twice \(its process ended.*\)\.$", str(results.pop(2)))
    assert results == {0: 0, 1: 1, 3: 3, 4: 4, 5: 5}
    assert len(list(tmp_path.glob("2-*"))) == 2
    assert len(sentences) == 2
    assert all(re.match(r"a worker on .+ was lost; done again: .*2\.mp4", sentence) for sentence in sentences)


@on_a_cluster
def test_jobs_of_a_node_that_is_lost_are_done_elsewhere(nodes, tmp_path):
    lost = nodes.add_node(num_cpus=1)
    [raylet] = lost.all_processes["raylet"]
    pid, killed = raylet.process.pid, []

    def work(job):
        import os

        (tmp_path / f"{os.getppid()}-{job}-{os.getpid()}").touch()
        time.sleep(0.6)
        return job

    sentences, results = [], {}
    with RayEngine(nodes.address, warn=sentences.append) as engine:
        for job, result in engine.map(doing(work), list(range(10)), lambda job: f"{job}.mp4", gpu=False):
            results[job] = result
            if not killed and (workers := {int(path.name.split("-")[2]) for path in tmp_path.glob(f"{pid}-*")}):
                killed = [pid, *workers]  # all of the machine at once
                for process in killed:
                    os.kill(process, signal.SIGKILL)
    nodes.remove_node(lost, allow_graceful=False)
    assert killed, "the node had jobs before it was lost"
    assert results == {job: job for job in range(10)}
    assert sentences, "before the cluster itself has noticed"
    assert all(re.match(r"the machine .+ was lost", sentence) for sentence in sentences), sentences


@on_a_cluster
def test_a_machine_without_the_model_or_with_other_versions_or_without_a_video_is_one_sentence(engine, monkeypatch):
    def no_model():
        from dataloading.errors import InputError

        raise InputError("checkpoint /models/a: no such file")

    def refused(setup, file="a.mp4") -> str:
        with pytest.raises(InputError) as caught:
            list(engine.map(setup, [1], lambda job: file, gpu=False))
        return str(caught.value)

    where = f"the machine {socket.gethostname()} of the Ray cluster cannot do this: "
    assert refused(no_model) == f"{where}checkpoint /models/a: no such file"
    with monkeypatch.context() as patch:  # this file is on the machine that asks
        patch.setattr(module.os.path, "exists", lambda path: True)
        sentence = refused(doing(lambda job: job), "/elsewhere/a.mp4")
    assert sentence.startswith("/elsewhere/a.mp4 is not on the machine ")
    assert sentence.endswith("expected the same paths on every machine, as on a shared disk")
    monkeypatch.setattr(module, "versions", lambda: {"av": "1.0"})
    assert re.match(
        re.escape(where) + r"it has av [\d.]+, and .+ has 1\.0; expected the same everywhere", refused(no_model)
    )


@on_a_cluster
def test_a_cluster_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"the Ray cluster {address} cannot be reached \(Connection refused\)"):
            RayEngine(address).__enter__()
        unused.listen()  # something else, which says nothing
        monkeypatch.setattr(module, "_REACH_SECONDS", 0.2)
        with pytest.raises(InputError, match=rf"the Ray cluster {address} cannot be reached \(timed out\)"):
            RayEngine(address).__enter__()
    for wrong in ("here", "ray://here:1", "a:b", "a:99999", ":1"):
        with pytest.raises(InputError, match="expected HOST:PORT"):
            RayEngine(wrong)


def test_without_ray_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=re.escape("is not installed: pip install 'istvt[ray]'")):
        RayEngine()


# The commands.


@pytest.fixture(scope="module")
def videos(synthetic_set, tmp_path_factory) -> Path:
    """Eight videos and one that is none."""
    folder = tmp_path_factory.mktemp("videos") / "videos"
    shutil.copytree(synthetic_set / "original_sequences", folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@on_a_cluster
def test_predict_stopped_on_a_cluster_goes_on_and_writes_the_file_of_one_machine(
    nodes, videos, trained_run, tmp_path, monkeypatch, capsys
):
    from dataloading.engines.journal import Journal

    one, many = tmp_path / "one.json", tmp_path / "many.json"
    predict = ["predict", str(videos), f"--checkpoint={trained_run}", "--clips=2"]
    assert main([*predict, f"--json={one}"]) == 1
    add, added, handler = Journal.add, [], signal.getsignal(signal.SIGTERM)

    def stop(journal, position, result):
        add(journal, position, result)
        added.append(position)
        if len(added) == 3:
            raise KeyboardInterrupt

    on_cluster = [*predict, f"--json={many}", "--engine=ray", f"--address={nodes.address}"]
    monkeypatch.setattr(Journal, "add", stop)
    assert main(on_cluster) == 130
    assert "finished work is kept, and the same command resumes it" in capsys.readouterr().err
    assert not many.exists()
    assert len((tmp_path / "many.json.unfinished").read_text().splitlines()) == 1 + 3
    assert main(on_cluster) == 1
    assert len(added) - 3 in (6, 7), "what was done is not done again, but for the file that failed"
    assert many.read_bytes() == one.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.json", "one.json"]
    assert signal.getsignal(signal.SIGTERM) == handler, "Ray's own handler raises SystemExit"


@on_a_cluster
def test_prepare_on_a_cluster_writes_the_index_of_one_machine(engine, synthetic_set, tmp_path):
    written = []
    for cluster in (None, engine):
        shutil.copytree(synthetic_set, tmp_path / "set", ignore=shutil.ignore_patterns("flicker", "both", "*.jsonl"))
        fake = sorted((tmp_path / "set/manipulated_sequences").rglob("c23/videos/*.mp4"))[0]
        fake.write_bytes(fake.read_bytes()[:500])
        index = prepare(read_dataset(tmp_path / "set"), detect=False, workers=1, progress=False, engine=cluster)
        assert len(index.errors) == 1
        written.append((tmp_path / "set/face_index.jsonl").read_bytes())
        shutil.rmtree(tmp_path / "set")
    assert written[0] == written[1]


@on_a_cluster
def test_prepare_and_evaluate_on_a_cluster_write_the_files_of_one_machine(nodes, synthetic_set, trained_run, tmp_path):
    cluster = ["--engine=ray", f"--address={nodes.address}"]
    place, kept = tmp_path / "set", {}
    for name, how in (("one", []), ("many", cluster)):
        shutil.copytree(synthetic_set, place, ignore=shutil.ignore_patterns("flicker", "both", "face_index.jsonl"))
        fake = sorted((place / "manipulated_sequences").rglob("c23/videos/*.mp4"))[0]
        fake.write_bytes(fake.read_bytes()[:500])
        assert main(["prepare", str(place), "--no-detect", f"--crops={tmp_path / name}", "--workers=1", *how]) == 1
        data = ["evaluate", f"--data.root={synthetic_set}", f"--checkpoint={trained_run}", "--bootstrap=50"]
        data += ["--perturb=blur:1,4", "--perturb=drop:0.3", "--perturb=h264:40"]
        assert main([*data, f"--output={tmp_path / name / 'evaluation'}", *how]) == 0
        kept[name] = {
            str(path.relative_to(tmp_path / name)): re.sub(rb'"modified": \d+|Made on [^<]*', b"", path.read_bytes())
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file() and not path.name.endswith(".lock")
        }
        kept[name]["face index"] = (place / "face_index.jsonl").read_bytes()
        shutil.rmtree(place)
    assert kept["one"].keys() == kept["many"].keys()
    assert {"evaluation/report.html", "evaluation/scores.csv", "evaluation/robustness.csv", "crops.jsonl"} <= kept[
        "one"
    ].keys()
    assert [name for name in kept["one"] if kept["one"][name] != kept["many"][name]] == []


@on_a_cluster
def test_a_comparison_on_a_cluster_is_that_of_one_machine(nodes, synthetic_set, trained_run, tmp_path):
    settings = tmp_path / "compare.yaml"
    settings.write_text(
        f"data: {{drawn: {{root: {synthetic_set}}}}}\ntest: [drawn]\nclips: 1\nbootstrap: 50\nperturb: ['blur:2']\n"
        f"detectors: {{one: {{checkpoints: [{trained_run}]}}, same: {{checkpoints: [{trained_run}]}}}}\n"
    )
    for name, how in (("one", []), ("many", ["--engine=ray", f"--address={nodes.address}"])):
        assert main(["compare", str(settings), f"--output={tmp_path / name}", *how]) == 0
    files = sorted(path.name for path in (tmp_path / "one").glob("comparison*.*") if path.suffix != ".lock")
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name
