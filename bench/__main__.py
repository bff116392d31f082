"""`python -m bench <command>`.

A command is a module of this folder with `add_arguments(parser)` and `run(arguments) -> exit status`, and a line
in `COMMANDS`. It is imported only when it is asked for, so `--help` is quick and a missing optional package
concerns nobody else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from dataloading.errors import InputError

# Where a command is, below this folder, if not in a module of its own name.
PLACES = {
    "compile": "checks.compile",
    "numerics": "checks.numerics",
    "temporal": "kernels.temporal",
    "spatial": "kernels.spatial",
    "relevance": "kernels.relevance",
    "gpu": "run_all",
}
COMMANDS = {
    "compile": "compile every kernel for four GPU generations, no GPU needed, and print what the machine code uses",
    "numerics": "compare every kernel with float64 and with eager PyTorch, on a GPU or in Triton's interpreter",
    "temporal": "time temporal attention against its peers and its byte floor, on a GPU",
    "spatial": "time spatial attention against its peers, and handing out attention against its byte floor, on a GPU",
    "relevance": "time relevance against its stored form on a GPU; weigh an explanation, on a GPU or a CPU",
    "scaling": "work, time and memory against T and HW, joint and factorized, on a GPU or small on a CPU",
    "ceilings": "what this GPU can copy and multiply at most",
    "training": "clips per second, FLOP utilization and memory of a training step against naive and compiled peers",
    "loader": "clips per second of the loader, by decoder and number of workers",
    "gpu": "all of these within a time budget, most valuable first, into one folder",
    "report": "tables and pictures from such folders, written into bench/README.md and README.md",
}


def module_of(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"bench.{PLACES.get(command, command)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks and checks of the kernels.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, summary in COMMANDS.items():
        module = module_of(name) if name == chosen else None
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__ if module else summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
