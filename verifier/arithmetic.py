"""Arithmetic of the precision that bounds are computed in, whatever the process is set to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def no_autocast() -> Iterator[None]:
    """No automatic casts to narrower types inside."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def precise_arithmetic() -> Iterator[None]:
    """No reduced-precision arithmetic (TF32, bfloat16, autocast) inside: it would void the bounds. Restored after."""
    with no_autocast(), ExitStack() as stack:
        here: Any = torch.backends
        cuda = (here.cuda.matmul, here.cudnn.conv, here.cudnn.rnn)
        for backend in (*cuda, here.mkldnn.matmul, here.mkldnn.conv):
            stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "ieee"
        stack.enter_context(here.nnpack.flags(enabled=False))  # convolves by Winograd's algorithm
        yield
