"""One writer per store: an advisory lock on a side file, released by the kernel when its process ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import lock_descriptor

from verifier.errors import StoreError

#: Windows locks the first byte of the side file, which nobody else can read then: the holder's number is after it
_NUMBER_AT = 1

#: not on Windows
_OPEN_FILES_CAN_BE_REMOVED = os.name != "nt"


class RunLock:
    """Holds `<store>.lock` from construction to `release`.

    The lock is on a side file because closing any descriptor of the database file itself would drop the locks that
    SQLite holds on it. A killed process leaves the side file behind, unlocked: the next run takes it over.

    Raises:
        StoreError: another process holds it, or the side file cannot be made (no directory, no permission).
    """

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(store.name + ".lock")
        self._descriptor: int | None = None
        while self._descriptor is None:
            self._descriptor = self._attempt(store)

    def _attempt(self, store: Path) -> int | None:
        """The locked descriptor; None when the holder removed the file under us, so that we must try again."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write in the directory of the store {store}: {error.strerror}") from error
        try:
            self._lock(descriptor, store)
            if not _is_same_file(descriptor, self._path):
                os.close(descriptor)
                return None
            _write_number(descriptor)
        except StoreError:
            os.close(descriptor)
            raise
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"cannot lock or write {self._path}: {error.strerror}") from error
        return descriptor

    def _lock(self, descriptor: int, store: Path) -> None:
        if not lock_descriptor(descriptor, blocking=False):
            os.lseek(descriptor, _NUMBER_AT, os.SEEK_SET)
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            raise StoreError(
                f"the store {store} is being written by another run (process {holder or 'unknown'}); "
                "wait for it, stop it, or use another path"
            )

    def release(self) -> None:
        """Removes the side file while still holding it, so that no other run can be holding the removed file.

        On Windows it is removed afterwards: that fails where another run has opened it meanwhile, and it is that run's.
        """
        if self._descriptor is None:
            return
        if _OPEN_FILES_CAN_BE_REMOVED:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        if not _OPEN_FILES_CAN_BE_REMOVED:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _write_number(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, _NUMBER_AT, os.SEEK_SET)
    os.write(descriptor, str(os.getpid()).encode())


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
