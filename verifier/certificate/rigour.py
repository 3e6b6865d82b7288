"""Verdicts that rest on arithmetic without error bounds, examined by the checker of certificates."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from enum import Enum
from functools import cached_property

from verifier.certificate.build import CertificateBuilder
from verifier.certificate.certificate import SetCertificate
from verifier.errors import CertificateError, RejectedError, UnsupportedError
from verifier.graph import Graph
from verifier.verdict import Semantics, Trust


class Standing(Enum):
    """What became of a proof in rigorous arithmetic."""

    HOLDS = "holds"
    FAILS = "fails"  #: its evidence, worked out again rigorously, proves less than what was claimed
    UNTOLD = "untold"  #: there is no certificate of this kind of proof, or no time for one


class Rigour:
    """Makes certificates of proofs as they are found, and has them checked, so that their trust may be CHECKED.

    Args:
        graph: of the network, as it was imported.
        search: seconds for a tree of our own in place of a solver's word.
    """

    def __init__(self, graph: Graph, semantics: Semantics = Semantics.REAL, search: float = 5.0) -> None:
        self.graph, self.semantics, self.search = graph, semantics, search

    @cached_property
    def _builder(self) -> CertificateBuilder | None:
        """None where certificates do not know some operator of the network, or would be of rounded constants."""
        return None if self.limit else CertificateBuilder(self.graph, self.semantics.value)

    @cached_property
    def limit(self) -> str:
        """Why no proof of this network is CHECKED by a certificate; empty where one may be."""
        if self.graph.rounded:
            return f"the import rounded {self.graph.rounded}"
        try:
            _ = CertificateBuilder(self.graph, self.semantics.value).canonical
        except UnsupportedError as error:
            return str(error)
        return ""

    def examine(self, certificate: SetCertificate, seconds: float = math.inf) -> tuple[Standing, SetCertificate]:
        """Whether a proof holds rigorously, within some seconds; and its certificate, CHECKED where it does."""
        if certificate.trust is Trust.PROBABILISTIC or seconds <= 0 or self._builder is None:
            return Standing.UNTOLD, certificate
        search = min(self.search, seconds)
        try:
            document = self._builder.build(certificate.sets, deadline=time.monotonic() + seconds, search=search)
        except RejectedError:
            return Standing.FAILS, certificate
        except (CertificateError, UnsupportedError):
            return Standing.UNTOLD, certificate
        return Standing.HOLDS, replace(certificate, trust=Trust.CHECKED, built=document)
