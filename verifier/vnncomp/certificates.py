"""Certificates of an instance: one per case of its property, and whether a folder's certificates cover a property."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from properties.vnnlib import Property
from properties.vnnlib_floats import batches
from properties.vnnlib_hull import float32_hull
from verifier.certificate.build import CertificateBuilder
from verifier.certification.certificates import CertificateFolder
from verifier.checker.audit import Audited
from verifier.checker.document import Document

if TYPE_CHECKING:
    from verifier.vnncomp.answer import InstanceAnswer


#: what certificates say of their inputs, where some interval in the property holds no float32 number
FLOAT32_HULL = "float32 hull"


def write_certificates(answer: InstanceAnswer, folder: Path) -> int:
    """Write a certificate for every case of an `unsat` and the network they are about; returns how many bytes.

    Raises:
        InputError: the folder cannot be written to, or holds certificates of another network.
        CertificateError: a proof that has no certificate; no other is written then.
    """
    evidence = sorted(answer.certificates.items())
    if not evidence:
        return 0  # no box of the property has a point
    place = CertificateFolder.open(folder, CertificateBuilder(evidence[0][1].proofs[-1].graph()))
    documents = []
    for case, certificate in evidence:
        about = {"case": case, "stage": certificate.stage, "shape": list(certificate.inputs.shape)}
        if answer.widened:
            about["inputs"] = FLOAT32_HULL
        documents.append((case, certificate.built_by(place.builder, about)))
    place.clear()
    return sum(place.put(document, case) for case, document in documents)


def uncovered(found: Sequence[Audited], property_: Property) -> list[str]:
    """Why valid certificates do not prove that a property has no counterexample; empty where they do.

    Every case needs a certificate of its whole box and of all its clauses, the numbers rounded as the verifier does.
    Where some certificate says that it is of a network in float32, they have to cover the boxes' float32 hull.
    """
    claims = [Document.read(one.path) for one in found if one.valid]
    property_ = float32_hull(property_) if of_hull(found) else property_
    by_case = {document.head["about"].get("case"): document for document in claims}
    why = []
    for batch in batches(property_):
        for b, number in enumerate(batch.numbers):
            document = by_case.get(number)
            if document is None:
                why.append(f"case {number} has no valid certificate")
                continue
            lower, upper = batch.lower[b].numpy(), batch.upper[b].numpy()
            spec = (batch.spec.rows[b].numpy(), batch.spec.offset[b].numpy(), batch.spec.clause.numpy())
            met = batch.spec.touching
            touching = np.zeros(len(spec[1]), bool) if met is None else met[b].numpy()
            if not _covers(document, lower, upper, spec, touching):
                why.append(f"the certificate of case {number} is about something else")
    return why


def of_hull(found: Sequence[Audited]) -> bool:
    """Whether some valid certificate says that it is about the float32 hull of a property's boxes."""
    return any(Document.read(one.path).head["about"].get("inputs") == FLOAT32_HULL for one in found if one.valid)


def _covers(
    document: Document, lower: np.ndarray, upper: np.ndarray, spec: tuple[np.ndarray, np.ndarray, np.ndarray],
    touching: np.ndarray,
) -> bool:  # fmt: skip
    head, arrays = document.head, document.arrays
    asked, part = head["specification"], head["parts"][0]["set"]
    if asked["kind"] != "rows" or part["kind"] != "box" or len(head["parts"]) != 1:
        return False
    same = all(np.array_equal(arrays[asked[k]], own) for k, own in zip(("rows", "offset", "clause"), spec, strict=True))
    if "touching" in asked:  # a claim of rows that hold at 0 is a weaker one
        same = same and not bool((arrays[asked["touching"]] & ~touching).any())
    low, high = (arrays[part[k]].ravel() for k in ("lower", "upper"))
    return same and low.shape == lower.shape and bool((low <= lower).all()) and bool((high >= upper).all())
