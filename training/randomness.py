"""All that is random in a run, from its seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators (dropout draws from them) are the run's own; the caller's are put back."""
    on_device = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_device else []):
        torch.default_generator.manual_seed(_seed(seed, "torch"))
        if on_device:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_seed(seed, "torch"))
        yield


def _seed(seed: int, *purpose: object) -> int:
    """A seed for one purpose: streams for different purposes have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:7], "little")


def stream(seed: int, *purpose: object) -> torch.Generator:
    """A generator on the CPU for one purpose of a run."""
    return torch.Generator().manual_seed(_seed(seed, *purpose))
