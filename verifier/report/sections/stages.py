"""Which stage decided how many examples, and what that cost."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.report.blocks import Block, Cell, Table, Text, count, seconds
from verifier.report.section import section
from verifier.report.subjects import CertifyRun
from verifier.stages import REGISTRY


@section("stages", "Which stage decided", 40, CertifyRun)
def stages(run: CertifyRun) -> Iterator[Block]:
    """A line per stage, in the order in which they first ran."""
    summary = run.summary
    if not summary["stages"]:
        return
    every = sum(one["seconds"] for one in summary["stages"].values())
    rows = []
    for k, (name, one) in enumerate(summary["stages"].items()):
        each = one["seconds"] / one["decided"] if one["decided"] else None
        time = seconds(one["seconds"])
        rows.append([
            Cell(name, k), count(one["attempted"]), count(one["decided"], len(run.rows)),
            Cell(time.text, time.sort, bar=one["seconds"] / every if every else None), seconds(each),
            Cell(_does(name)),
        ])  # fmt: skip
    yield Table(
        "Stages in the order in which they first ran; each works on what those before it left open",
        ("stage", "#examples tried", "#decided", "#seconds", "#seconds per decision", "what it does"), rows,
    )  # fmt: skip
    rate = "" if not summary["seconds"] else f", {summary['images_per_second']:.3g} examples per second"
    yield Text(f"In all {summary['seconds']:.2f} s of wall time over all sessions{rate}.")


def _does(name: str) -> str:
    """The first sentence on a stage, where it is known here."""
    if name not in REGISTRY:
        return ""
    about = (type(REGISTRY[name]()).__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(about.split()).partition(". ")[0].rstrip(".")
