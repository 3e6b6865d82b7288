"""A folder with a certificate for every VERIFIED of a run, and the network that they are about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verifier.certificate.build import CertificateBuilder
from verifier.certificate.files import write_document, write_network
from verifier.checker.audit import MISSING, NETWORK, SUFFIX
from verifier.checker.document import Document, read_network
from verifier.errors import InputError
from verifier.files import bytes_replaced, text_replaced


@dataclass(frozen=True)
class CertificateFolder:
    """Where a run writes its certificates, each whole or not at all."""

    path: Path
    builder: CertificateBuilder

    @classmethod
    def open(cls, path: str | os.PathLike[str], builder: CertificateBuilder) -> CertificateFolder:
        """Make the folder where it is not there yet, and write the network.

        Args:
            builder: of the certificates that are to go there.

        Raises:
            InputError: it cannot be made, or holds certificates of another network.
            UnsupportedError: an operator that certificates have no kind for.
        """
        folder, network = Path(path), builder.network
        target = folder / NETWORK
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: certificates go into a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                write_network(network, target)
                return cls(folder, builder)
        except OSError as error:
            raise InputError(f"cannot write certificates to {folder}: {error.strerror}") from error
        try:
            known = read_network(target).digest
        except ValueError as error:
            raise InputError(f"{target} is in the way: {error}; give another folder") from error
        if known != network.digest:
            raise InputError(f"{folder} holds certificates of another network: give another folder")
        return cls(folder, builder)

    def write(self, index: int, certificate: bytes | None, missing: str | None) -> None:
        """Write the certificate of an example, or why a VERIFIED has none. What was there of it goes.

        Raises:
            InputError: the disk is full, or the folder gone.
        """
        with self._writing(index) as target:
            text = target.with_suffix(MISSING)
            if certificate is None:
                target.unlink(missing_ok=True)
            else:
                bytes_replaced(target, certificate)
            if missing is None:
                text.unlink(missing_ok=True)
            else:
                text_replaced(text, f"{missing}\n")

    def put(self, document: Document, number: int) -> int:
        """Write one certificate; returns how many bytes. Raises as `write`."""
        with self._writing(number) as target:
            return write_document(document, target)

    def clear(self) -> None:
        """Remove all certificates of this network. Raises as `write`."""
        for old in self.path.glob(f"*{SUFFIX}"):
            with self._writing(old):
                old.unlink()

    @contextmanager
    def _writing(self, place: int | Path) -> Iterator[Path]:
        """Of a number, or a path: the path, and errors of the disk as the user's."""
        target = place if isinstance(place, Path) else self.path / f"{place:06d}{SUFFIX}"
        try:
            yield target
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror}") from error


def missing(folder: Path) -> dict[int, str]:
    """Index of an example -> why it has no certificate, though it is VERIFIED."""
    return {int(path.stem): path.read_text().strip() for path in sorted(folder.glob(f"*{MISSING}"))}
