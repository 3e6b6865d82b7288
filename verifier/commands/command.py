"""How a function becomes a command: groups of options, one message for an error of the user's, each option once.

Every command is added by `add`, those of other packages too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from verifier.checker.errors import CheckerError
from verifier.commands.exit_code import ExitCode
from verifier.commands.shared import say
from verifier.errors import InternalError, VerifierError


def add(app: typer.Typer, function: Callable[..., None], name: str | None = None, **settings: Any) -> None:
    """Makes a function a command of an app.

    Args:
        function: its parameters are options and arguments, as typer takes them, or groups of options: a parameter that
            is annotated with a dataclass stands for the class's fields, and gets an object. Fields may be groups too.
            Errors of the user's that it raises (VerifierError, CheckerError) become one line on stderr and exit code 2.
        settings: of typer's.
    """
    app.command(name, cls=Command, **settings)(_flat(function))


class Command(TyperCommand):
    """Refuses an option that is given twice where only the last value would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option in dict.fromkeys(order):
            repeatable = option.multiple or getattr(option, "is_flag", False)
            if order.count(option) > 1 and not repeatable:
                ctx.fail(f"{option.opts[0]} is given more than once, and takes one value: give it once")
        return super().parse_args(ctx, args)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Errors of the user's become one message and exit code 2; Ctrl-C is 130; all else keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say(str(interrupt) or "interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except InternalError:
        raise
    except (VerifierError, CheckerError) as error:
        _fail(f"error: {error}")


def _fail(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(ExitCode.USAGE) from None


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """The same function, with an option for each field of its groups."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    parameters = [one for name, given in own.items() for one in _parameters(name, hints.get(name), given.default)]

    @functools.wraps(function)
    def called(**values: Any) -> None:
        with user_errors():
            function(**{name: _value(name, hints.get(name), values) for name in own})

    described: Any = called
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def _parameters(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """The parameters that one stands for: itself, or those of a group's fields."""
    if not dataclasses.is_dataclass(hint):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = typing.get_type_hints(hint, include_extras=True)
    for field in dataclasses.fields(hint):
        own = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield from _parameters(field.name, hints[field.name], own)


def _value(name: str, hint: Any, values: dict[str, Any]) -> Any:
    """What a parameter gets of the values of all options."""
    if not dataclasses.is_dataclass(hint):
        return values[name]
    hints = typing.get_type_hints(hint, include_extras=True)
    kind: Any = hint
    return kind(**{field.name: _value(field.name, hints[field.name], values) for field in dataclasses.fields(hint)})
