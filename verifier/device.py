"""Which devices bounds may be computed on, and how much memory they have."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from verifier.errors import InputError

#: bytes that are taken without asking, and the share of what is left that may be taken at once
_SMALL, _SHARE = 1 << 20, 0.8


def free_memory() -> float:
    """Bytes of the machine's memory that may still be taken; infinite where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def ask_memory(size: float) -> None:
    """To be called before so many bytes of the machine's memory are taken at once.

    Systems that promise more than they have end the process when it is used, and no allocation fails before.

    Raises:
        MemoryError: there are not so many left.
    """
    if size > _SMALL and size > _SHARE * free_memory():
        raise MemoryError(f"{size / 2**20:.0f} MiB are more than the machine has left")


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
