"""A command whose module is imported when it is run, and not for the list of commands."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from typer._click import Context


class LazyCommand(TyperCommand):
    """What the list of commands shows of one, or of a group of them, that a module has."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        """Take the module, whose function `add_to` adds the command, and what it is for."""
        super().__init__(name, help=summary)
        self._module = module

    @cached_property
    def loaded(self) -> TyperCommand | TyperGroup:
        """The command itself."""
        found = typer.Typer()
        import_module(self._module).add_to(found)
        command = get_group(found).commands[str(self.name)]
        assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101  typer makes no others
        return command

    def make_context(self, *given: Any, **more: Any) -> Context:  # noqa: ANN401  typer's own
        """Hand over to the command itself, which runs in the context that is returned."""
        return self.loaded.make_context(*given, **more)
