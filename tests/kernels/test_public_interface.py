"""`kernels` on its own: its names, what it imports, and its page in docs/."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import kernels
from kernels.__main__ import page

ROOT = Path(__file__).parents[2]


def test_functions_are_functions_and_packages_are_packages():
    for name in ("self_subtract", "layer_norm_difference", "spatial_attention", "temporal_attention"):
        assert callable(getattr(kernels, name))
    for name in ("frame_difference", "layer_norm", "spatial", "temporal", "relevance", "common"):
        assert isinstance(getattr(kernels, name), ModuleType)


def test_the_package_imports_nothing_else_of_this_project():
    ours = "{name.split('.')[0] for name in sys.modules} & {'istvt', 'dataloading', 'bench', 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, kernels, kernels.__main__; sys.exit(bool({ours}))"], cwd=ROOT, check=False
    )
    assert done.returncode == 0


def test_the_committed_page_is_what_the_command_prints_and_names_every_public_function():
    assert (ROOT / "docs" / "kernels.md").read_text() == page()
    for name in kernels.__all__:
        assert f"### `kernels.{name}`" in page()
