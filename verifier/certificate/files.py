"""Certificates and networks put into files, each whole or not at all. Reading them is checker/document.py's."""

from __future__ import annotations

import os

from verifier.checker.document import Document, packed_network
from verifier.checker.network import CanonicalNetwork
from verifier.files import bytes_replaced


def write_document(document: Document, path: str | os.PathLike[str]) -> int:
    """Write a certificate; returns how many bytes. Raises OSError."""
    return bytes_replaced(path, document.packed())


def write_network(network: CanonicalNetwork, path: str | os.PathLike[str]) -> int:
    """Write the network that certificates are about; returns how many bytes. Raises OSError."""
    return bytes_replaced(path, packed_network(network))
