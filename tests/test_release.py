"""The release: wheel and sdist are built, and the wheel works in an environment without this repository.

Dependencies come from the environment of the tests, by a path that is added to the new one: installing them again would
take gigabytes and test them, not this package.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import istvt

ROOT = Path(__file__).parents[1]
SHIPPED = ("bench", "dataloading", "istvt", "kernels")
# The demo at its smallest: the commands and files are all of it, what the model learns is nothing.
TINY_DEMO = """
import sys
from pathlib import Path
from rich.console import Console
from istvt.cli import demo
demo.IDENTITIES, demo.EPOCHS, demo.VIDEO_SIZE = 8, 1, 64
sys.exit(demo.demo(Path("demo"), Console(width=200)))
"""


def build(source: Path, into: Path, kind: str) -> Path:
    """Build the "wheel" or the "sdist" of a source tree by its own backend."""
    into.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(into)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> Path:
    """The files of the repository, without its history and what is built in it."""
    place = tmp_path_factory.mktemp("source") / "istvt"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def dist(tracked, tmp_path_factory) -> Path:
    """The directory of both; that which ISTVT_DIST names, as `make release` does, or a temporary one."""
    place = ROOT / os.environ["ISTVT_DIST"] if "ISTVT_DIST" in os.environ else tmp_path_factory.mktemp("dist")
    for kind in ("sdist", "wheel"):
        print(f"\n{build(tracked, place, kind)}")
    return place


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    """The `bin` of an environment that holds the wheel and, by a path, the dependencies."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    [wheel] = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--no-deps", "--quiet"]
    # Another version of it lies among the dependencies, where the tests run from an editable install.
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True)
    return place / "bin"


def run(installed: Path, place: Path, *command: str, status: int = 0) -> str:
    """Run a program of the environment in another directory, without the variables that lead to this one."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=place, env=variables, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.exhaustive
def test_wheel_and_sdist_hold_the_packages_with_their_data_and_licenses_and_nothing_else(dist, tracked, tmp_path):
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.name == f"istvt-{istvt.__version__}-py3-none-any.whl"
    assert sdist.name == f"istvt-{istvt.__version__}.tar.gz"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        info = f"istvt-{istvt.__version__}.dist-info"
        metadata = Parser().parsestr(file.read(f"{info}/METADATA").decode())
    assert {name.partition("/")[0] for name in names} == {*SHIPPED, info}
    # Every file of the packages is in it: a template that package_data forgets is missed only where it is used.
    files = [path for folder in SHIPPED for path in (tracked / folder).rglob("*") if path.is_file()]
    expected = {path.relative_to(tracked).as_posix() for path in files}
    left_out = {name for name in expected - names if not name.startswith("bench/results/")}  # records of measurements
    left_out -= {"bench/README.md", "bench/ptx/executor/.clang-format"}
    assert left_out == set()
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"all", "export", "hub", "test"} <= set(metadata.get_all("Provides-Extra"))
    # The wheel of the unpacked sdist is the same.
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "again", "wheel")
    with zipfile.ZipFile(again) as file:
        assert set(file.namelist()) == names


@pytest.mark.exhaustive
def test_the_wheel_works_without_the_repository(installed, tmp_path):
    where = "import bench, dataloading, istvt, kernels; print(istvt.__version__, istvt.__file__, kernels.__file__)"
    version, *files = run(installed, tmp_path, "python", "-c", where).split()
    assert version == istvt.__version__
    assert all(file.startswith(str(installed.parent)) for file in files)
    doctor = json.loads(run(installed, tmp_path, "istvt", "doctor", "--json"))
    assert doctor["versions"]["istvt"] == istvt.__version__
    [kernels] = [finding for finding in doctor["findings"] if finding["part"] == "kernels"]
    assert kernels["state"] == "ok"
    assert kernels["detail"].startswith(str(installed.parent))
    assert "usage: istvt predict" in run(installed, tmp_path, "istvt", "predict", "--help")

    printed = run(installed, tmp_path, "python", "-c", TINY_DEMO)
    assert re.search(r"held-out people: .* videos judged right", printed)
    assert (tmp_path / "demo/explanation/explanation.html").is_file()
    assert (tmp_path / "demo/report.html").is_file()
    [video, *_] = (tmp_path / "demo/fresh").rglob("*.mp4")
    assert "probability" in run(installed, tmp_path, "istvt", "predict", str(video), "--checkpoint=demo/training")
