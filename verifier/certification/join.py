"""Folders of certificates of one network, made by several machines, become one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.certification.certificates import MISSING
from verifier.checker.audit import NETWORK, SUFFIX
from verifier.checker.document import Document, claim_digest, read_network
from verifier.errors import InputError, StoreError


@dataclass(frozen=True)
class Joined:
    """What of several folders comes into one; nothing is written before `write`."""

    out: Path
    network: Path
    certificates: dict[str, Path]  #: a file's name, which is its example's index -> where it is
    missing: dict[str, Path]  #: texts on why an example has none, of those that no folder has one of

    @classmethod
    def of(cls, folders: Sequence[Path], out: Path) -> Joined:
        """Reads what the folders have.

        Raises:
            InputError: no such folder, or one without its network; `out` is there already, or cannot be made.
            StoreError: certificates of different networks, or of one example with different claims.
        """
        if out.exists():
            raise InputError(f"{out} exists already: give a folder that does not")
        if not out.parent.is_dir():
            raise InputError(f"the directory of {out} does not exist; create it first")
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"there is no folder of certificates at {folder}")
        _check_networks(folders)
        certificates: dict[str, Path] = {}
        for path in (path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))):
            known = certificates.get(path.name)
            certificates[path.name] = path if known is None else _one_of(known, path)
        texts = {path.name: path for folder in folders for path in sorted(folder.glob(f"*{MISSING}"))}
        without = {n: p for n, p in texts.items() if Path(n).with_suffix(SUFFIX).name not in certificates}
        return cls(out, folders[0] / NETWORK, certificates, without)

    def write(self) -> None:
        """The new folder, whole or not at all. Raises InputError where the disk does not take it."""
        beside = self.out.with_name(f"{self.out.name}.{os.getpid()}.tmp")
        try:
            beside.mkdir()
            for path in (self.network, *self.certificates.values(), *self.missing.values()):
                shutil.copyfile(path, beside / path.name)
            os.rename(beside, self.out)
        except OSError as error:
            raise InputError(f"cannot write certificates to {self.out}: {error.strerror}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _check_networks(folders: Sequence[Path]) -> None:
    digests = []
    for folder in folders:
        try:
            digests.append(read_network(folder / NETWORK).digest)
        except ValueError as error:
            raise InputError(f"{folder} is no folder of certificates: {error}") from error
        if digests[-1] != digests[0]:
            raise StoreError(
                f"{folders[0]} and {folder} hold certificates of different networks, {digests[0]} and {digests[-1]}: "
                "only those of one network go into one folder"
            )


def _one_of(a: Path, b: Path) -> Path:
    """The smaller of two certificates of one claim. Raises StoreError where they claim different things."""
    documents = [Document.read(path) for path in (a, b)]
    if len({claim_digest(document.head, document.arrays) for document in documents}) > 1:
        raise StoreError(
            f"{a} and {b} are of one number, and claim different things: they are of different data or settings"
        )
    return min(a, b, key=lambda path: (path.stat().st_size, path.read_bytes()))
