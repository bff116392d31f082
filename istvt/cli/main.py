"""The `istvt` command: one subcommand an activity, typed options, one sentence for a mistake.

Every option can also stand in a YAML file given with --config; --print_config prints one to start from.
What a command is asked and does stands in its file of `commands`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType

from rich.console import Console
from rich.markup import escape

from dataloading.errors import InputError, as_input_error
from istvt.cli import convert, dataset, demo, doctor, evaluate, explain, model, predict, prepare, synthesize, train
from istvt.cli.parser import OptionParser, read_settings_file
from istvt.cli.say_once import another_has_said_why, say_once
from istvt.config import PRESETS, ISTVTConfig, preset

USAGE_ERROR = 2
STOPPED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# Commands that keep what they have finished and use it when they are called again.
GO_ON = ("synthesize", "prepare", "train", "demo")

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "synthesize": (synthesize, "draw a demonstration set of real and forged videos"),
    "dataset": (dataset, "say what a data set holds and what is left out"),
    "prepare": (prepare, "find the faces of a data set"),
    "train": (train, "train a detector"),
    "evaluate": (evaluate, "evaluate a checkpoint and write a report"),
    "predict": (predict, "score videos"),
    "explain": (explain, "show where and when a video's evidence is"),
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
  istvt explain VIDEO --checkpoint runs/first --out why"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 1 something was wrong with some input, 2 could not be done, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console, errors, name = Console(), Console(stderr=True), None
    try:
        with _sigterm_stops():
            parser = build_parser(_preset_of(arguments))
            if not arguments:
                parser.print_help()
                return USAGE_ERROR
            for argument in arguments:
                _check_text(argument)
            options = parser.parse_args(arguments)
            parser.require_values(options)
            name = options.subcommand
            command, _ = COMMANDS[name]
            return command.run(options[name], console)
    except InputError as error:
        _say(errors, str(error))
        return USAGE_ERROR
    except KeyboardInterrupt as stop:
        kept = "; what was finished is kept, and the same command goes on from there" if name in GO_ON else ""
        _say(errors, f"stopped{kept}")
        return TERMINATED if isinstance(stop, _Terminated) else STOPPED
    except Exception as error:
        if another_has_said_why():
            return USAGE_ERROR
        refusal = _refusal(error)
        if refusal is None:
            raise
        _say(errors, refusal)
        return USAGE_ERROR


def _check_text(argument: str) -> None:
    """File names may be any bytes; the parser of options takes text alone, and says so in words of its own."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        printable = os.fsencode(argument).decode(errors="backslashreplace")
        raise InputError(f"{printable}: is not UTF-8; expected a name in UTF-8, which a link to it may have") from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM, from whoever ends processes: a person, a scheduler, a machine that is shut down."""


@contextlib.contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Within it SIGTERM is what Ctrl-C is; by itself it would end this process before it could end its workers."""
    # One of several processes may be waiting in a collective, which no handler interrupts: it must still end at once.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refusal(error: Exception) -> str | None:
    """The sentence for what the machine refuses: a file that cannot be read or written, a full disk, more memory."""
    from istvt.device import is_out_of_memory  # it imports PyTorch, which takes seconds that --help should not

    if is_out_of_memory(error):
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"memory does not suffice ({said}); a smaller --batch-size needs less, where a command has one"
    if not isinstance(error, OSError) or not error.strerror:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full:
        return f"{error.filename or 'what this command writes'}: does not fit on the disk ({error.strerror})"
    if error.filename is None:
        return None
    return f"{error.filename}: cannot be read or written ({error.strerror})"


def _say(console: Console, sentence: str) -> None:
    def say(sentence: str) -> None:
        console.print(f"[red]istvt:[/] {escape(sentence)}", soft_wrap=True, highlight=False)

    say_once(sentence, say)


def build_parser(base: ISTVTConfig) -> OptionParser:
    """The parser of all commands; `base` gives the defaults of the model's options."""
    parser = OptionParser(prog="istvt", description=DESCRIPTION)
    subcommands = parser.add_subcommands(required=True)
    for name, (command, help_line) in COMMANDS.items():
        sub = OptionParser(prog=f"istvt {name}", description=command.run.__doc__)
        sub.add_argument("--config", action="config", help="YAML file with any of these options")
        command.add(sub, base)
        subcommands.add_subcommand(name, sub, help=help_line)
    return parser


def _preset_of(arguments: Sequence[str]) -> ISTVTConfig:
    """The preset that the command line or a settings file names: the defaults under which the options are read."""
    in_files = [read_settings_file(path).get("preset") for path in _given(arguments, "--config")]
    named = [name for name in in_files if name is not None] + _given(arguments, "--preset")
    with as_input_error():
        return preset(str(named[-1])) if named else PRESETS["small"]


def _given(arguments: Sequence[str], option: str) -> list[str]:
    """The values that an option is given, in order."""
    values = [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values + [value for name, value in pairwise(arguments) if name == option]


if __name__ == "__main__":
    sys.exit(main())
