"""Benchmarks, checks and experiments: `python -m bench <command>`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from dataloading.errors import InputError

# By command: its module below this folder, and what it does. A module is imported only when its command is called, so
# that --help is quick and a missing optional package concerns that command alone.
COMMANDS = {
    "compile": ("checks.compile", "compile every kernel for four GPU generations, no GPU needed; registers, spills"),
    "numerics": ("checks.numerics", "compare every kernel with float64 and eager PyTorch, on a GPU or interpreted"),
    "execute": ("ptx.execute", "compare every compiled kernel with float64, executed on a CPU; races, bounds"),
    "count": ("ptx.count", "count what compiled kernels do: instructions, sectors, bank conflicts; no GPU needed"),
    "temporal": ("kernels.temporal", "time temporal attention against its peers and its byte floor, on a GPU"),
    "spatial": ("kernels.spatial", "time spatial attention against its peers, and capturing attention, on a GPU"),
    "relevance": ("kernels.relevance", "time relevance against its stored form on a GPU; memory of an explanation"),
    "scaling": ("scaling", "work, time and memory against T and HW, joint and factorized, on a GPU or small on a CPU"),
    "ceilings": ("ceilings", "what this GPU can copy and multiply at most"),
    "training": ("training", "clips per second, FLOP utilization and memory of a training step against its peers"),
    "loader": ("loader", "clips per second of the loader, by decoder and number of workers"),
    "gpu": ("run_all", "all of these within a time budget, most valuable first, into one folder"),
    "report": ("report.pages", "tables and plots of such folders, written into bench/README.md and README.md"),
    "architecture": ("report.architecture", "draw the packages, their folders and imports as docs/architecture.svg"),
    "shots": (
        "experiments.shots",
        "precision and recall of shot boundaries, beside PySceneDetect where it is installed",
    ),
    "experiment": ("experiments.synthetic", "what each attention sees, and whether explanations are true of the model"),
}


def load(command: str) -> ModuleType:
    """Import the module of a command, which defines `add_arguments(parser)` and `run(arguments)`, the exit status."""
    return importlib.import_module(f"bench.{COMMANDS[command][0]}")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that `finally` ends the processes that a command has started."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, 2 for a mistake in what it was given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, (_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = load(name)
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        with ended_by_signals():
            return parsed.run(parsed)
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    raise SystemExit(main())
