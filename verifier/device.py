"""Which devices bounds may be computed on, and how much memory they have."""

from __future__ import annotations

import torch

from verifier.errors import InputError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left: Python's, numpy's, torch's of either kind of device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


def checked_device(device: torch.device | str | int | None) -> torch.device | None:
    """The device asked for; None stays None. Only the CPU and the CUDA devices that are here are taken.

    Raises:
        InputError: no such device, or one of another kind.
    """
    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"there is no device {device!r}: give cpu, cuda or cuda:0") from error
    if chosen.type == "cpu":
        return torch.device("cpu")
    if chosen.type != "cuda":
        raise InputError(f"bounds cannot be computed on device {str(chosen)!r}: give cpu, cuda or cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError(f"device {chosen} was asked for, but torch finds no CUDA device here: use cpu")
    if chosen.index is not None and chosen.index >= count:
        raise InputError(f"there is no device {chosen}: the last CUDA device here is cuda:{count - 1}")
    return chosen
