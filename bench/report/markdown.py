"""Recordings in Markdown: a table, a number, where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from bench.common.record import NOT_MEASURED, Recording


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def number(text: str | float | None, digits: int = 2, factor: float = 1.0, suffix: str = "") -> str:
    """A measured number, or the words that it was not."""
    if text in (None, ""):
        return NOT_MEASURED
    return f"{factor * float(text):.{digits}f}{suffix}"


def provenance(recording: Recording) -> str:
    """One line: when, which code, which versions, which clocks."""
    found = recording.environment
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    parts = [found["date"], f"commit {found.get('commit') or 'unknown'}", f"Python {found.get('python')}", versions]
    smi = found.get("nvidia_smi", {})
    if smi:
        parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
    if found["kind"] == "CPU":
        cores, load = f"{found.get('threads')} of {found.get('cores')} cores", found.get("load")
        parts.append(f"{cores}, load {load} when it began")
    return "; ".join(parts)
