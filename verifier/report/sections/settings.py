"""Every setting that answers depend on, and the versions of the programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verifier.report.blocks import Block, Cell, Facts, Table, plural
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

#: settings that the section on what was asked has in words, and those that are longer than a line
_SAID = frozenset(("eps", "threat", "clip", "semantics", "question", "first_index", "networks", "rule", "certified_by"))
_LONG = frozenset(("stages",))
#: what settings mean, where their names do not say it
_NAMES = {
    "budget": "seconds per batch", "example_budget": "seconds per example", "batch_size": "examples per batch",
    "dtype": "precision of bounds",
}  # fmt: skip


@section("settings", "Settings and versions", 95, CertifyRun)
def settings(run: CertifyRun) -> Iterator[Block]:
    """Every setting that was not in words before, and the sessions; then the stages with their options, folded."""
    given, meta = run.settings, run.report.meta
    named = [(_NAMES.get(name, name), value) for name, value in sorted(given.items()) if name not in _SAID | _LONG]
    yield Facts([
        *((name, "no limit" if value is None else str(value)) for name, value in named),
        ("digest of the settings", f"sha256 {meta['settings_hash']}"),
        ("sessions", [_session(one) for one in meta["sessions"]]),
    ])  # fmt: skip
    rows = []
    for k, text in enumerate(given.get("stages", ()), 1):
        name, _, options = text.removesuffix(")").partition("(")
        rows.append([Cell(str(k), k), Cell(name), Cell(options)])
    if rows:
        yield Table(f"{plural(len(rows), 'stage')} with options", ("#order", "stage", "options"), rows, folded=True)


def _session(one: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return f"started {one['started']}: {versions}"
