"""`python -m verifier.checker FOLDER`: check certificates with numpy alone, no torch, no solver.

The network is the file beside the certificates, or the one that --network names. Who does not trust that file compares
its digest, which is printed, with that of the model: `verifier check --model` does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from verifier.checker.audit import NETWORK, Audited, audit, certificates_in, line, summary
from verifier.checker.document import read_network
from verifier.checker.errors import CheckerError
from verifier.checker.network import CanonicalNetwork


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where all certificates are valid, 1 where one is not, 2 where a file cannot be used."""
    parser = argparse.ArgumentParser("python -m verifier.checker", description="Check certificates.")
    parser.add_argument("places", nargs="+", type=Path, help="certificates, or folders of them")
    parser.add_argument("--network", type=Path, help=f"the network's file; default {NETWORK} beside the first one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default one per core")
    options = parser.parse_args(arguments)
    try:
        paths = certificates_in(options.places)
        network = read_network(options.network or network_beside(paths[0]))
    except CheckerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return report(paths, network, options.jobs)


def network_beside(certificate: Path) -> Path:
    return certificate.parent / NETWORK


def report(paths: Sequence[Path], network: CanonicalNetwork, jobs: int) -> int:
    """Print a line per certificate and a summary; the exit code."""
    found: list[Audited] = []
    for one in audit(paths, network, jobs=jobs):
        found.append(one)
        print(line(one), flush=True)
    print(summary(found, network))
    return 0 if all(one.valid for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
