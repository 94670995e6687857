"""What all commands have in common: help, JSON, statuses, completion."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperOption
from typer.main import get_group

from pixeltoll.cli import COMMANDS
from pixeltoll.exits import Exit
from tests.integration.pixeltoll.helpers import Operator
from tools.reference import cli

ROOT = Path(__file__).parents[3]
# These run until they are stopped, or show more than facts.
WITHOUT_JSON = {"up", "demo", "api", "worker", "scheduler", "flower"}


def test_every_command_and_option_is_explained_and_what_prints_can_print_json() -> None:
    for name, command in cli.leaves():
        assert command.help, name
        options = set()
        for one in command.params:
            if isinstance(one, TyperOption):
                options |= set(one.opts)
            if isinstance(one, TyperArgument | TyperOption):
                assert one.help, f"{name} {one.name}"
        assert "--json" in options or name.removeprefix("pixeltoll ") in WITHOUT_JSON, name


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    there = {}
    for path in (ROOT / "pixeltoll" / "commands").glob("*.py"):
        module = import_module(f"pixeltoll.commands.{path.stem}")
        if hasattr(module, "add_to"):
            found = typer.Typer()
            module.add_to(found)
            commands = get_group(found).commands.items()
            there[path.stem] = {
                name: str(command.help).partition("\n\n")[0] for name, command in commands
            }

    assert there == COMMANDS


def test_every_status_is_documented() -> None:
    for one in Exit:
        assert f"| {int(one)} | {one.meaning} |" in cli.page()


def test_no_status_is_used_that_is_not_in_the_table() -> None:
    for path in (ROOT / "pixeltoll").rglob("*.py"):
        bare = re.findall(r"(?:typer\.Exit|sys\.exit|SystemExit)\((\d+)\)", path.read_text("utf-8"))
        assert not bare, path


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], Exit.DONE),
        (["no-such-command"], Exit.USAGE),
        (["drain", "--timeout", "soon"], Exit.USAGE),
        (["submit"], Exit.USAGE),
    ],
)
def test_what_is_not_understood_ends_with_its_own_status(
    arguments: list[str], status: Exit
) -> None:
    Operator().run(*arguments, status=status)


def test_ctrl_c_ends_a_command_with_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pixeltoll.commands.doctor.settle", pressed)
    Operator().run("doctor", status=Exit.INTERRUPTED)
    monkeypatch.setattr("pixeltoll.stack.running", pressed)
    monkeypatch.setattr("pixeltoll.commands.stacks._end_by_exception", lambda: None)
    assert "before the end" in Operator().ended("demo", status=Exit.INTERRUPTED).stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pixeltoll led", "ledger"),
        ("pixeltoll jobs can", "cancel"),
        ("pixeltoll drain --a", "--all"),
    ],
)
def test_a_shell_completes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, offered: str
) -> None:
    monkeypatch.setitem(os.environ, "_PIXELTOLL_COMPLETE", "complete_bash")
    monkeypatch.setitem(os.environ, "COMP_WORDS", words)
    monkeypatch.setitem(os.environ, "COMP_CWORD", str(words.count(" ")))
    assert Operator().run().split() == [offered]
