"""Checkpoints: one file, replaced as a whole, read back without running code from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verifier import files
from verifier.errors import StoreError

VERSION = 1
#: bytes of the sha256 that a file begins with: the rest is of torch.save
DIGEST = 32


def replaced(path: Path, write: Callable[[Path], object]) -> None:
    """`verifier.files.replaced`, for files of a run.

    Raises:
        StoreError: the directory or the disk does not take it.
    """
    try:
        files.replaced(path, write)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint: tensors, numbers, texts, lists and dicts.

    Raises:
        StoreError: the directory or the disk does not take it.
    """
    # in memory first: torch's own writer reports a full disk as a RuntimeError without its cause
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **content}, buffer)
    body = buffer.getbuffer()
    replaced(path, lambda beside: _write(beside, hashlib.sha256(body).digest(), body))


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    """Write weights as safetensors, with what `verifier.normalisation.metadata_of` says of their network.

    Raises:
        StoreError: the directory or the disk does not take it.
    """
    from safetensors.torch import save as as_bytes

    # clones: tied weights share their memory, which the file cannot
    content = as_bytes({k: v.detach().cpu().clone().contiguous() for k, v in weights.items()}, metadata)
    replaced(path, lambda beside: beside.write_bytes(content))


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        StoreError: it is not there, not a checkpoint, damaged, or of another version.
    """
    try:
        found = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    digest, body = found[:DIGEST], found[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise StoreError(
            f"{path} is not a checkpoint, or a damaged one: restore it from a copy, or start anew in another folder"
        )
    content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise StoreError(f"{path} is not a checkpoint of this version of the trainer: start anew in another folder")
    return content
