"""Tests marked `gpu` need an NVIDIA GPU and are skipped, by name, where there is none.

With several processes (pytest-xdist) the tests of a file (those of `fuzz`: of all files) run in one of them, because
they share what they set up; those of the slowest files share nothing, and each goes where there is time for it.
"""

import os
from pathlib import Path

import pytest
import torch

# Without it a processor that multiplies bfloat16 would compute in it, and results differ from machine to machine.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"

SHARE_NOTHING = (
    "test_arithmetic.py",
    "test_compile.py",
    "test_in_the_interpreter.py",
    "test_kernels_executed.py",
    "test_kills.py",
)
LONGEST = "test_in_the_interpreter.py"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)  # before other single tests: short ones fill both cores
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        alone = item.path.name in SHARE_NOTHING
        together = item.path.parent if item.path.parent.name == "fuzz" else item.path
        item.add_marker(pytest.mark.xdist_group(item.name if alone else str(together)))


# A small real data set and a small trained run, made once a session by the commands that a user types.
def main(arguments: list[str]) -> int:
    """`istvt ...`; imported where it is called, so that a bare GPU machine can run the tests that need no videos."""
    from istvt.cli.main import main

    return main(arguments)


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory) -> Path:
    """32 H.264 videos of 8 drawn people, prepared."""
    root = tmp_path_factory.mktemp("set") / "videos"
    assert main(["synthesize", str(root), "--identities=8", "--frames=10", "--size=48", "--workers=1"]) == 0
    assert main(["prepare", str(root), "--no-detect", "--workers=1"]) == 0
    return root


@pytest.fixture(scope="session")
def train_arguments():
    """The command that trains a small model: called with the set's root, the run's directory and further options."""

    def arguments(root: Path, output: Path, *more: str) -> list[str]:
        return [
            "train", f"--data.root={root}", f"--output={output}", "--training.epochs=2", "--training.batch_size=8",
            "--data.evaluation_clips=2", "--model.image_size=40", "--model.dim=16", "--model.heads=2",
            "--model.mlp_dim=24", "--model.backbone_dims=[4,4,8,8]", *more,
        ]  # fmt: skip

    return arguments


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, synthetic_set, train_arguments) -> Path:
    """A run of two epochs."""
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(train_arguments(synthetic_set, output)) == 0
    return output


@pytest.fixture(scope="session")
def edited_video(tmp_path_factory) -> Path:
    """Two drawn people in five shots, one of them forged in one shot."""
    from dataloading.synthetic import draw_edited_video

    path = tmp_path_factory.mktemp("edited") / "two_people.mp4"
    draw_edited_video(path, seed=2026, frames=10, size=48)
    return path


@pytest.fixture
def broken_decoders(monkeypatch) -> None:
    """Worker processes break on the files that `break_video` has marked."""
    import broken_decoders

    from dataloading.video import processes

    monkeypatch.setattr(processes, "COMMAND", broken_decoders.COMMAND)
    monkeypatch.setattr(processes, "_refused", {})
