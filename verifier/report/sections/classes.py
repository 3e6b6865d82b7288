"""The same counts per class: a network may be robust on some classes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from verifier.report.blocks import Block, Cell, Table, count, share
from verifier.report.section import section
from verifier.report.subjects import CertifyRun
from verifier.report.words import OUTCOMES, outcome_of


@section("classes", "By class", 30, CertifyRun)
def classes(run: CertifyRun) -> Iterator[Block]:
    """A line per label, where labels were asked about and there are two or more."""
    labels = sorted({row.label for row in run.rows})
    if len(labels) < 2 or run.named:
        return
    found = {label: Counter(outcome_of(run, row) for row in run.rows if row.label == label) for label in labels}
    shown = [name for name in OUTCOMES if any(counter[name] for counter in found.values())]
    rows = []
    for label, counter in found.items():
        of = sum(counter.values())
        least = counter["verified"] / of
        rows.append([
            Cell(str(label), label), count(of),
            *(count(counter[name], of) for name in shown),
            Cell(share(counter["verified"], of).text, least),
        ])  # fmt: skip
    yield Table("Verdicts by the label of the example; bars are shares of the class",
                ("label", "#examples", *(f"#{name}" for name in shown), "#verified accuracy"), rows)  # fmt: skip
