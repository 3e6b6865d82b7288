"""Which devices bounds may be computed on, and how much memory they have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch

from verifier.errors import InputError

#: bytes that are taken without asking, and the share of what is left that may be taken at once
_SMALL, _SHARE = 1 << 20, 0.8

#: where the system says how much memory there is, and where the limits of containers are
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: files of a control group, of version 1 and 2: its limit, what it has taken; and in its statistics what can be dropped
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = ("memory.max", "memory.current", "inactive_file")


def free_memory() -> float:
    """Bytes of memory that this process may still take; infinite where nothing says.

    What the machine has left, or what a container (a control group, or one above it) leaves where that is less.
    """
    machine = _field(_PROC / "meminfo", "MemAvailable:")
    return min([math.inf if machine is None else 1024.0 * machine, *map(_left, _groups())])


def _groups() -> Iterator[tuple[Path, Sequence[str]]]:
    """Folders of the control groups that count this process's memory, and the names of what each says.

    Version 2 has one tree, version 1 one for memory. In a container the path that the kernel says may be that outside,
    with the group itself at the root: a group that is not there says nothing, and the root is always asked.
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root, files = (_GROUPS, _SECOND) if kinds == "" else (_GROUPS / "memory", _FIRST)
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            yield root / group, files


def _left(group: tuple[Path, Sequence[str]]) -> float:
    """Bytes that a control group has left: its files that the kernel can drop count as free."""
    folder, (limit, used, dropped) = group
    try:
        most, now = (float((folder / name).read_text()) for name in (limit, used))
    except (OSError, ValueError):  # there is no such group, or it says "max"
        return math.inf
    return max(0.0, most - now + (_field(folder / "memory.stat", dropped) or 0.0))


def _field(path: Path, name: str) -> float | None:
    """The number behind a name at the start of a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((float(words[1]) for line in lines if (words := line.split())[:1] == [name]), None)


def has_room(size: float) -> bool:
    """Whether so many bytes may be taken at once."""
    return size <= _SMALL or size <= _SHARE * free_memory()


def working_memory(device: torch.device, memory: int) -> int:
    """Bytes that a stage may work with at once: `memory` of a CPU's, half of what a device of its own has free.

    What torch keeps there for tensors to come is as good as free.
    """
    if device.type == "cpu":
        return memory
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, (torch.cuda.mem_get_info(device)[0] + kept) // 2)


def ask_memory(size: float) -> None:
    """To be called before so many bytes of the machine's memory are taken at once.

    Systems that promise more than they have end the process when it is used, and no allocation fails before.

    Raises:
        MemoryError: there are not so many left.
    """
    if not has_room(size):
        raise MemoryError(f"{size / 2**20:.0f} MiB are more than the machine has left")


def ask_numbers(like: torch.Tensor, count: float) -> None:
    """The same for so many numbers of a tensor's precision. Devices of their own memory fail by themselves.

    Raises:
        MemoryError: there is no room for so many.
    """
    if like.device.type == "cpu":
        ask_memory(float(like.dtype.itemsize) * count)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left: Python's, numpy's, torch's of either kind of device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


@contextmanager
def memory_errors(what: str, instead: str) -> Iterator[None]:
    """Inside, no memory left is an error of ours.

    Args:
        what: needs it. instead: what the user can do.

    Raises:
        InputError: there was none left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise too_large(what, instead) from error


def too_large(what: str, instead: str) -> InputError:
    """What `memory_errors` says: `what` needs too much, do `instead`."""
    return InputError(f"{what} needs more memory for this network than the machine has left: {instead}")


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
