"""How a run is run, whatever its method: how long, from which seed, and how it is measured."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from training.augmentation import Augment, arguments_of
from training.passes import Passes
from verifier.stages import canonical


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a run is run, whatever the method; see `train`."""

    epochs: int
    seed: int = 0
    validation: int | None = None
    measure_every: int = 1
    patience: int | None = None
    stages: tuple[str, ...] | None = None
    augment: Augment | None = None
    checkpoint_seconds: float = 60.0
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        for name in ("epochs", "measure_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if value is not None and value != int(value):
                raise ValueError(f"{name} must be an integer, got {value}")
        if self.validation is not None and self.validation < 0:
            raise ValueError(f"validation must be a number of images >= 0, got {self.validation}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 to 2**63 - 1, got {self.seed}")
        if self.augment is not None:
            arguments_of(self.augment)
        if isinstance(self.stages, str):
            raise ValueError(f"stages must be a list of names, got the text {self.stages!r}")

    def identity(self) -> dict[str, Any]:
        """What of it decides the result, as JSON values."""
        others = ("checkpoint_seconds", "passes")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in others}
        stages = None if self.stages is None else list(canonical(self.stages))
        augment = None if self.augment is None else described(self.augment)
        return {**values, "stages": stages, "augment": augment, **self.passes.identity()}


def described(value: object) -> str:
    """A callable or a module in words that are the same in every process: without addresses."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if name else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
