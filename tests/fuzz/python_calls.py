"""Calls of the package's Python functions with the exit status of a command: what no command reaches quickly."""

from __future__ import annotations

import sys

from dataloading.errors import InputError


def render(arguments: list[str]) -> int:
    """Write the report of an evaluation again, from its files."""
    from istvt.config import DataSettings
    from istvt.report.evaluate_checkpoint import render_report

    checkpoint, root, output = arguments
    try:
        render_report(checkpoint, DataSettings(root, evaluation_clips=2), output)
    except InputError as error:
        print(f"istvt: {error}", file=sys.stderr)
        return 2
    return 0
