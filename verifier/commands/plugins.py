"""Commands that other packages add: entry points of the group `verifier.commands`, loaded when they are asked for.

In the other package's pyproject.toml, with a function that `verifier.commands.command.add` can make a command of:

    [project.entry-points."verifier.commands"]
    train = "training.cli:train"
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from verifier.commands.command import add

GROUP = "verifier.commands"


class CommandGroup(TyperGroup):
    """The commands of this package and, after them, those of others; own names win.

    A command that cannot be loaded is left out of the list, with a warning in one line.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(_found()) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        return _loaded(cmd_name) if own is None and cmd_name in _found() else own


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _loaded(name: str) -> Any:
    """The command of an entry point; None where it cannot be loaded."""
    entry = _found()[name]
    try:
        function = entry.load()
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        add(app, function, name)
        return typer.main.get_command(app)
    except Exception as error:  # another package's code: whatever is wrong with it, the other commands work
        cause = " ".join(str(error).split())
        print(
            f"warning: no command {name!r}: {entry.value} fails with {type(error).__name__}: {cause}", file=sys.stderr
        )
        return None
