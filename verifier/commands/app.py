"""The command line: one file for each command, assembled here.

Other packages add commands by the entry-point group `verifier.commands` (verifier/commands/plugins.py), such as
`verifier train`.

How commands end is in exit_code.py.
"""

from __future__ import annotations

import sys

import typer

from verifier.commands.attack import attack
from verifier.commands.bench import bench
from verifier.commands.bounds import bounds
from verifier.commands.certify import certify
from verifier.commands.check import check
from verifier.commands.command import add
from verifier.commands.crosscheck import crosscheck
from verifier.commands.explain import explain
from verifier.commands.merge import merge
from verifier.commands.plugins import CommandGroup
from verifier.commands.radius import radius
from verifier.commands.report import report
from verifier.commands.show import show
from verifier.commands.stdout import own_stdout
from verifier.commands.verify import verify
from verifier.commands.whole import loaded_whole

app = typer.Typer(
    name="verifier",
    cls=CommandGroup,
    help="Decide, with evidence, whether any allowed perturbation of an input can change a neural network's answer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain messages, in one line however narrow the terminal
    pretty_exceptions_enable=False,  # plain tracebacks: they can be pasted into a report
)


def vnnlib(context: typer.Context) -> None:
    """Decide a VNN-LIB property of an ONNX network: prints sat, unsat, unknown, timeout or error."""
    from verifier.commands.vnnlib import run

    raise typer.Exit(run(context.args))


_COMMANDS = (verify, certify, merge, show, report, attack, bounds, radius, explain, crosscheck, check, bench)
for _command in _COMMANDS:
    add(app, _command)
#: `vnnlib` reads its own arguments (verifier/commands/vnnlib.py)
_AS_THEY_ARE = {"allow_extra_args": True, "ignore_unknown_options": True}
add(app, vnnlib, context_settings=_AS_THEY_ARE, add_help_option=False)


def main() -> None:
    """What `python -m verifier` runs, and the `verifier` script for all but `vnnlib`."""
    own_stdout()
    loaded_whole()
    if sys.argv[1:2] == ["vnnlib"]:
        from verifier.commands.vnnlib import main as decide_one

        decide_one(sys.argv[2:])
    app()


if __name__ == "__main__":
    main()
