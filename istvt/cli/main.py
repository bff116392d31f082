"""The `istvt` command: subcommands with typed options, one sentence and an exit status for a mistake.

Every option can also stand in a YAML file given with --config; --print_config prints one to start from.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import ModuleType

from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError
from istvt.cli import (
    adapt,
    calibrate,
    compare,
    convert,
    dataset,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    merge,
    model,
    predict,
    prepare,
    serve,
    synthesize,
    train,
)
from istvt.cli.console import logging_to, printable
from istvt.cli.options import chosen_model
from istvt.cli.parser import OptionParser, UsageError
from istvt.cli.stops import Terminated, interrupt, stopping
from istvt.config import DetectorConfig, __version__

USAGE_ERROR = 2
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
LONGEST_REASON = 1500  # characters; four paths of the longest kind that is common
# Commands that resume from their finished work when they are called again.
RESUMABLE = ("synthesize", "prepare", "train", "adapt", "compare", "demo")
RESUMABLE_IN_PARTS = ("predict", "evaluate")  # with --shard, on a cluster, or while perturbed videos are scored
# Time for torchrun to end a failing process: longer than the other processes need to fail with the same error.
TORCHRUN_GRACE_SECONDS = 5.0

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "synthesize": (synthesize, "draw a demonstration set of real and forged videos"),
    "dataset": (dataset, "list what a data set holds and what is left out"),
    "prepare": (prepare, "find the faces of a data set"),
    "train": (train, "train a detector"),
    "adapt": (adapt, "teach a trained detector a new forgery, and keep what it knows"),
    "evaluate": (evaluate, "evaluate a checkpoint and write a report"),
    "compare": (compare, "train and evaluate several detectors, and write the paper's tables of them"),
    "calibrate": (calibrate, "give a checkpoint the temperature of its validation videos"),
    "predict": (predict, "score videos"),
    "merge": (merge, "put the shards of predict, evaluate or prepare together"),
    "explain": (explain, "show where and when a video's evidence is"),
    "export": (export, "write a checkpoint as a torch.export program or as ONNX"),
    "serve": (serve, "a local page and an HTTP interface for videos"),
    "convert": (convert, "turn a state dict of the authors' code into a checkpoint, or back"),
    "model": (model, "print a model's parameters and cost"),
    "doctor": (doctor, "print what is installed and usable"),
    "demo": (demo, "the whole path in a few minutes"),
}

DESCRIPTION = """Detect forged faces in videos, and see where and when the evidence is.

A first run:
  istvt synthesize data/synthetic          draw a demonstration set
  istvt prepare data/synthetic --no-detect its videos are face crops already
  istvt train --data.root data/synthetic --output runs/first
  istvt evaluate --checkpoint runs/first --data.root data/synthetic
  istvt predict VIDEO... --checkpoint runs/first
  istvt explain VIDEO --checkpoint runs/first --out why

Exit status: 0 all is done; 1 done, but some inputs could not be used, or doctor found a problem; 2 not done, and why in
one sentence; 130 stopped by Ctrl-C; 143 stopped by SIGTERM. Options may be written with dashes or with underscores.
Completion: istvt --print_completion shtab-bash (-zsh)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 success, 1 some inputs could not be used, 2 failure, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors, work = Console(stderr=True), _run
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import record

        work = record(_run_under_torchrun)
    try:
        return work(arguments)
    except InputError as error:
        _print_reason(errors, str(error))
        return USAGE_ERROR
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            kept = "; finished work is kept, and the same command resumes it"
            _print_reason(errors, f"stopped{kept if _is_resumable(arguments) else ''}")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def _is_resumable(arguments: Sequence[str]) -> bool:
    """Return whether a stopped command goes on from its finished work when it is called again."""
    name = arguments[0] if arguments else ""
    in_parts = any(argument.partition("=")[0] in ("--shard", "--engine", "--perturb") for argument in arguments)
    return name in RESUMABLE or (name in RESUMABLE_IN_PARTS and in_parts)


def _run_under_torchrun(arguments: list[str]) -> int:
    """Run a command in one of the processes that torchrun started.

    torchrun ends all processes as soon as one has exited with an error, and reports what @record has written. Process 0
    prints its error. Any other process waits to be ended, as most errors occur in all processes, and prints its error
    with its rank only if it is not ended. Other exceptions wait longer: most are a lost connection to such a process.
    """
    try:
        return _run(arguments)
    except InputError as error:
        if (rank := os.environ.get("RANK", "0")) != "0":
            time.sleep(TORCHRUN_GRACE_SECONDS)
            raise InputError(f"process {rank}: {error}") from error
        raise
    except Exception:
        time.sleep(2 * TORCHRUN_GRACE_SECONDS)
        raise


def _run(arguments: list[str]) -> int:
    """Parse and run one command; invalid options and errors of the system are raised as InputError."""
    try:
        for argument in arguments:
            _check_text(argument)
        parser, commands = build_parser(chosen_model(arguments))
        if not arguments:
            parser.print_help()
            return USAGE_ERROR
        [name, *_] = arguments
        if name in commands:
            arguments = commands[name].with_items(arguments)
            commands[name].check_names(name, arguments, commands)
            commands[name].check_values(arguments)
        elif not name.startswith("-"):
            raise InputError(f"the command is {name!r}; expected one of {', '.join(commands)}")
        try:
            options = parser.parse_args(arguments)
        except BrokenPipeError:  # help or completions into `head`; rich ends a command in the same way
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        command, _ = COMMANDS[name]
        console = Console()
        with stopping(interrupt), logging_to(console):
            return command.run(options[name], console)
    except UsageError as error:
        command, message = "istvt", str(error)
        if arguments[0] in COMMANDS:
            command, message = f"istvt {arguments[0]}", commands[arguments[0]].usage_error(message)
        raise InputError(f"{message}; {command} --help lists the options") from error
    except InputError:
        raise
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise InputError(reason) from error


def _check_text(argument: str) -> None:
    """Refuse an argument that is not UTF-8, such as some file names: the parser takes only text."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(argument).decode(errors="backslashreplace")
        raise InputError(f"{name}: is not UTF-8; expected a name in UTF-8, which a link to it may have") from error


def _system_error(error: Exception) -> str | None:
    """Return the sentence for an error of the system: a file, a full disk, too little memory; None for any other."""
    from istvt.device import is_out_of_memory  # imports PyTorch, which would slow down --help by seconds

    if is_out_of_memory(error):
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"not enough memory ({message}); a smaller --batch-size needs less, where a command has one"
    if not isinstance(error, OSError) or not error.strerror:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full:
        return f"{error.filename or 'what this command writes'}: does not fit on the disk ({error.strerror})"
    if error.filename is None:
        return None
    return f"{error.filename}: cannot be read or written ({error.strerror})"


def _print_reason(errors: Console, reason: str) -> None:
    if len(reason) > LONGEST_REASON:  # a value of a file may be of any length: its middle is left out
        half = LONGEST_REASON // 2
        reason = f"{reason[:half]} ... {reason[-half:]}"
    errors.print(f"[red]istvt:[/] {escape(printable(reason))}", soft_wrap=True, highlight=False)


def build_parser(base: DetectorConfig) -> tuple[OptionParser, dict[str, OptionParser]]:
    """Return the parser of all commands, and each command's; `base` gives the defaults of the model's options."""
    parser = OptionParser(prog="istvt", description=DESCRIPTION, usage="istvt COMMAND [options]")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands, commands = parser.add_subcommands(required=True), {}
    for name, (command, help_line) in COMMANDS.items():
        commands[name] = sub = OptionParser(prog=f"istvt {name}", description=command.run.__doc__)
        sub.add_argument("--config", action="config", help="YAML file with any of these options")
        command.add(sub, base)
        positional = [action.dest.upper() for action in sub._actions if not action.option_strings]
        sub.usage = " ".join(["istvt", name, *positional, "[options]"])
        subcommands.add_subcommand(name, sub, help=help_line)
    return parser, commands


if __name__ == "__main__":
    sys.exit(main())
