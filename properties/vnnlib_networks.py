"""What a VNN-LIB 2.0 file declares of its networks: inputs, hidden nodes and outputs, by name and shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from properties.vnnlib_text import BracketList, PropertyText, Word

#: entries of all inputs, and of all outputs
MAX_VARIABLES = 1_000_000

_REALS = frozenset({"Real", "real", "float64", "float32", "float16", "bfloat16", "F64", "F32", "F16"})
#: in the order in which the standard has them
_KINDS = {"declare-input": "input", "declare-hidden": "hidden", "declare-output": "output"}
_SAME = ("equal-to", "isomorphic-to")


@dataclass(frozen=True)
class Declared:
    """A tensor of a network, as the file calls it."""

    kind: str  #: "input", "hidden" or "output"
    name: str
    element: str
    shape: tuple[int, ...]
    node: str | None  #: what the ONNX file calls it; None: the next one, in order

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class DeclaredNetwork:
    """A network of the file, which is given as an ONNX file, or is one that was declared before."""

    name: str
    tensors: tuple[Declared, ...]
    equal_to: str | None = None  #: the network whose file is this one's as well

    def of(self, *kinds: str) -> list[Declared]:
        """Its tensors of some kinds, in order."""
        return [tensor for tensor in self.tensors if tensor.kind in kinds]

    @property
    def simple(self) -> bool:
        """One output, nothing hidden, no names of the ONNX file's: its entries are those of the file, in order."""
        return len(self.of("hidden", "output")) == 1 and all(tensor.node is None for tensor in self.tensors)


def declared_network(source: PropertyText, command: BracketList, before: Sequence[DeclaredNetwork]) -> DeclaredNetwork:
    """The network in (declare-network N (declare-input X Real [1,2]) (declare-output Y Real [3])).

    Args:
        before: the networks that were declared before it.

    Raises:
        ValueError: it is not written as the standard says, or has what is not supported; with the place in the file.
    """
    if len(command.items) < 2 or not isinstance(command.items[1], Word):
        raise source.error("declare-network needs a name", command.at)
    name, parts = command.items[1].text, command.items[2:]
    taken = {tensor.name for network in before for tensor in network.tensors}
    if any(network.name == name for network in before):
        raise source.error(f"a second network called {name[:40]!r}: give it another name", command.at)
    equal_to, tensors = None, list[Declared]()
    for part in parts:
        kind = part.head if isinstance(part, BracketList) else part.text
        if kind in _SAME and isinstance(part, BracketList):
            other = _other(source, part, before)
            equal_to = other if kind == "equal-to" else equal_to
        elif kind in _KINDS and isinstance(part, BracketList):
            tensors.append(_tensor(source, part, taken | {tensor.name for tensor in tensors}))
        else:
            raise source.error(
                f"{kind[:40] or '('!r} in a network is not supported, only {', '.join((*_SAME, *_KINDS))}", part.at
            )
    made = DeclaredNetwork(name, tuple(tensors), equal_to)
    for kind in ("input", "output"):
        if not made.of(kind):
            raise source.error(f"the network declares no {kind}", command.at)
        named = [tensor.node is not None for tensor in made.of(kind)]
        if any(named) and not all(named):
            raise source.error(f"either all {kind}s of a network have names of the ONNX file's or none", command.at)
    return made


def _other(source: PropertyText, part: BracketList, before: Iterable[DeclaredNetwork]) -> str:
    name = part.items[1].text if len(part.items) == 2 and isinstance(part.items[1], Word) else ""
    known = [network.name for network in before]
    if name not in known:
        said = f"the networks before it are {', '.join(known)}" if known else "there is none before it"
        raise source.error(f"{part.head} names a network that is declared before: {said}, not {name[:40]!r}", part.at)
    return name


def _tensor(source: PropertyText, part: BracketList, taken: set[str]) -> Declared:
    what = _KINDS[part.head]
    words = [item.text for item in part.items[1:] if isinstance(item, Word)]
    if len(words) != len(part.items) - 1 or len(words) not in (3, 4):
        raise source.error(f"an {what} is declared as ({part.head} X float32 [1,2])", part.at)
    if len(words) == 4 and not re.fullmatch(r'"[^"]*"', words[3]):
        raise source.error(f"{words[3][:40]!r} is not the name of an onnx node, in quotes", part.at)
    if len(words) == 3 and what == "hidden":
        raise source.error(
            f'a hidden node needs its name in the ONNX file: ({part.head} H float32 [1,2] "name")', part.at
        )
    name, element, shape = words[:3]
    if element not in _REALS:
        raise source.error(f"{what}s of type {element[:40]!r} are not supported, only real numbers", part.at)
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) or name in taken:
        raise source.error(f"{name[:40]!r} is no name, or is taken already", part.at)
    sizes = integers(shape)
    if sizes is None or 0 in sizes or math.prod(sizes) > MAX_VARIABLES:
        raise source.error(f"{shape[:40]!r} is not a shape such as [1,2] that is supported", part.at)
    return Declared(what, name, element, sizes, words[3][1:-1] if len(words) == 4 else None)


def integers(text: str) -> tuple[int, ...] | None:
    """The numbers in [1,2,3]; None where that is something else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    parts = [part.strip() for part in text[1:-1].split(",")] if text[1:-1].strip() else []
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        return None
    return tuple(map(int, parts))


def flat(index: tuple[int, ...] | None, shape: tuple[int, ...]) -> int | None:
    """The place of an entry in row-major order; None where there is no such entry."""
    if index is None or len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=True)):
        return None
    place = 0
    for i, n in zip(index, shape, strict=True):
        place = place * n + i
    return place
