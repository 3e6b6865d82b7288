"""The checker of certificates against members of the sets: whatever a certificate says, no bound of it is too high.

Documents are made up: any rules, any slopes are allowed in a certificate, and prove something or nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz.recipe import Problem
from properties import Union
from verifier.certificate.build import CertificateBuilder, input_set, specification
from verifier.checker.check import Check, check
from verifier.checker.document import Document
from verifier.checker.network import NONLINEAR, CanonicalNetwork
from verifier.errors import CertificateError, UnsupportedError
from verifier.graph import Graph
from verifier.result import Result
from verifier.verdict import Verdict

RULES = ("interval", "fixed", "adaptive")


def made_up(asked: Problem, b: int, seed: int) -> Check | None:
    """What the checker makes of a random certificate about example b; None where there is none about such a set."""
    generator = np.random.default_rng(seed)
    one = torch.tensor([b])
    try:
        builder = CertificateBuilder(asked.graph, asked.semantics.value)
        inputs = asked.inputs.select(one)
        members = inputs.members if isinstance(inputs, Union) else (inputs,)
        sets = [input_set(m) for m in members]
        network = builder.network
    except (CertificateError, UnsupportedError):
        return None
    rows = np.arange(asked.spec.rows.shape[1])
    parts = []
    for chosen in sets:
        steps = [_step(network, generator) for _ in range(int(generator.integers(0, 4)))]
        proofs: list[dict[str, Any]] = [{"rule": RULES[generator.integers(3)], "rows": rows}]
        proofs.append({"slopes": _slopes(network, len(network.nodes), len(rows), generator), "rows": rows})
        parts.append({"set": chosen, "bounds": [s for s in steps if s is not None], "proofs": proofs})
    return check(network, builder.document(parts, specification(asked.spec.select(one)), {}))


def _step(network: CanonicalNetwork, generator: np.random.Generator) -> dict[str, Any] | None:
    """A step of bounds: by a rule, or by slopes of some neurons' own."""
    if not network.pre_activations:
        return None
    if generator.integers(2):
        return {"rule": RULES[1 + generator.integers(2)], "nodes": "all"}
    node = int(generator.choice(network.pre_activations))
    count = int(generator.integers(1, 5))
    neurons = generator.integers(network.nodes[node].size, size=count).astype(np.int32)
    sides = generator.integers(2, size=count).astype(np.uint8)
    return {"node": node, "neurons": neurons, "sides": sides, "slopes": _slopes(network, node, count, generator)}


def _slopes(network: CanonicalNetwork, below: int, rows: int, generator: np.random.Generator) -> dict[str, Any]:
    """Slopes of any kind for some neurons of some activations: bytes, or numbers in and out of the usual range."""
    found = {}
    for k in range(below):
        if network.nodes[k].kind not in NONLINEAR or not generator.integers(4):
            continue
        size = network.nodes[k].size  # a product's slopes are places between its planes
        neurons = np.flatnonzero(generator.integers(4, size=size)).astype(np.int32)
        if generator.integers(2):
            slopes: np.ndarray = generator.integers(256, size=(rows, len(neurons))).astype(np.uint8)
        else:
            slopes = (generator.normal(size=(rows, len(neurons))) * generator.choice([0.3, 1.0, 3.0])).astype(
                generator.choice([np.float16, np.float32, np.float64])
            )
        if len(neurons):
            found[str(k)] = {"neurons": neurons, "slopes": slopes}
    return found


def of_verified(asked: Problem, graph: Graph, found: Result, b: int) -> Check | None:
    """The checker's verdict of the certificate of a VERIFIED; None where none can be made."""
    certificate = found.certificate[b]
    if found.verdict[b] is not Verdict.VERIFIED or certificate is None:
        return None
    try:
        builder = CertificateBuilder(graph, asked.semantics.value)
        document = certificate.built_by(builder)
    except (CertificateError, UnsupportedError):
        return None
    assert isinstance(document, Document)
    return check(builder.network, document)


def too_high(check: Check, value: Tensor, error: Tensor, clause: Tensor) -> str:
    """The first bound that a member of the set is below: rows' values [P, S] and their errors. Empty where none is."""
    if len(check.lower) == 0:
        return ""
    for s, lower in enumerate(check.lower.tolist()):
        if lower > float((value + error)[:, s].amin()):
            return f"the checker bounds row {s} by {lower:.17g}, and {float(value[:, s].amin()):.17g} is met"
    for c, lower in enumerate(check.clauses.tolist()):
        best = float((value + error)[:, clause == c].amax(1).amin())
        if lower > best:
            return f"the checker bounds clause {c} by {lower:.17g}, and {best:.17g} is met"
    return ""
