"""Open subdomains that wait to be split."""

from __future__ import annotations

from collections import deque

import torch

from verifier.branching.subdomains import Subdomains


class Queue:
    """First in, first out, the worst of each batch first; where memory grows short, the newest first.

    A proof has to close every subdomain, so that their order changes the work little; it decides how many are open at
    once.

    Args:
        memory: bytes.
    """

    def __init__(self, memory: int) -> None:
        self.memory, self._batches, self._count, self._bytes = memory, deque[Subdomains](), 0, 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        return self._bytes > self.memory

    def put(self, subdomains: Subdomains) -> None:
        if len(subdomains):
            self._batches.append(subdomains.select(subdomains.bound.argsort()))
            self._changed(subdomains, 1)

    def take(self, most: int) -> Subdomains:
        """Up to so many subdomains; there must be one."""
        taken, count = [], 0
        newest = self._bytes > 0.5 * self.memory
        while self._batches and count < most:
            batch = self._batches.pop() if newest else self._batches.popleft()
            part = batch.select(torch.arange(min(len(batch), most - count)))
            if len(part) < len(batch):
                rest = batch.select(torch.arange(len(part), len(batch)))
                (self._batches.append if newest else self._batches.appendleft)(rest)
            self._changed(part, -1)
            taken.append(part)
            count += len(part)
        return Subdomains.concatenate(taken)

    def rest(self) -> Subdomains | None:
        """All that is left; None where nothing is."""
        return Subdomains.concatenate(list(self._batches)) if self._batches else None

    def _changed(self, subdomains: Subdomains, sign: int) -> None:
        self._count += sign * len(subdomains)
        self._bytes += sign * len(subdomains) * subdomains.bytes_each
