"""How many were proved, refuted and left open, and how far the proofs are to be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from verifier.report.blocks import NONE, Block, Cell, Table, Tiles, count, percent, share
from verifier.report.section import section
from verifier.report.subjects import CertifyRun
from verifier.report.words import OUTCOMES, TRUST, outcome_of
from verifier.verdict import Trust


@section("verdicts", "Verdicts", 20, CertifyRun)
def verdicts(run: CertifyRun) -> Iterator[Block]:
    """The accuracies, then a line per verdict and per trust."""
    found, total = Counter(outcome_of(run, row) for row in run.rows), len(run.rows)
    yield Tiles([*_accuracies(run), (str(found["unknown"]), "undecided", "unknown")])
    rows = [
        [Cell(name, tone=name), count(found[name], total), share(found[name], total), Cell(meaning)]
        for name, meaning in OUTCOMES.items()
        if found[name] or name in ("verified", "falsified", "unknown")
    ]
    yield Table(f"Verdicts on {total} examples", ("verdict", "#examples", "#share", "meaning"), rows)
    trusted = Counter(row.trust for row in run.rows if row.trust is not None)
    if trusted:
        proofs = sum(trusted.values())
        yield Table(
            f"How far the {proofs} proofs are to be trusted", ("trust", "#proofs", "#share of the proofs", "meaning"),
            [
                [Cell(one.name), count(trusted[one], proofs), share(trusted[one], proofs), Cell(TRUST[one])]
                for one in sorted(Trust, reverse=True) if trusted[one]
            ],
        )  # fmt: skip


def _accuracies(run: CertifyRun) -> list[tuple[str, str, str]]:
    summary = run.summary
    shares = [
        ("attacked_accuracy", "not broken by attack (attacked accuracy)", ""),
        ("verified_accuracy", "proved (verified accuracy)", "verified"),
    ]
    if not run.named:
        shares.insert(0, ("clean_accuracy", "correct (clean accuracy)", ""))
    return [(percent(summary[key], 1) if run.rows else NONE, what, tone) for key, what, tone in shares]
