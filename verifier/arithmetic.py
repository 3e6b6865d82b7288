"""Arithmetic of the precision that bounds are computed in, whatever the process is set to.

torch keeps the precision of its products in flags of the whole process. They belong to the user: they are set while
anybody computes bounds, in whichever thread, and put back when the last one is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from verifier.held import HeldState

_C: Any = torch._C

#: backends whose setting holds for all of their operations that have none of their own; "generic" holds for all
_WHOLES = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
#: operations with a setting of their own
_PARTS = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"),
          ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))  # fmt: skip


@contextmanager
def no_autocast() -> Iterator[None]:
    """No automatic casts to narrower types inside. A property of the thread."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def precise_arithmetic() -> Iterator[None]:
    """No reduced-precision arithmetic inside (TF32, bfloat16, autocast), and sums of products alone: bounds need both.

    Convolutions on a GPU are torch's own then, matrix products of copied windows: of cuDNN's algorithms some are
    Winograd's or Fourier transforms, and no setting leaves out just these ("deterministic" does not).

    Any number of threads may be inside, nested as they like (verifier.held).
    """
    with no_autocast(), _PRECISE.held():
        yield


@dataclass(frozen=True)
class _Flags:
    """The user's settings.

    The older interface, by which networks are traced, keeps a copy of its own, and refuses to be read where that
    differs from what the newer one says.
    """

    precisions: dict[tuple[str, str], str]  #: what each was set to itself; "none": what its whole is set to
    cudnn_tf32: bool  #: of the older interface
    matmul: str  #: likewise
    nnpack: bool
    cudnn: bool

    def restore(self) -> None:
        _C._set_cudnn_enabled(self.cudnn)
        _C._set_nnpack_enabled(self.nnpack)
        _C._set_cudnn_allow_tf32(self.cudnn_tf32)
        torch.set_float32_matmul_precision(self.matmul)
        _set(self.precisions)


def _taken() -> Callable[[], None]:
    """Sets all that can be set to full precision, in both interfaces; returns what restores the user's settings.

    What an operation was set to itself is seen when its wholes are set to nothing.
    """
    precisions = {}
    for key in (*_WHOLES, *_PARTS):
        precisions[key] = _C._get_fp32_precision_getter(*key)
        if key in _WHOLES:
            _set({key: "none"})
    _set(dict.fromkeys((*_PARTS, *_WHOLES), "ieee"))
    libraries = _C._get_nnpack_enabled(), _C._get_cudnn_enabled()
    users = _Flags(precisions, _older_cudnn(), torch.get_float32_matmul_precision(), *libraries)
    _C._set_nnpack_enabled(False)  # both convolve by Winograd's algorithm
    _C._set_cudnn_enabled(False)
    _C._set_cudnn_allow_tf32(False)
    torch.set_float32_matmul_precision("highest")
    _set(dict.fromkeys(_PARTS, "ieee"))  # the older interface has touched some
    return users.restore


def _older_cudnn() -> bool:
    """Whether the older interface allows TF32, where the newer one does not: then it refuses to be read."""
    try:
        return bool(_C._get_cudnn_allow_tf32())
    except RuntimeError:
        return True


def _set(precisions: dict[tuple[str, str], str]) -> None:
    for key, precision in precisions.items():
        _C._set_fp32_precision_setter(*key, precision)


_PRECISE = HeldState(_taken)
