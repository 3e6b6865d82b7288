"""Settings of a training method from the texts of a command line, and what there is to set."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from training.method import TrainingMethod
from training.schedule import Optimiser, Rate

#: settings that the command line has options of its own for
_OWN_OPTIONS = ("eps", "threat", "clip", "batch")


@dataclass(frozen=True)
class Setting:
    """One field of a method: its name, default (as it is typed), type, and a line that explains it."""

    name: str
    default: str
    kind: Any
    explained: str


def settings_of(method: type[TrainingMethod]) -> list[Setting]:
    """What `--set` takes for a method."""
    kinds, explained = typing.get_type_hints(method), _explained(method)
    return [
        Setting(f.name, _shown(f.default), kinds[f.name], explained.get(f.name, ""))
        for f in dataclasses.fields(method)
        if f.name not in _OWN_OPTIONS
    ]


def parsed(method: type[TrainingMethod], texts: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of a method from texts "name=value".

    Numbers, true / false, none, and lists with commas are written as usual; an optimiser as "sgd" or
    "sgd:rate=0.1,momentum=0.9", a schedule of the learning rate as "cosine" or "decayed:factor=0.1,times=3".

    Raises:
        ValueError: not of that form, no such setting (the message lists those that there are), or no such value.
    """
    known = {setting.name: setting for setting in settings_of(method)}
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"--set takes name=value, got {text!r}")
        if name in _OWN_OPTIONS:
            raise ValueError(f"{name} has an option of its own: --{name}")
        if name not in known:
            raise ValueError(f"method {method.name!r} has no setting {name!r}; it has:\n{table(method)}")
        if name in values:
            raise ValueError(f"--set {name} is given twice")
        values[name] = _value(value, known[name].kind, f"--set {name}")
    return values


def table(method: type[TrainingMethod]) -> str:
    """The settings, one per line, with defaults and explanations."""
    return "\n".join(
        f"  {s.name} = {s.default}" + (f"  # {s.explained}" if s.explained else "") for s in settings_of(method)
    )


def summary(thing: object) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _value(text: str, kind: Any, where: str) -> Any:
    """A text as a value of a type; unions are tried from left to right.

    Raises:
        ValueError: it is none.
    """
    alternatives = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for alternative in sorted(alternatives, key=lambda k: k is str):  # any text is a str
        try:
            return _as_one(text, alternative, where)
        except _OtherKind:
            continue
    wanted = " or ".join(_named(k) for k in alternatives)
    raise ValueError(f"{where}: {text!r} is not {wanted}")


class _OtherKind(ValueError):
    """A text is not of a kind."""


def _as_one(text: str, kind: Any, where: str) -> Any:
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise _OtherKind from None
    if kind in (bool, types.NoneType):
        words = {"true": True, "false": False} if kind is bool else {"none": None}
        if text.lower() not in words:
            raise _OtherKind
        return words[text.lower()]
    if typing.get_origin(kind) is tuple:
        return _sequence(text, typing.get_args(kind), where)
    if kind is Optimiser:
        name, options = _call(text, where)
        return _made(Optimiser, {**({"kind": name} if name else {}), **options}, where)
    if kind is Rate:
        name, options = _call(text, where)
        rates = {c.__name__.lower(): c for c in Rate.__subclasses__() if not c.__name__.startswith("_")}
        if name not in rates:
            raise ValueError(f"{where}: no schedule is called {name!r}; there are: {', '.join(sorted(rates))}")
        return _made(rates[name], options, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        name, options = _call(text, where)
        if name not in ("", kind.__name__.lower()):
            raise ValueError(f"{where}: write {kind.__name__.lower()}:name=value,..., got {text!r}")
        return _made(kind, options, where)
    raise ValueError(f"{where} cannot be given on the command line: {_named(kind)}")


def _sequence(text: str, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if text.lower() == "none":
        raise _OtherKind
    parts = [part.strip() for part in text.split(",")]
    if kinds[-1:] == (...,):
        kinds = (kinds[0],) * len(parts)
    if len(parts) != len(kinds):
        raise _OtherKind
    return tuple(_value(part, kind, where) for part, kind in zip(parts, kinds, strict=True))


def _call(text: str, where: str) -> tuple[str, dict[str, str]]:
    """The name and the options of "name:option=value,option=value"; "option=value" has no name.

    What has no "=" goes on with the list that the option before it began: "multistep:at_shares=0.5,0.75,factor=0.1".
    """
    name, colon, rest = text.partition(":")
    if not colon and "=" in name:
        name, rest = "", name
    options: dict[str, str] = {}
    last = ""
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if equals:
            options[key], last = value, key
        elif last:
            options[last] += f",{key}"
        else:
            raise ValueError(f"{where}: {part!r} is not option=value")
    return name.strip().lower(), options


def _made(kind: type, options: dict[str, str], where: str) -> Any:
    kinds = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            raise ValueError(
                f"{where}: {kind.__name__.lower()} has no option {name!r}; it has: {', '.join(names) or 'none'}"
            )
    return kind(**{name: _value(text, kinds[name], f"{where}: {name}") for name, text in options.items()})


def _shown(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_shown, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        name = options.pop("kind", type(value).__name__.lower())
        return f"{name}:{','.join(f'{k}={_shown(v)}' for k, v in options.items())}".rstrip(":")
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _named(kind: Any) -> str:
    plain = {int: "an integer", float: "a number", bool: "true or false", types.NoneType: "none", str: "a text"}
    if kind in plain:
        return plain[kind]
    return "a list with commas" if typing.get_origin(kind) is tuple else getattr(kind, "__name__", str(kind)).lower()


def _explained(method: type[TrainingMethod]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each setting under "Args:"."""
    found: dict[str, str] = {}
    for kind in reversed(method.__mro__):
        lines = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2].splitlines()
        names: list[str] = []
        for line in lines:
            entry = re.fullmatch(r"    (\w+(?:, \w+)*): (.*)", line)
            if entry:
                names = entry[1].split(", ")
                found.update(dict.fromkeys(names, entry[2]))
            elif line.startswith("     ") and names:
                found.update({name: f"{found[name]} {line.strip()}" for name in names})
            else:
                names = []
    return found
