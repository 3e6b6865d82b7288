"""How checks run their laws: one after the other, with a note on which one of which example was broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

if not __debug__:
    raise ImportError("conformance checks are made of assertions: run Python without -O")

Law = Callable[..., None]


def hold(what: str, laws: Sequence[Law], *given: Any) -> None:
    """Call every law with what is given. What a broken one raises gets a note: `what`, and what the law says."""
    for law in laws:
        try:
            law(*given)
        except Exception as error:
            said = " ".join((law.__doc__ or law.__name__).split()).partition(". ")[0].rstrip(".")
            error.add_note(f"{what} breaks a law: {said}")
            raise


def named(part: object) -> str:
    """What a class, or a function that makes parts, is called in messages."""
    made = getattr(part, "func", part)
    return str(getattr(made, "__qualname__", repr(made)))


def examples_of(part: Any) -> list[Any]:
    """The instances to check: what `examples` of a class gives; of a function, what it makes."""
    made = list(part.examples()) if hasattr(part, "examples") else [part()]
    assert made, f"{named(part)} has no examples"
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:  # [*shape]
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)
