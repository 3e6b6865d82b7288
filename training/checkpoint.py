"""Checkpoints: one file, replaced as a whole, read back without running code from it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from verifier.errors import StoreError

VERSION = 1


def replaced(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside `path`, then put it in its place: whoever reads finds the old or the new one, whole.

    Raises:
        StoreError: the directory or the disk does not take it.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint: tensors, numbers, texts, lists and dicts."""
    replaced(path, lambda beside: torch.save({"version": VERSION, **content}, beside))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        StoreError: it is not there, not a checkpoint, damaged, or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StoreError(f"there is no checkpoint {path}") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is not a checkpoint, or a damaged one: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise StoreError(f"{path} is not a checkpoint of this version of the trainer: start the run anew")
    return content
