"""The certificates of a list: of every unsat, what the checker says of them, and what checks them again."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.report.blocks import Block, Cell, Command, Table, Text, plural
from verifier.report.section import section
from verifier.report.subjects import BenchRun, CheckedFolder

#: lines of the table, at most; what is not proved comes first
_MOST = 1000


@section("certificates-of-list", "Certificates", 35, BenchRun)
def certificates(run: BenchRun) -> Iterator[Block]:
    """Of the proofs of a list."""
    if run.certificates is None:
        return
    lines = sorted(
        ((name, found, _lacking(found)) for name, found in run.certificates.items()), key=lambda one: not one[2]
    )
    proved = sum(not lacking for _, _, lacking in lines)
    yield Text(
        f"Checked when this page was made: of {proved} of {plural(len(lines), 'unsat', 'unsat')} the certificates are "
        "valid and prove together that the property has no counterexample, of the network beside them. The checker "
        "uses rigorous arithmetic and none of the code that made them."
    )
    if proved < len(lines):
        yield Text(f"{len(lines) - proved} unsat without certificates that prove it.", warning=True)
    shown = lines[:_MOST]
    yield Table(
        f"{plural(len(shown), 'unsat', 'unsat')}{'' if len(shown) == len(lines) else f', of {len(lines)}'}",
        ("instance", "certificates", "#valid", "#of", "what is missing", "sha256 of the network"),
        [_line(*one) for one in shown], folded=len(shown) > 20,
    )  # fmt: skip
    commands = [found.command for _, found, _ in shown if isinstance(found, CheckedFolder)]
    if commands:
        yield Text("To check them again, each against its network and its property:")
        yield Command("\n".join(commands))


def _lacking(found: CheckedFolder | str) -> str:
    """Why the certificates do not prove an unsat; empty where they do."""
    if isinstance(found, str):
        return found
    wrong = [f"{one.path.name}: {one.reason}" for one in found.found if not one.valid]
    return "\n".join([*wrong, *found.uncovered])


def _line(name: str, found: CheckedFolder | str, lacking: str) -> list[Cell]:
    every = [] if isinstance(found, str) else list(found.found)
    valid = sum(one.valid for one in every)
    return [
        Cell(name), Cell("not a proof" if lacking else "proved", tone="falsified" if lacking else "verified"),
        Cell(str(valid), valid), Cell(str(len(every)), len(every)), Cell(lacking, pre=True),
        Cell("" if isinstance(found, str) else found.network),
    ]  # fmt: skip
