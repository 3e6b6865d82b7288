"""How a network under training is called at points, where nothing rests on the roundings: settings of a run.

Attacks, clean outputs and the losses at points go through the module itself, and may be as coarse as training bears.
Bounds go through its graph (verifier.graph), and so do measurements: they stay in the weights' own precision, whatever
is set here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.batch_norm import batch_norms
from training.modes import evaluated
from verifier.errors import InputError

#: what operators may work in; float16 would need losses that are scaled up, and no trainer does that
PRECISIONS = ("bfloat16",)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How the module is called.

    Args:
        amp: automatic mixed precision: convolutions and linear layers work in "bfloat16", weights and losses stay as
            they are; None: all in the precision of the weights.
        compile: calls go through torch.compile, which takes a C++ compiler, or Triton on a device, and a minute.
        channels_last: images lie in memory by places, not by channels.
    """

    amp: str | None = None
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.amp is not None and self.amp not in PRECISIONS:
            raise ValueError(f"amp must be {' or '.join(PRECISIONS)}, or left out, got {self.amp!r}")

    def identity(self) -> dict[str, Any]:
        """What is set, as JSON values: nothing where nothing is, as in logs from before there was anything to set."""
        return {name: value for name, value in vars(self).items() if value}

    def through(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """What calls the model: points [B, *input] -> outputs.

        Args:
            example: [1, *input]; the model is called with it once where something is set, to see whether it can be.

        Raises:
            InputError: one of the settings is none for this network, or for this machine.
        """
        if not self.identity():
            return model
        self._check(model, example)
        called: Callable[[Tensor], Tensor] = torch.compile(model) if self.compile else model

        def through(x: Tensor) -> Tensor:  # [B, *input] -> [B, ...]
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp is not None):
                return called(x).to(example.dtype)

        with evaluated(model), torch.no_grad():
            self._try(lambda: through(example))
        return through

    def _check(self, model: nn.Module, example: Tensor) -> None:  # [1, *input]
        """Raises InputError for what is known to be refused."""
        if self.amp is not None and example.dtype is not torch.float32:
            kind = str(example.dtype).removeprefix("torch.")
            raise InputError(f"amp is for weights in float32, and these are {kind}: leave it out, or convert the model")
        on_device = example.device.type == "cuda"
        if self.amp is not None and on_device and torch.cuda.get_device_capability(example.device) < (8, 0):
            name = torch.cuda.get_device_name(example.device)
            raise InputError(f"{name} has no units for bfloat16, with which amp would be slower: leave it out")
        if self.channels_last and (example.dim() != 4 or example.shape[1] == 1):
            raise InputError(
                "channels_last is for images [channels, height, width] of more than one channel, and inputs are "
                f"{list(example.shape[1:])}: leave it out"
            )
        if self.compile and batch_norms(model):
            raise InputError(
                "compile is not for networks with batch norm: training takes their statistics itself, in the middle of "
                "a pass. Leave it out"
            )

    def _try(self, call: Callable[[], Tensor]) -> None:
        """Raises InputError, with the settings and what torch says, where a call fails that did not without them."""
        try:
            call()
        except Exception as error:
            said = str(error).strip().partition("\n")[0]
            raise InputError(
                f"this network cannot be called with {', '.join(self.identity())} here: leave that out. "
                f"{type(error).__name__}: {said}"
            ) from error
