"""Commands and Python of README and docs: the tutorial runs as it is written, and every command has its options."""

import glob
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest

from istvt.cli.main import COMMANDS, build_parser, main
from istvt.cli.options import chosen_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What the tutorial's numbers are here, so that it takes seconds.
SMALLER = {"--identities 40 --frames 24": "--identities 8 --frames 10 --size 48", "epochs 12": "epochs 1"}


def commands_of(page: Path) -> list[list[str]]:
    """Return the arguments of each `istvt` in the code of a page."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    lines = [line for language, code in FENCED.findall(text) if language in ("", "bash") for line in code.splitlines()]
    lines += [line[4:] for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
    found = [re.fullmatch(r"(?:.*[ /])?istvt (.*)", line.partition("  #")[0].strip()) for line in lines]
    return [shlex.split(match[1]) for match in found if match and match[1].split()[0] in COMMANDS]


def python_of(page: Path) -> list[str]:
    return [code for language, code in FENCED.findall(page.read_text()) if language == "python"]


EVERY = [
    pytest.param(arguments, id=f"{page.name}: {' '.join(arguments)}")
    for page in PAGES
    for arguments in commands_of(page)
]


@pytest.mark.parametrize("arguments", EVERY)
def test_every_command_in_the_documentation_has_the_options_it_is_shown_with(arguments):
    parser, commands = build_parser(chosen_model(arguments))
    arguments = commands[arguments[0]].with_items(arguments)
    commands[arguments[0]].check_values(arguments)
    parser.parse_args(arguments)


# Of torchrun, SLURM, Ray, pip and hf.
OTHERS = {
    *("--array", "--cpus-per-task", "--dependency", "--gpus-per-node", "--gpus-per-task", "--head", "--local-dir"),
    *("--nnodes", "--no-deps", "--nodes", "--nproc-per-node", "--ntasks-per-node", "--print_completion"),
    *("--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--requeue"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_that_a_page_names_is_one_of_some_command(page):
    """Data sets on a read-only disk were to have `--data.boxes`, which no command had."""
    known = OTHERS | {option for parser in build_parser(chosen_model([]))[1].values() for option in parser.known()}
    sources = [path.read_text() for path in (ROOT / "bench").rglob("*.py")]
    named = {name.rstrip(".") for name in re.findall(r"(?<![\w-])--[a-zA-Z][\w.+-]*", page.read_text())}
    unknown = named - known - {name for name in named if any(f'"{name}"' in source for source in sources)}
    assert not unknown


def test_the_documentation_shows_every_command():
    shown = {arguments[0] for page in PAGES for arguments in commands_of(page)}
    assert shown == set(COMMANDS)


def test_the_tutorial_runs_as_it_is_written_and_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    for written, smaller in SMALLER.items():
        assert written in text
        text = text.replace(written, smaller)
    for language, code in FENCED.findall(text):
        for line in code.splitlines() if language == "bash" else []:
            name, *arguments = shlex.split(line)
            assert name == "istvt"
            files = [sorted(glob.glob(each)) or [each] for each in arguments]
            assert main([file for group in files for file in group]) == 0
        if language == "python":
            exec(code, {})
    for result in ("scores.json", "why/explanation.html", "runs/drawn/evaluation/report.html"):
        assert (tmp_path / result).stat().st_size > 500


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_of_a_page_runs(tmp_path, monkeypatch, capsys, trained_run, synthetic_set, page):
    monkeypatch.chdir(tmp_path)
    for name in ("ffpp", "drawn"):
        shutil.copytree(trained_run, tmp_path / "runs" / name)
    shutil.copy(next(synthetic_set.glob("original_sequences/*/*/*/*.mp4")), "suspicious.mp4")
    blocks = python_of(ROOT / page)
    assert blocks
    for code in blocks:
        exec(textwrap.dedent(code), {})
    assert capsys.readouterr().out.split()[0] in ("real", "fake")
