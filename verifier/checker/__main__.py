"""`python -m verifier.checker FOLDER`: check certificates with numpy alone, no torch, no solver.

The network is the file beside the certificates, or the one that --network names; of certificates of several networks
each has its own (beside.py). Who does not trust these files compares their digests, which are printed, with that of the
model: `verifier check --model` does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from verifier.checker.audit import NETWORK, Audited, audit, certificates_in, line, summary
from verifier.checker.beside import by_network
from verifier.checker.errors import CheckerError
from verifier.checker.network import CanonicalNetwork


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where all certificates are valid, 1 where one is not, 2 where a file cannot be used."""
    parser = argparse.ArgumentParser("python -m verifier.checker", description="Check certificates.")
    parser.add_argument("places", nargs="+", type=Path, help="certificates, or folders of them")
    parser.add_argument(
        "--network", type=Path, action="append", default=[],
        help=f"a network's file, may be given again; default each {NETWORK} beside certificates, or below the folders",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default one per core")
    options = parser.parse_args(arguments)
    try:
        paths = certificates_in(options.places)
        found = by_network(paths, options.places, options.network)
    except CheckerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    several = len({path.parent for path in paths}) > 1
    codes = [report(own, network, options.jobs, several) for network, own in found.groups]
    for path, why in found.without.items():
        print(f"INVALID  {path}: {why}")
    return 1 if found.without else max(codes)


def report(paths: Sequence[Path], network: CanonicalNetwork, jobs: int, several: bool = False) -> int:
    """Print a line per certificate and a summary; the exit code.

    Args:
        several: they are of several folders, which are named, too.
    """
    found: list[Audited] = []
    for one in audit(paths, network, jobs=jobs):
        if several and (not found or found[-1].path.parent != one.path.parent):
            print(f"in {one.path.parent}:")
        found.append(one)
        print(line(one), flush=True)
    print(summary(found, network))
    return 0 if all(one.valid for one in found) else 1


def _run() -> int:
    """`main` in a process of its own: Ctrl-C, and a reader of the output that has gone, end it without a traceback."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write at the end
        return 1


if __name__ == "__main__":
    sys.exit(_run())
