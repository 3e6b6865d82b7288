"""The certificates of a batch, as `verify` returns them."""

from __future__ import annotations

import os

from verifier.certificate.certificate import Certificate
from verifier.errors import InputError


class Certificates(tuple[Certificate | None, ...]):
    """One certificate per example; None where an example is not VERIFIED."""

    __slots__ = ()

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the certificate of a batch of one example to a file; returns how many bytes.

        Raises:
            InputError: several examples, or one that is not VERIFIED.
            CertificateError: as of `Certificate.document`.
        """
        if len(self) != 1:
            raise InputError(
                f"{len(self)} examples have {len(self)} certificates: save each by certificate[i].save(path), "
                "or all of a test set by certify(..., certificates=FOLDER)"
            )
        if self[0] is None:
            raise InputError("the example is not VERIFIED: there is no certificate to save")
        return self[0].save(path)
