"""`istvt doctor`."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from istvt.cli import PROBLEM_FOUND
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """A command without options of its own."""


def run(options: Namespace, console: Console) -> int:
    """Print what is installed and usable here, and warn where something is not what it seems."""
    from istvt.cli.examine import examine

    signs = {"ok": "[green]ok[/]     ", "missing": "[dim]absent[/] ", "unusable": "[dim]no use[/] "}
    signs["warning"] = "[yellow]warning[/]"
    findings = examine()
    for finding in findings:
        console.print(
            f"{signs[finding.state]}  {finding.part:<15} {escape(finding.detail)}", highlight=False, soft_wrap=True
        )
    return PROBLEM_FOUND if any(finding.state == "warning" for finding in findings) else 0
