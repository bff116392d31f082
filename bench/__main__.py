"""Benchmarks, checks and experiments: `python -m bench <command>`."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

from dataloading.errors import InputError

# By command: its module below this folder, and what it does. A module is imported only when its command is called, so
# that --help is quick and a missing optional package concerns that command alone.
COMMANDS = {
    "compile": ("checks.compile", "compile every kernel for four GPU generations, no GPU needed; registers, spills"),
    "numerics": ("checks.numerics", "compare every kernel with float64 and eager PyTorch, on a GPU or interpreted"),
    "execute": ("ptx.execute", "compare every compiled kernel with float64, executed on a CPU; races, bounds"),
    "count": ("ptx.count", "count what compiled kernels do: instructions, sectors, bank conflicts; no GPU needed"),
    "temporal": ("kernels.temporal", "time temporal attention against its peers and its byte floor, on a GPU"),
    "spatial": ("kernels.spatial", "time spatial attention against its peers, on a GPU; memory without one too"),
    "relevance": ("kernels.relevance", "time relevance against its stored form on a GPU; memory of an explanation"),
    "tune": ("kernels.tune", "time launch configs of an attention and print the best rows, on a GPU"),
    "scaling": ("scaling", "work, time and memory against T and HW, joint and factorized; small on a CPU"),
    "ceilings": ("ceilings", "what this GPU can copy and multiply at most"),
    "training": ("training.measurement", "clips per second, FLOP utilization and memory of a step against its peers"),
    "inference": ("inference", "seconds a clip on a processor: layout, folding, bfloat16, compilation; training"),
    "loader": ("loader", "clips per second of the loader, by decoder and number of workers"),
    "gpu": ("run_all", "all of these within a time budget, most valuable first, into one folder"),
    "report": ("report.pages", "tables and plots of such folders, written into bench/README.md and README.md"),
    "architecture": ("report.architecture", "draw the packages, their folders and imports as docs/architecture.svg"),
    "shots": ("experiments.shots", "precision and recall of shot boundaries, beside PySceneDetect where installed"),
    "faces": ("experiments.faces", "what each installed face detector finds in edited videos"),
    "landmarks": ("experiments.landmarks", "AUC of a judge of head pose and landmark paths on any data set"),
    "detectors": ("experiments.detectors", "what each detector sees, beside judges that know next to nothing"),
    "adaptation": (
        "experiments.adaptation",
        "what a detector keeps of a forgery when it learns another from few videos",
    ),
    "masks": ("experiments.masks", "whether predicted masks find forgeries, beside masks that need no network"),
    "experiment": ("experiments.synthetic", "what each attention sees, and whether explanations are true of the model"),
}


def add_command(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of a command and what runs it.

    Its module has `tasks`, as `bench.common.tasks` says, or `run(arguments)`, the exit status; and
    `add_arguments(parser)` where it has options of its own.
    """
    module = importlib.import_module(f"bench.{COMMANDS[name][0]}")
    parser.description = module.__doc__
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    if hasattr(module, "run"):
        parser.set_defaults(run=module.run)
        return
    from bench.common import tasks

    tasks.add_measuring(parser, module)
    parser.set_defaults(run=lambda arguments: tasks.run(name, module, arguments))


def end_by_signals() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit, so that `finally` ends the processes that a command has started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, 2 for a mistake in what it was given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, (_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            add_command(command, name)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    end_by_signals()
    raise SystemExit(main())
