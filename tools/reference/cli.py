"""docs/reference/cli.md: every command with its arguments and options, from the command itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from pixeltoll import cli
from pixeltoll.exits import Exit
from pixeltoll.lazy import LazyCommand
from tools.reference.markdown import NOTICE, table

_INTRO = """\
`pixeltoll --help` and `pixeltoll COMMAND --help` say the same on a terminal. `python -m pixeltoll`
is the same command where a virtual environment is not on the path.

Commands about the books work on the database of `DATABASE_URL`, or else on that of the stack that
runs on `--data-dir`. `submit` and `jobs` need no database: they ask the API, as a gateway, and
[two variables](settings.md#a-gateways-own-commands) say which and whose.
"""
_JSON = """\
With `--json`, a command writes one JSON object to standard output and nothing else there: amounts
are decimals as text, lists are under `data`. Questions, warnings and errors go to
standard error. Without `--json`, and on a terminal only, it shows the progress of long work, too.
"""
_COMPLETION = """\
`pixeltoll --install-completion` teaches the shell that it runs in (bash, zsh, fish, PowerShell) to
complete commands and options; `pixeltoll --show-completion` writes what it would install.
"""
_EXITS = """\
How a command ends is its exit status. What runs until it is told to stop, as `up`, the API and
workers do, is done then, by Ctrl-C, too. A process that a signal ends has the signal's own."""


def page() -> str:
    """Return the page."""
    return "\n".join(
        (
            *(NOTICE, "", "# Command line", "", _INTRO),
            *("## JSON", "", _JSON),
            *("## Completion", "", _COMPLETION),
            *("## Exit statuses", "", _EXITS, "", _statuses()),
            *_commands("pixeltoll", cli.program()),
        )
    )


def leaves() -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command that does something, with its whole name."""
    for name, command in _walk("pixeltoll", cli.program()):
        if isinstance(command, TyperCommand):
            yield name, command


def _walk(name: str, listed: object) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    command = listed.loaded if isinstance(listed, LazyCommand) else listed
    assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101  typer makes no others
    yield name, command
    if isinstance(command, TyperGroup):
        for child, inner in sorted(command.commands.items()):
            yield from _walk(f"{name} {child}", inner)


def _statuses() -> str:
    return table(("status", "means"), ((str(int(one)), one.meaning) for one in Exit))


def _commands(name: str, root: TyperGroup) -> Iterator[str]:
    for whole, command in _walk(name, root):
        if whole == name:
            continue
        words = whole.removeprefix(f"{name} ")
        level = "##" if " " not in words else "###"
        yield f"{level} {words}\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        if isinstance(command, TyperCommand):
            yield from _usage(whole, command)


def _usage(name: str, command: TyperCommand) -> Iterator[str]:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    options = [one for one in command.params if isinstance(one, TyperOption)]
    words = [name, *(_named(one) for one in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"```text\n{' '.join(words)}\n```\n"
    rows = [(f"`{_named(one)}`", "", one.help or "") for one in arguments]
    rows += [(_spelled(one), _default(one), one.help or "") for one in options]
    if rows:
        yield table(("", "default", "what it does"), rows)


def _named(argument: TyperArgument) -> str:
    return argument.metavar or str(argument.name).upper()


def _spelled(option: TyperOption) -> str:
    names = ", ".join(f"`{one}`" for one in (*option.opts, *option.secondary_opts))
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{names} " + ", ".join(f"`{one.value}`" for one in kind)
    return names


def _default(option: TyperOption) -> str:
    """Return what holds where an option is not given; a switch that is off says nothing."""
    if option.required:
        return "must be given"
    value = option.default
    if isinstance(value, bool):
        return "yes" if value else ""
    if value in (None, ""):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"
