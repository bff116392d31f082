"""`python -m bench gpu`: one command, a budget, and a folder that survives whatever happens to a section."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import run_all as gpu
from bench.__main__ import COMMANDS, add_command
from bench.common.record import duration, prepare_folder, read_run
from bench.run_all import SECTIONS, run_sections

ROOT = Path(__file__).parents[2]

# What a bare GPU machine does not have.
ABSENT = (
    "nvidia.dali",
    "av",
    "cv2",
    "jsonargparse",
    "rich",
    "safetensors",
    "jinja2",
    "tensorboard",
    "yaml",
    "xformers",
    "pydantic",
    "filelock",
)
BARE_MACHINE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {ABSENT}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def on_a_bare_machine(program):
    return subprocess.run(
        [sys.executable, "-c", BARE_MACHINE + program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.gpu
def test_on_a_gpu_a_section_leaves_its_table_beside_the_device_and_the_commit(tmp_path):
    arguments = argparse.Namespace(budget=120.0, section=["ceilings"], commit="given", output=tmp_path / "visit")
    assert gpu.run(arguments) == 0
    found = read_run(tmp_path / "visit")
    assert (found.environment["kind"], found.environment["commit"]) == ("GPU", "given")
    rates = {row["ceiling"]: float(row["value"]) for row in found.tables["ceilings"]}
    assert rates["matrix product, bfloat16"] > rates["matrix product, float32"] > 0
    assert [row["outcome"] for row in found.tables["sections"]] == ["done"]


def test_a_section_that_fails_or_hangs_costs_its_own_numbers_and_no_others(tmp_path, monkeypatch):
    grandchild = tmp_path / "grandchild"
    programs = {
        "hangs": f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
open({str(grandchild)!r}, "w").write(str(child.pid))
time.sleep(100)""",
        "fails": "print('half a table'); raise SystemExit(3)",
        "writes": "import sys; open(sys.argv[sys.argv.index('--output') + 1] + '/writes.csv', 'w').write('a\\n1\\n')",
    }
    monkeypatch.setattr(gpu, "COMMAND", [sys.executable, "-c", f"import sys; exec({programs}[sys.argv[1]])"])
    folder = prepare_folder(tmp_path / "visit", {"device": "a test", "kind": "GPU", "date": "2020"})
    rows = run_sections({"hangs": 0.1, "fails": 0.45, "writes": 0.45}, folder, budget=51)
    outcomes = {row["section"]: row["outcome"] for row in rows}
    assert outcomes == {"fails": "failed with status 3", "hangs": "stopped at its limit", "writes": "done"}
    assert ends(int(grandchild.read_text())), "what a section started outlived it"
    tables = read_run(folder).tables
    assert tables["writes"] == [{"a": "1"}]
    assert [row["outcome"] for row in tables["sections"]] == list(outcomes.values())
    assert (folder / "fails.log").read_text() == "half a table\n"


def ends(pid):
    """Whether a process comes to its end within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_visit_that_is_ended_by_a_signal_ends_the_section_that_is_running(tmp_path, number):
    """A section is a session of its own: once it went on alone, and held the GPU against whatever came next."""
    child = tmp_path / "child"
    section = f"import os, time; open({str(child)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(100)"
    visit = f"""
import sys
from pathlib import Path
from bench import run_all
from bench.__main__ import end_by_signals
run_all.COMMAND = [sys.executable, "-c", {section!r}]
end_by_signals()
run_all.run_sections({{"sleeps": 1.0}}, Path({str(tmp_path)!r}), 100)
"""
    process = subprocess.Popen([sys.executable, "-c", visit], cwd=ROOT)
    try:
        while not (child.exists() and child.read_text().endswith(" ")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert ends(int(child.read_text())), "the section outlived the visit"
    finally:
        process.kill()


def test_what_does_not_fit_the_budget_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_run", lambda *_: pytest.fail("nothing may start"))
    folder = prepare_folder(tmp_path, {"device": "a test", "kind": "GPU", "date": "2020"})
    rows = run_sections(SECTIONS, folder, budget=4.0)
    assert [row["section"] for row in rows] == list(SECTIONS)
    assert {row["outcome"] for row in rows} == {"not run: the budget was used up"}


def test_the_most_valuable_sections_come_first_and_each_is_a_command():
    order = ["numerics", "ceilings", "temporal", "spatial", "relevance", "scaling", "training", "loader"]
    assert list(SECTIONS) == order
    assert set(SECTIONS) <= set(COMMANDS)


def started(sections, folder, budget, monkeypatch):
    """The command line and the limit of each section, none of which is started."""
    runs = []
    monkeypatch.setattr(gpu, "_run", lambda words, log, limit: runs.append((words, limit)) or "done")
    prepare_folder(folder, {"device": "a test", "kind": "GPU", "date": "2020"})
    run_sections(sections, folder, budget, "given")
    return runs


def test_every_section_has_options_to_write_into_the_folder_of_the_visit_and_of_its_commit(tmp_path, monkeypatch):
    """And ends itself in time for a record begun just before its limit."""
    for words, limit in started(SECTIONS, tmp_path, 1000, monkeypatch):
        assert words[:3] == [sys.executable, "-m", "bench"]
        parser = argparse.ArgumentParser()
        add_command(parser, words[3])
        parsed = parser.parse_args(words[4:])
        assert (parsed.output, parsed.commit) == (tmp_path, "given")
        assert parsed.budget == pytest.approx(0.85 * limit, abs=1)


def test_sections_share_the_budget_and_inherit_what_those_before_them_leave(tmp_path, monkeypatch):
    assert sum(SECTIONS.values()) == pytest.approx(1)
    runs = started({"first": 0.25, "second": 0.25, "third": 0.5}, tmp_path, 1000, monkeypatch)
    assert [limit for _, limit in runs] == pytest.approx([250, 500, 1000], abs=20)


@pytest.mark.parametrize(("text", "expected"), [("480", 480), ("90s", 90), ("8m", 480), ("0.5h", 1800)])
def test_a_budget_is_a_number_with_a_unit(text, expected):
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "8 parsecs", "-3m", "0"])
def test_a_budget_that_is_none_is_refused_by_name(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no duration; expected for example 480"):
        duration(text)


def test_on_a_machine_with_nothing_but_torch_and_triton_every_benchmark_is_there_and_a_step_is_made(tmp_path):
    """And the loader's bench says which package it lacks."""
    files = [path for path in (ROOT / "bench").rglob("*.py") if not path.name.startswith(("__main__", "test_"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    commands = {f"bench.{module}" for module, _ in COMMANDS.values()}
    assert commands | {"bench.checks.cases.relevance", "bench.kernels.tune"} <= set(names)
    done = on_a_bare_machine(f"""
import importlib
for name in {names}:
    importlib.import_module(name)

import torch
from bench.__main__ import main
from bench.training.steps import Case
from bench.training.steps import random_clips, training_step
case = Case("small", "full", "float32", "this project")
print(training_step(case, random_clips(case.config, 1, torch.device("cpu")), "eager")().isfinite().item())
raise SystemExit(main(["loader", "--output", {str(tmp_path)!r}]))
""")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("True\n"), done.stderr
    lacks = "not measured: ModuleNotFoundError: No module named 'av'"
    assert lacks in done.stdout and lacks in (tmp_path / "loader.csv").read_text()


def test_the_environment_of_a_measurement_names_device_commit_date_and_versions():
    from bench.common.environment import environment

    found = environment()
    assert found["kind"] == ("GPU" if torch.cuda.is_available() else "CPU")
    assert found["versions"]["torch"] == torch.__version__
    assert found["date"].endswith("+00:00") and found["cores"] == os.cpu_count()
    assert environment(commit="given")["commit"] == "given"
