"""How accuracy falls with eps: the curve, and the table for a paper, of the digits network that comes with the package.

Run as `python examples/eps_curve.py [--out DIR] [--eps 0.02,0.04,...] [--count N]`; it goes on where it was stopped.
Writes the runs (one store per radius), curve.png, curve.csv and table.tex; prints the table, and which examples the
smallest radius breaks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from verifier import certify
from verifier.demo import held_out_digits, network

EPS = "0.02,0.04,0.06,0.08,0.1"


def main(arguments: list[str] | None = None) -> None:
    """Certify at every radius, and write what a paper needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/eps-curve"), help="folder of the runs and the files")
    parser.add_argument("--eps", default=EPS, help="radii, with commas between them; pixels are in [0, 1]")
    parser.add_argument("--count", type=int, default=200, help="examples of the test set")
    options = parser.parse_args(arguments)
    images, labels = held_out_digits()
    options.out.mkdir(parents=True, exist_ok=True)
    sweep = certify(
        network(),
        images[: options.count],
        labels[: options.count],
        [float(text) for text in options.eps.split(",")],
        clip=(0, 1),
        store=options.out / "runs",
        resume=True,
    )
    sweep.plot(options.out / "curve.png")
    sweep.to_csv(options.out / "curve.csv")
    (options.out / "table.tex").write_text(sweep.to_latex())
    Console().print(sweep.table())
    least = min(sweep.eps)
    fragile = [b.index for b in sweep.brackets() if b.broken == least and sweep[0].rows()[b.index].correct]
    print(f"correct, and broken at eps {least:g} already: {fragile}")
    print(f"written to {options.out}: curve.png, curve.csv, table.tex")


if __name__ == "__main__":
    main()
