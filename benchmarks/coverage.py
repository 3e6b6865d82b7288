"""Which small networks of tests/networks are read, decided and certified: a table and its totals.

PYTHONPATH=.:tests python benchmarks/coverage.py [--only TEXT] [--budget 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import networks.kinds  # noqa: F401
from networks.base import NETWORKS, Network, question

from verifier import CertificateError, ModelError, UnsupportedError, Verdict, verify


def row(one: Network, budget: float) -> tuple[str, str]:
    """What the table says of a network: a word for the totals, and the line."""
    model, x, began = one.model(), one.x(), time.perf_counter()
    try:
        result = verify(model, x, one.eps, spec=question(one), budget=budget)
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
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    print(f"{'network':48} {'verdict':9} {'trust':8} {'by':16} {'bytes':>8} {'check':>6} {'s':>6}")
    for one in NETWORKS:
        if arguments.only in f"{one.kind} {one.name}":
            word, line = row(one, arguments.budget)
            totals[word] += 1
            print(f"{one.name:48} {line}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in totals.most_common()))


if __name__ == "__main__":
    main()
