"""One writer per store: an advisory lock on a side file, released by the kernel when its process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from verifier.errors import StoreError


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
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write in the directory of the store {store}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise StoreError(f"cannot lock {self._path}: {error.strerror}") from error
            raise StoreError(
                f"the store {store} is being written by another run (process {holder or 'unknown'}); "
                "wait for it, stop it, or use another path"
            ) from error
        if not _is_same_file(descriptor, self._path):
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        try:
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return descriptor

    def release(self) -> None:
        """Removes the side file while still holding it, so that no other run can be holding the removed file."""
        if self._descriptor is None:
            return
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
