"""The perturbed inputs that change the network's answer."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.certification.example import ExampleRow
from verifier.report.blocks import Block, Text, plural
from verifier.report.exhibits import Pair, shown
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

#: counterexamples drawn, at most
_MOST = 24


@section("counterexamples", "Counterexamples", 60, CertifyRun)
def counterexamples(run: CertifyRun) -> Iterator[Block]:
    """Those of the inputs that the network was right about, the deepest first."""
    broken = [row for row in run.rows if run.broken(row)]
    if not broken:
        return
    broken.sort(key=lambda row: (row.attack_margin if row.attack_margin is not None else 0.0, row.index))
    pairs = [pair for row in broken[:_MOST] if (pair := _pair(run, row)) is not None]
    some = f"The {len(pairs)} of them whose margins are lowest are shown. " if len(pairs) < len(broken) else ""
    yield Text(
        f"{plural(len(broken), 'perturbed input')} changed the answer of the network, which was right before. {some}"
        "Each was replayed in the network and lies exactly within the allowed set."
        if not run.named else
        f"{plural(len(broken), 'perturbed input')} broke what was asked. {some}"
        "Each was replayed in the network and lies exactly within the allowed set."
    )  # fmt: skip
    clip = run.settings["clip"]
    yield from shown(pairs, None if clip is None else tuple(clip), run.pixels, ("input", "counterexample"))


def _pair(run: CertifyRun, row: ExampleRow) -> Pair | None:
    found = run.counterexample(row)
    if found is None:
        return None
    lines = [] if row.attack_margin is None else [f"margin {row.attack_margin:.4g}, found by stage {row.stage}"]
    prediction = None if run.named else run.prediction_at(row)
    if prediction is not None:
        lines.insert(0, f"the network calls it {prediction}{'' if prediction != row.label else ': NOT another class'}")
    label = "" if run.named else f", label {row.label}"
    return Pair(f"example {row.index}{label}", found, run.input_of(row), lines)
