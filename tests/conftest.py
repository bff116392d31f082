"""Tests marked `gpu` need an NVIDIA GPU and are skipped, by name, where there is none.

With several processes (pytest-xdist) the tests of a file run in one of them, because they share what they set up; those
of the slowest files share nothing, and each goes where there is time for it.
"""

import pytest
import torch

SHARE_NOTHING = ("test_compile.py", "test_in_the_interpreter.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        alone = item.path.name in SHARE_NOTHING
        item.add_marker(pytest.mark.xdist_group(item.name if alone else str(item.path)))
