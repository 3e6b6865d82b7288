"""One register for every kind of part: operators, stages, input sets, backends, attacks, trainers, comparison methods.

A part is known by a name. Those of this project register themselves when their file is imported, and every file of
the kind's folder is imported when somebody first asks for a name that is not known yet, or for the whole list: saving
a file there is all it takes. Parts of other distributions are found by entry points, in a group per kind:

    [project.entry-points."verifier.stages"]
    sampling = "my_package.sampling"

where the module registers what it holds. A file that cannot be imported is a warning of one line, and the other parts
work. This file is the ground that all four packages stand on: solvers and properties, which know nothing of the
verifier, may import it, because it imports nothing but the standard library and says nothing about any kind of part.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

Part = TypeVar("Part")
Registered = TypeVar("Registered")


class PartWarning(UserWarning):
    """A file or an entry point that was to bring a part cannot be loaded; the others are there."""


class Registry(Mapping[str, Part], Generic[Part]):
    """Parts of one kind by name: classes, functions that make one, or the parts themselves.

    Iterating and listing give the names proper; looking a part up takes aliases as well.

    Args:
        kind: what one part is called in messages, such as "stage".
        package: whose modules hold the project's own parts.
        group: of entry points, for the parts of other distributions.
        named: the name that a part says itself; default its attribute `name`.
        aliased: its other names; default its own (not inherited) attribute `aliases`.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        *,
        named: Callable[[Any], str] = lambda part: str(getattr(part, "name", "")),
        aliased: Callable[[Any], Sequence[str]] = lambda part: getattr(part, "__dict__", {}).get("aliases", ()),
    ) -> None:
        self.kind, self.package, self.group = kind, package, group
        self.named, self.aliased = named, aliased
        #: what could not be loaded, a line each
        self.failures: list[str] = []
        self._parts: dict[str, Part] = {}
        self._aliases: dict[str, str] = {}
        self._lock = threading.RLock()  # of what is registered
        # of loading: not the same, because a file that another thread imports registers while it holds up ours
        self._turn = threading.RLock()
        self._loaded = False

    def register(self, part: Registered, name: str | None = None, aliases: Sequence[str] | None = None) -> Registered:
        """Make a part known; as a decorator of a class, or called with a function that makes the part.

        Args:
            name, aliases: default those that the part says itself.

        Raises:
            ValueError: there is no name, or it is taken by another part.
            TypeError: the class is abstract.
        """
        if inspect.isabstract(part):
            missing = ", ".join(sorted(getattr(part, "__abstractmethods__", ())))
            raise TypeError(f"{_where(part)} is no {self.kind} yet: it lacks {missing}")
        chosen = name or self.named(part)
        if not chosen:
            raise ValueError(f"{_where(part)} has no name to be registered by as {_a(self.kind)}")
        others = tuple(aliases if aliases is not None else self.aliased(part) if name is None else ())
        with self._lock:
            for text in (chosen, *others):
                holder = self._aliases.get(text, text)
                if holder in self._parts and not (holder == chosen and _same(self._parts[holder], part)):
                    taken = _where(self._parts[holder])
                    raise ValueError(f"{_a(self.kind)} called {text!r} is there already ({taken}): not {_where(part)}")
            self._parts[chosen] = part  # type: ignore[assignment]  # a decorator gives back the class that it was given
            self._aliases.update(dict.fromkeys(others, chosen))
        return part

    def load(self) -> None:
        """Import all that may hold parts, once; by itself on the first need."""
        with self._turn:
            if self._loaded:
                return
            self._loaded = True  # first: what is imported may ask for parts
            try:
                self._load_all()
            except BaseException:  # Ctrl-C, most likely: the rest is loaded on the next need
                self._loaded = False
                raise

    def _load_all(self) -> None:
        self.failures.clear()
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            if not module.startswith("__"):
                self._import(f"{self.package}.{module}", f"the file of {self.package}.{module}")
        for entry in entry_points(group=self.group):
            source = "" if entry.dist is None else f" of {entry.dist.name}"
            self._import(entry.module, f"the entry point {entry.name} = {entry.value}{source}")

    def canonical(self, name: str) -> str:
        """The name proper of a part.

        Raises:
            ValueError: no part has that name; the message lists those that there are.
        """
        if name not in self:
            raise ValueError(self.unknown(name))
        return self._aliases.get(name, name)

    def named_part(self, name: str) -> Part:
        """The part of that name or alias. Raises ValueError as `canonical` does."""
        return self[self.canonical(name)]

    def aliases(self, name: str) -> tuple[str, ...]:
        """The other names of a part."""
        proper = self.canonical(name)
        return tuple(alias for alias, part in self._aliases.items() if part == proper)

    def unknown(self, name: str) -> str:
        """What to say of a name that no part has: the names that there are, the closest, and what failed to load."""
        return unknown(self.kind, name, sorted(self)) + self.hint(name)

    def hint(self, name: str) -> str:
        """The end of such a message alone, for messages of one's own: the closest name, and what failed to load."""
        return hint(name, [*self, *self._aliases], self.failures)

    @contextmanager
    def standing_in(self, parts: Mapping[str, Part | None]) -> Iterator[None]:
        """These parts, in place of those of their names, inside the `with`; None: no such part. For tests."""
        self.load()
        with self._lock:
            before = dict(self._parts)
            for name, part in parts.items():
                if part is None:
                    del self._parts[name]
                else:
                    self._parts[name] = part
        try:
            yield
        finally:
            with self._lock:
                self._parts = before

    def __getitem__(self, name: str) -> Part:
        part = self._find(name)
        if part is None:
            self.load()
            part = self._find(name)
        if part is None:
            raise KeyError(name)
        return part

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(tuple(self._parts))

    def __len__(self) -> int:
        self.load()
        return len(self._parts)

    def _find(self, name: str) -> Part | None:
        return self._parts.get(self._aliases.get(name, name))

    def _import(self, module: str, what: str) -> None:
        try:
            importlib.import_module(module)
        except Exception as error:  # somebody's file: whatever is wrong with it, the other parts work
            cause = " ".join(str(error).split())
            self.failures.append(f"{what} cannot be loaded: {type(error).__name__}: {cause}")
            warnings.warn(PartWarning(f"{_a(self.kind)} may be missing: {self.failures[-1]}"), stacklevel=4)


def unknown(kind: str, name: str, names: Sequence[str]) -> str:
    """A message about a name that is none, and about those that there are."""
    return f"no {kind} is called {name!r}; there are: {', '.join(names)}"


def hint(name: str, names: Sequence[str], notes: Sequence[str] = ()) -> str:
    """What may follow: the closest of the names, in capitals or not, where one is close, and notes."""
    folded = {known.casefold(): known for known in reversed(names)}
    close = [folded[found] for found in difflib.get_close_matches(name.casefold(), folded, n=1)]
    return "".join(f"; {text}" for text in ([f"did you mean {close[0]!r}?"] if close else []) + list(notes))


def _same(one: Any, other: Any) -> bool:
    """Whether two parts are one definition, executed again (a cell of a notebook, a reload)."""
    classes = inspect.isclass(one) and inspect.isclass(other)
    return one is other or (classes and _where(one) == _where(other) and "<locals>" not in _where(one))


def _where(part: Any) -> str:
    made = getattr(part, "func", part)  # functools.partial
    return f"{getattr(made, '__module__', '?')}.{getattr(made, '__qualname__', repr(made))}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
