"""A shard: every n-th example of a run, so that n runs of their own share the work without knowing of each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from verifier.errors import InputError


@dataclass(frozen=True)
class Shard:
    """The examples whose index leaves the remainder `number - 1` when divided by `of`: 1 <= number <= of.

    Neighbours go to different shards, so that a stretch of hard examples is shared by all of them.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, given: Any) -> Shard:
        """Of a text such as "3/8", or of two integers; None: all, as of 1/1. Raises InputError."""
        if given is None or isinstance(given, Shard):
            return given or cls(1, 1)
        numbers: Any = given
        if isinstance(given, str):
            matched = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", given)
            numbers = tuple(map(int, matched.groups())) if matched else None
        whole = isinstance(numbers, tuple | list) and len(numbers) == 2 and all(type(n) is int for n in numbers)
        if not whole or not 1 <= numbers[0] <= numbers[1]:
            raise InputError(f'a shard is k of n with 1 <= k <= n, such as "3/8" or (3, 8); got {given!r}')
        return cls(*numbers)

    def has(self, index: int) -> bool:
        """Whether it is this shard's, of the example with this index in the whole data."""
        return index % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
