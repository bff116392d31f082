"""Option parser: jsonargparse's, with typed checks of options and settings files, and one sentence for a mistake."""

from __future__ import annotations

import contextlib
import inspect
import re
from argparse import Action
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from dataloading.errors import InputError
from dataloading.io import parse_yaml, read_yaml
from istvt.config import DataSettings

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    list[Path]: "a list of paths",
    list[str]: "a list such as [a,b]",
    tuple[str, ...]: "a list such as [a,b]",
    tuple[int, int]: "two whole numbers such as [19,19]",
    tuple[int, int, int, int]: "four whole numbers such as [8,16,24,48]",
}
set_parsing_settings(add_print_completion_argument=True)  # istvt --print_completion shtab-bash
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_NAMES = re.compile(r"(?!(?:null|true|false)$)[A-Za-z][\w.-]*(?:,[A-Za-z][\w.-]*)*")  # a list without its brackets
_MISSING, _TOO_MANY = "the following arguments are required: ", "unrecognized arguments: "  # jsonargparse's words


class UsageError(InputError):
    """A command line or settings file that does not fit the options of its command."""


class HelpFormatter(DefaultHelpFormatter):
    """Formatter that keeps the line breaks of descriptions and shows types by their names."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line else "" for line in inspect.cleandoc(text).splitlines())

    def _expand_help(self, action: Any) -> str:
        return _CLASS.sub(r"\1", super()._expand_help(action))


class OptionParser(ArgumentParser):
    """A parser whose errors are `UsageError`s: one sentence that names the option, or the file and its field."""

    def __init__(self, **how: Any) -> None:
        # No abbreviations: `--preset` is searched for before the options are parsed.
        super().__init__(**how, formatter_class=HelpFormatter, allow_abbrev=False)
        self.repeatable: set[str] = set()  # options of a list that take one item each time they are given
        self.directories: set[str] = set()  # groups of options of a data set that may be given by its root alone

    def add_data_set(self, group: str, skip: set[str] | None = None) -> None:
        """Add the settings of a data set as a group of options, which takes its directory alone too."""
        self.add_class_arguments(DataSettings, group, skip=skip)
        self.directories.add(f"--{group}")
        for action in self._actions:
            if action.option_strings == [f"--{group}"]:
                action.help, action.metavar = "the data set's directory; or a settings file of this group", "DIR"

    def known(self) -> dict[str, str]:
        """Return the option that each spelling means, with dashes or with underscores."""
        options = list(self._option_string_actions)
        return {option.replace("_", "-"): option for option in options} | {option: option for option in options}

    def with_items(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments as jsonargparse takes them.

        An option may have dashes for underscores, and underscores for dashes. `--perturb ITEM` becomes
        `--perturb+=ITEM`, which adds it to the list, any other list `--methods lrp,raw` becomes `--methods=[lrp,raw]`,
        and `--data DIR` of a command that takes it `--data.root=DIR`, unless it is a settings file, or what would be in
        one.
        """
        known = self.known()
        lists = {
            option
            for option, action in self._option_string_actions.items()
            if _is_list(_kind(action)) and not option.endswith("+")
        }
        found: list[str] = []
        for argument in arguments:
            option, equals, item = argument.partition("=")
            if option.startswith("--") and option not in self._option_string_actions:
                option = known.get(option.replace("_", "-"), option)
            if found and found[-1] in lists | self.directories and not argument.startswith("-"):
                option, equals, item = found.pop(), "=", argument
            if option in self.directories and equals and not _is_settings(item):
                option += ".root"
            if option in lists - self.repeatable and _NAMES.fullmatch(item):
                item = f"[{item}]"
            is_item = option in self.repeatable and equals and not item.startswith("[")
            found.append(f"{option}+={item}" if is_item else f"{option}{equals}{item}")
        return found

    def check_names(self, command: str, arguments: Sequence[str], commands: Mapping[str, OptionParser]) -> None:
        """Refuse options that the command does not have, and name what may have been meant.

        Raises:
            UsageError: the first such option, the options of this command whose names are like it, and the other
                commands that have it.
        """
        for argument in arguments:
            option = argument.partition("=")[0]
            if option == "--":
                return
            if not option.startswith("--") or option in self._option_string_actions:
                continue
            name = option.removeprefix("--").rpartition(".")[2]
            like = [each for each in self._option_string_actions if re.split(r"[.-]", each)[-1] == name]
            others = [each for each, other in commands.items() if option in other._option_string_actions]
            like = like or ([] if others else get_close_matches(option, self._option_string_actions, 2, 0.75))
            hint = f"; closest: {', '.join(like[:2])}" if like else f", but of {', '.join(others)}" if others else ""
            raise UsageError(f"{option} is not an option of istvt {command}{hint}")

    def usage_error(self, message: str) -> str:
        """Return an error of parsing, with arguments that are missing or too many as the usage line names them."""
        expected = f"expected {self.usage}"
        if message.startswith(_MISSING):
            dests = [dest.partition(".")[2] for dest in message.removeprefix(_MISSING).split(", ")]
            options = {action.dest: action.option_strings for action in self._actions}
            names = [options[dest][0] if options[dest] else dest.upper() for dest in dests]
            return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} missing; {expected}"
        if message.startswith(_TOO_MANY):
            return f"{message.removeprefix(_TOO_MANY)} is more than the command takes; {expected}"
        return message

    def check_values(self, arguments: Sequence[str]) -> None:
        """Refuse values of options, on the command line and in its settings files, that are not of their types.

        Raises:
            InputError: the first such value, an unknown option of a file, or a file that cannot be read.
        """
        for action in self._actions:
            names = action.option_strings if _kind(action) and action.nargs != 0 else []
            for option in (name for name in names if not name.endswith("+")):  # --list+ ITEM, by jsonargparse
                for text in given(arguments, option):
                    _check(option, action, text)
        for option, within in [("--config", ""), *((f"--{group}", f"{group}.") for group in self.groups)]:
            for path in given(arguments, option):
                inline = _loaded(path)  # a group may stand on the command line: --data '{workers: 3}'
                values = inline if isinstance(inline, dict) else read_settings_file(path, option)
                self._check_tree(values, f"{option} {path}", within)

    def _check_tree(self, values: dict[str, Any], where: str, within: str = "") -> None:
        actions = {action.dest: action for action in self._actions if _kind(action)}
        for key, value in values.items():
            name = f"{within}{key}"
            if name in actions:
                _check(f"{where}: {name}", actions[name], value)
            elif name not in self.groups:
                raise UsageError(f"{where}: {name} is not an option of this command")
            elif isinstance(value, dict):
                self._check_tree(value, where, f"{name}.")
            elif value is not None:
                raise InputError(
                    f"{where}: {name} is {_shown(value)}; expected options of this group, each by its name"
                )

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        """Parse the text of a settings file; a group with every line commented out counts as absent."""
        import yaml

        values = yaml.safe_load(content)
        values = {name: value for name, value in values.items() if value is not None or name not in self.groups}
        return super().parse_string(yaml.safe_dump(values), *arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UsageError where argparse would print and exit."""
        raise UsageError(" ".join(message.split()).rstrip(".")) from ex


def _is_settings(item: str) -> bool:
    """Return whether the value of a group is a settings file, or what would be in one, and not a directory."""
    return item.startswith("{") or Path(item).is_file() or Path(item).suffix in (".yaml", ".yml", ".json")


def read_settings_file(path: str, option: str = "--config") -> dict[str, Any]:
    """Return the options that a settings file holds, by group.

    Raises:
        InputError: it cannot be read, it holds something else, or an option twice.
    """
    try:
        values = read_yaml(path, Any)
    except InputError as error:
        raise InputError(f"{option} {error}") from error
    if not isinstance(values, dict):
        directory = ", or the directory of a data set" if option in ("--data", "--keep") else ""
        raise InputError(f"{option} {path}: holds {_shown(values)}; expected options, each as NAME: VALUE{directory}")
    return values


def given(arguments: Sequence[str], option: str) -> list[str]:
    """Return the values that an option is given, in order."""
    values = [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values + [value for name, value in pairwise(arguments) if name == option]


def _loaded(value: Any) -> Any:
    """Return text as YAML reads it, or as a number where YAML does not (5e-4); any other value unchanged."""
    if isinstance(value, str):
        with contextlib.suppress(InputError):
            value = parse_yaml(value, "")
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return value


def _check(where: str, action: Action, value: Any) -> None:
    """Refuse a value that is not of its option's type, neither as given nor as YAML reads it."""
    if not any(_fits(reading, _kind(action)) for reading in (value, _loaded(value))):
        raise InputError(f"{where} is {_shown(value)}; expected {_expected(_kind(action))}")


def _kind(action: Action) -> Any:
    """Return the type of an option's value in a settings file; None for an option such as --help."""
    if action.choices or action.const is True:
        return Literal[tuple(action.choices)] if action.choices else bool
    kind = getattr(action, "_typehint", None)
    if action.option_strings or kind is None:
        return kind
    return (list[kind] if action.nargs == "+" else kind) | None  # positional: no setting of a file


def _fits(value: Any, kind: Any) -> bool:
    from pydantic import TypeAdapter
    from pydantic_core import to_json

    try:
        # In JSON a list may be a tuple, and text a path.
        TypeAdapter(kind, config={"allow_inf_nan": False}).validate_json(to_json(value), strict=True)
    except ValueError:
        return False
    return True


def _expected(kind: Any) -> str:
    """Return a description of the values of a type, for errors."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return " or ".join(
        f"one of {', '.join(get_args(each))}" if get_origin(each) is Literal else _EXPECTED[each]
        for each in kinds
        if each is not NoneType
    )


def _is_list(kind: Any) -> bool:
    """Return whether an option takes a list of text, alone or beside null."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return any(each in (list[str], tuple[str, ...]) for each in kinds)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
