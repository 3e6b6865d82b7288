"""Which small networks of tests/networks are read, decided and certified: a table and its totals.

PYTHONPATH=.:tests python benchmarks/coverage.py [--only TEXT] [--budget 5] [--onnx]

`--onnx` writes each network to a file first, by torch.onnx, and asks of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networks.kinds  # noqa: F401
import torch
from networks.base import NETWORKS, Network, question
from torch import Tensor, nn

from verifier import CertificateError, ModelError, UnsupportedError, Verdict, verify
from verifier.graph.onnx_model import OnnxModel

#: the newest that torch's exporter by tracing writes without onnxscript
OPSET = 20


class ExporterError(Exception):
    """torch.onnx does not write this network."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed, not by compiled code either: torch.onnx prints its whole graph as it fails."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def from_file(model: nn.Module, x: Tensor, folder: str) -> OnnxModel:  # x [1, *shape]
    """The network as it comes back from an ONNX file in this folder.

    Raises:
        ExporterError: torch.onnx wrote none; ModelError: as `OnnxModel.load`.
    """
    path = Path(folder) / "network.onnx"
    try:
        with warnings.catch_warnings(), silence():
            warnings.simplefilter("ignore")  # of a tracer that turns shapes into constants
            torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=OPSET)
    except Exception as error:
        raise ExporterError(f"{type(error).__name__}: {error}") from error
    return OnnxModel.load(path)


def row(one: Network, budget: float, onnx: bool = False) -> tuple[str, str]:
    """What the table says of a network: a word for the totals, and the line."""
    x, asked, began = one.x(), question(one), time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = from_file(one.model(), x, folder) if onnx else one.model()
        result = verify(model, x, one.eps, spec=asked, budget=budget)
    except ExporterError as error:
        return "not exported", f"not exported: {' '.join(str(error).split())[:160]}"
    except ModelError as error:
        return "refused", f"refused: {' '.join(str(error).split())[:160]}"
    except Exception as error:  # a defect: the table goes on, and says so
        return "CRASHED", f"CRASHED: {type(error).__name__}: {' '.join(str(error).split())[:140]}"
    seconds, verdict, trust = time.perf_counter() - began, result.verdict[0], result.trust[0]
    size, checked = "-", "-"
    if verdict is Verdict.VERIFIED:
        try:
            with tempfile.TemporaryDirectory() as folder:
                size = str(result.certificate[0].save(Path(folder) / "certificate"))
            began = time.perf_counter()
            valid = result.certificate[0].check().valid
            checked = f"{time.perf_counter() - began:.2f}" if valid else "invalid"
        except (CertificateError, UnsupportedError) as error:
            size = f"none ({str(error)[:60]})"
    why = result.decided_by[0] or result.reason[0].value if result.reason[0] or result.decided_by[0] else "-"
    named = trust.name if trust is not None else "-"
    return f"{verdict.value} {named}", f"{verdict.value:9} {named:8} {why:16} {size:>8} {checked:>6} {seconds:6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks and kinds whose name has this text")
    parser.add_argument("--budget", type=float, default=5.0)
    parser.add_argument("--onnx", action="store_true", help="by way of files that torch.onnx writes")
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    print(f"{'network':48} {'verdict':9} {'trust':8} {'by':16} {'bytes':>8} {'check':>6} {'s':>6}")
    for one in NETWORKS:
        if arguments.only in f"{one.kind} {one.name}":
            word, line = row(one, arguments.budget, arguments.onnx)
            totals[word] += 1
            print(f"{one.name:48} {line}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in totals.most_common()))


if __name__ == "__main__":
    main()
