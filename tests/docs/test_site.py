"""`make docs`: the site is built without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from istvt.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="needs pip install 'istvt[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path, "--config-file", ROOT / "mkdocs.yml"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "commands").glob("*.html")} == {"index", *COMMANDS}
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]*)", page.read_text())
        assert loaded == [], page
