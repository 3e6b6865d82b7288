"""Certificates of small networks with products and smooth functions: bytes, seconds of a check, validity.

    PYTHONPATH=tests python benchmarks/new_kinds_certificates.py [--budget 60]

The networks are those of tests/networks, each at the radius it is decided at there. One process, one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import networks.kinds  # noqa: F401
import torch
from networks.base import NETWORKS
from networks.comparison import decided
from rich.console import Console
from rich.table import Table

from verifier import Trust, Verdict
from verifier.checker.document import Document

#: by their names in tests/networks
CHOSEN = (
    "perceptron, GELU", "norm, LayerNorm", "ViT", "ViT of two blocks, fused attention",
    "TransformerEncoderLayer, norm before, GELU", "TransformerEncoder of two layers", "LSTM", "GRU", "gate, SwiGLU",
    "SIREN", "quantised by hand",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table, right = Table("network", "neurons", "eps", "decided by", "s", "bytes", "check, s", "trust"), True
    found = {one.name: one for one in NETWORKS}
    for name in CHOSEN:
        one = found[name]
        began = time.perf_counter()
        result = decided(one, options.budget)
        spent = time.perf_counter() - began
        certificate = result.certificate[0]
        if result.verdict[0] is not Verdict.VERIFIED or certificate is None:
            table.add_row(name, "", f"{one.eps:g}", "", f"{spent:.1f}", "", "", result.verdict[0].value)
            right = False
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.cert"
            size = certificate.save(path)
            Document.read(path)
        began = time.perf_counter()
        valid = certificate.check().valid
        seconds = time.perf_counter() - began
        right = right and valid and result.trust[0] is Trust.CHECKED
        graph = certificate.proofs[0].graph()
        neurons = sum(graph.nodes[i].size for i in graph.pre_activations)
        table.add_row(
            name, str(neurons), f"{one.eps:g}", str(result.decided_by[0]), f"{spent:.1f}", f"{size:,}",
            f"{seconds:.2f}", result.trust[0].name if valid else "INVALID",
        )  # fmt: skip
    Console(width=130).print(table)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
