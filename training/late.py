"""Checks of what a step works on, which an accelerator is asked about later: a step does not wait for the answer."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.errors import InputError


class LateChecks:
    """What must not be, noted step by step, and read at once before anything is kept. On the CPU there is no wait."""

    def __init__(self) -> None:
        self._noted: dict[str, Tensor] = {}

    def refuse(self, bad: Tensor, said: str) -> None:  # [] bool
        """Raises InputError with what is said where `bad` is true: at once on the CPU, else by `settle`."""
        if bad.device.type != "cpu":
            self._noted[said] = self._noted[said] | bad if said in self._noted else bad
        elif bool(bad):
            raise InputError(said)

    def settle(self) -> None:
        """Raises InputError for the first that was true in any step since the last call."""
        noted, self._noted = self._noted, {}
        if noted:
            found = torch.stack(list(noted.values())).tolist()
            for said, bad in zip(noted, found, strict=True):
                if bad:
                    raise InputError(said)
