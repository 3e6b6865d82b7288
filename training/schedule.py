"""How learning rate and radius move during a run: functions of how far it is, that keep nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


class Rate(ABC):
    """The learning rate, as a factor of the optimiser's."""

    @abstractmethod
    def at(self, done: float, epochs: int) -> float:
        """After `done` (0 <= done <= epochs, fractions within an epoch) of `epochs` epochs."""


@dataclass(frozen=True)
class Constant(Rate):
    """The same all the time."""

    def at(self, done: float, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Stepped(Rate):
    """Multiplied by `factor` every `every` epochs, the first time `after` + `every` epochs into the run."""

    every: float
    factor: float
    after: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.every < float("inf") or not 0 < self.factor < float("inf"):
            raise ValueError(f"steps need every > 0 and a factor > 0, got {self.every} and {self.factor}")

    def at(self, done: float, epochs: int) -> float:
        return self.factor ** max(0, int((int(done) - self.after) // self.every))


@dataclass(frozen=True)
class Decayed(Rate):
    """Constant for the first `after` of the run (a share of it); the rest is `times` equal stretches.

    The first of them has the full rate, each other one `factor` times that of the one before. Wong et al. (2018),
    appendix G: halved every 10 epochs after the first 20 of 60, which is after=1/3, times=4.
    """

    factor: float = 0.5
    times: int = 4
    after: float = 1 / 3

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf") or self.times < 1 or not 0 <= self.after <= 1:
            raise ValueError(
                "a decay needs a factor > 0, times >= 1 and a share after in [0, 1], "
                f"got {self.factor}, {self.times} and {self.after}"
            )

    def at(self, done: float, epochs: int) -> float:
        share = done / epochs
        if share < self.after:
            return 1.0
        return self.factor ** min(self.times - 1, int((share - self.after) / (1 - self.after) * self.times))


@dataclass(frozen=True)
class MultiStep(Rate):
    """Multiplied by `factor` at each of some shares of the run.

    The default is the piecewise decay of Wong (2020), section 4.3.2: divided by 10 after 100 and 150 of 200 epochs.
    """

    at_shares: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in self.at_shares):
            raise ValueError(f"at_shares must be shares of the run, 0 to 1, got {list(self.at_shares)}")

    def at(self, done: float, epochs: int) -> float:
        return self.factor ** sum(done >= share * epochs for share in self.at_shares)


@dataclass(frozen=True)
class Linear(Rate):
    """1 until the share `begin` of the run, then linearly to `last` at the share `end`, where it stays.

    The default is the linear decay of Wong (2020), section 4.3.2: to a tenth between epochs 100 and 150 of 200.
    """

    begin: float = 0.5
    end: float = 0.75
    last: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= 1 or self.last < 0:
            raise ValueError(
                f"a linear decay needs 0 <= begin <= end <= 1 and last >= 0, got {self.begin}, {self.end}, {self.last}"
            )

    def at(self, done: float, epochs: int) -> float:
        share = done / epochs
        if share < self.begin:
            return 1.0
        if share >= self.end:
            return self.last
        return 1 - (1 - self.last) * (share - self.begin) / (self.end - self.begin)


@dataclass(frozen=True)
class Cosine(Rate):
    """Half a cosine, from 1 to 0 over the run."""

    def at(self, done: float, epochs: int) -> float:
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(done / epochs, 1.0)))))


@dataclass(frozen=True)
class Cyclic(Rate):
    """Linearly from zero up to 1 at `peak` (a share of the run), and back to zero at its end.

    Wong (2020), section 4.1.5.
    """

    peak: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.peak <= 1:
            raise ValueError(f"the peak is a share of the run, 0 to 1, got {self.peak}")

    def at(self, done: float, epochs: int) -> float:
        share = done / epochs
        return share / self.peak if share < self.peak else max(0.0, (1 - share) / (1 - self.peak))


@dataclass(frozen=True)
class Ramp:
    """From `start` to 1, linearly, between the shares `begin` and `end` of the run: what a radius is multiplied by.

    Wong et al. (2018), appendix G: from a tenth of the radius over the first third of the run.
    """

    start: float = 0.1
    end: float = 1 / 3
    begin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"a ramp needs 0 <= begin <= end <= 1, got begin {self.begin}, end {self.end}")

    def at(self, share: float) -> float:
        """After a share (0 to 1) of the run."""
        if share >= self.end:
            return 1.0
        if share <= self.begin:
            return self.start
        return self.start + (1 - self.start) * (share - self.begin) / (self.end - self.begin)


@dataclass(frozen=True)
class Optimiser:
    """Which optimiser, with what settings: `kind` is "adam" or "sgd"."""

    kind: str = "adam"
    rate: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("adam", "sgd"):
            raise ValueError(f"no optimiser is called {self.kind!r}; there are: adam, sgd")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"the learning rate must be a number > 0, or nothing is learned; got {self.rate}")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < float("inf"):
            raise ValueError(
                f"momentum must be in [0, 1) and weight_decay >= 0, got {self.momentum} and {self.weight_decay}"
            )
        if self.kind == "adam" and self.momentum:
            raise ValueError("adam takes no momentum: it has its own averages")

    def over(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:  # [...] each
        """A torch optimiser over parameters."""
        if self.kind == "adam":
            return torch.optim.Adam(parameters, lr=self.rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay)
