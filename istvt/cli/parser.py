"""The parser of the command line's options: help that teaches, and a mistake as one sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from dataloading.errors import InputError

SETTINGS_FILE = "a YAML file of options such as --print_config prints"
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list such as [a,b]",
    "list[float | str]": "a list such as [0.01,reference]",
    "tuple[int, int]": "two whole numbers such as [19,19]",
    "tuple": "four whole numbers such as [8,16,24,48]",  # where null is given
    "tuple with 4 elements": "four whole numbers such as [8,16,24,48]",
}
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


class HelpFormatter(DefaultHelpFormatter):
    """A usage of one line, descriptions that keep their line breaks, and types by their names."""

    def _format_usage(self, usage: str | None, actions: Iterable[Any], groups: Any, prefix: str | None) -> str:
        positional = [
            action.metavar or action.dest.upper()
            for action in actions
            if not action.option_strings and action.choices is None
        ]
        commands = ["COMMAND"] if any(a.choices and not a.option_strings for a in actions) else []
        parts = [self._prog.replace(" [options]", ""), *positional, *commands, "[options]"]
        return ("usage: " if prefix is None else prefix) + " ".join(parts) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line else "" for line in inspect.cleandoc(text).splitlines())

    def _expand_help(self, action: Any) -> str:
        return _CLASS.sub(r"\1", super()._expand_help(action))


class OptionParser(ArgumentParser):
    """A parser whose errors are `InputError`s: one sentence that names the option and what was expected."""

    def __init__(self, prog: str, description: str | None) -> None:
        # Options are looked for before they are parsed (`--preset`), which a shortened one would escape.
        super().__init__(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)

    def require_values(self, given: Namespace) -> None:
        """Refuse null, which a settings file may give, for options that cannot be without a value.

        By itself jsonargparse takes it for any option.
        """
        try:
            self.validate(given, skip_unset=False)
        except TypeError as error:
            raise InputError(re.sub(r" is '?None'?;", " is null;", sentence(str(error)))) from error

    def parse_string(self, content: str, path: str = "", *arguments: Any, **options: Any) -> Namespace:
        """What a settings file gives; a group of which everything is commented out is as if it were not there."""
        # jsonargparse takes a YAML text that is nothing but `training:` for a value, unless more stands around it.
        given = super().parse_string(f"#\n{content}", path, *arguments, **options)
        for group in self.groups:
            value = given.get(group, Namespace())
            if value is None:
                del given[group]
            elif not isinstance(value, Namespace):
                raise InputError(
                    f"--config {path}: {group} is {value!r}; expected options of this group, each by its name"
                )
        return given

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what argparse would print."""
        if isinstance(ex, InputError):
            raise ex
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        # Of what a subcommand lacks the main parser complains, and names it `command.argument`.
        if found := re.match(r"the following arguments are required: (\w+)\.", message):
            command += f" {found.group(1)}"
        raise InputError(f"{sentence(message)}; {command} --help lists the options") from ex


def read_settings_file(path: str) -> dict[str, Any]:
    """The options that a settings file holds.

    Raises:
        InputError: it cannot be read, it holds something else, or an option twice (YAML would take the second one).
    """
    import yaml

    try:
        text = Path(path).read_text()
        values, tree = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(f"--config {path}: cannot be read ({reason}); expected {SETTINGS_FILE}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config {path}: not YAML ({reason}); expected {SETTINGS_FILE}") from error
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: holds no options; expected {SETTINGS_FILE}")
    for name, first, second in _repeated(tree):
        raise InputError(f"--config {path}: gives {name} in line {first} and again in line {second}; expected it once")
    return values


def _repeated(tree: Any, within: str = "") -> Iterator[tuple[str, int, int]]:
    """The keys that a mapping of a YAML tree holds more than once, each with two of its lines."""
    lines: dict[str, int] = {}
    for key, value in tree.value:
        name, line = f"{within}{key.value}", key.start_mark.line + 1
        if name in lines:
            yield name, lines[name], line
        lines[name] = line
        if value.id == "mapping":
            yield from _repeated(value, f"{name}.")


def sentence(message: str) -> str:
    """A message of argparse or jsonargparse as one sentence, in the words of the options."""
    message = " ".join(message.split())
    if found := re.fullmatch(r"argument (\S+): invalid choice: (.+?) \(choose from (.+)\)", message):
        name, value, choices = found.groups()
        name = "the command" if name == "subcommand" else name
        return f"{name} is {value}; expected one of {_plain(choices)}"
    if found := re.fullmatch(r'Parser key "(.+?)": Expected an? (.+)\. Got value: ?(.*)', message):
        name, kind, value = found.groups()
        return f"--{name} is {value!r}; expected {_kind(kind)}"
    if found := re.fullmatch(
        r'Parser key "(.+?)": Does not .+ Subtypes: \[(.+)\] Errors: .+ Given value: ?(.*)', message
    ):
        name, kinds, value = found.groups()
        kind, *_ = re.split(r", (?=<class)", kinds)
        return f"--{name} is {value!r}; expected {_kind(kind)}"
    if found := re.fullmatch(r'Parser key "(.+?)": Not of type Path: expected .+, not (\w+)', message):
        name, kind = found.groups()
        return f"--{name} is {'null' if kind == 'NoneType' else f'no text but {kind}'}; expected a path"
    if found := re.fullmatch(r'Parser key "(?:\w+\.)?(\w+)": (.+) not among choices [\[(](.+)[\])]', message):
        name, value, choices = found.groups()
        return f"--{name} is {value}; expected one of {_plain(choices)}"
    if found := re.fullmatch(r"the following arguments are required: (.+)", message):
        missing = (name.rpartition(".")[2].upper() for name in found.group(1).split(", "))
        return f"{' and '.join(missing)} is missing"
    if found := re.fullmatch(r"argument (\S+): expected one argument", message):
        return f"{found.group(1)} is given without a value"
    if found := re.fullmatch(r"[Uu]nrecognized arguments: (.+)", message):
        return f"{found.group(1)} is not known here"
    if found := re.fullmatch(r"Subcommand '\w+' does not accept option '(.+)'", message):
        return f"{found.group(1)} is no option of this command"
    if found := re.match(r'Parser key "(.+?)": ?Unable to load config .(.+?). - ', message):
        return f"--{found.group(1)} is {found.group(2)!r}; expected {SETTINGS_FILE}, for this group alone"
    return re.sub(r'^Parser key "(.+?)":', r"--\1:", message).rstrip(". ")


def _kind(name: str) -> str:
    """What values of a type look like."""
    if found := re.fullmatch(r"typing\.Literal\[(.+)\]", name):
        return f"one of {_plain(found.group(1))}"
    name = _CLASS.sub(r"\1", name)
    return _KINDS.get(name, name)


def _plain(choices: str) -> str:
    return choices.replace("'", "")
