"""Every setting that answers depend on, and the versions of the programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verifier.report.blocks import Block, Cell, Facts, Table
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

#: settings that are in words in the section on what was asked, and here
_SAID = frozenset(("eps", "threat", "clip", "semantics", "question", "first_index"))
_SHOWN = frozenset(("example_budget", "budget", "device", "dtype", "batch_size", "stages"))


@section("settings", "Settings and versions", 95, CertifyRun)
def settings(run: CertifyRun) -> Iterator[Block]:
    """Limits, device and sessions; then the stages with their options, folded."""
    given, meta = run.settings, run.report.meta
    yield Facts([
        ("Limits", f"{_limit(given['example_budget'], 'per example')}, {_limit(given['budget'], 'per batch')}"),
        ("Computed", f"on {given['device']} in {given['dtype']}, {given['batch_size']} examples per batch"),
        *((name, str(value)) for name, value in sorted(given.items()) if name not in _SAID | _SHOWN),
        ("Digest of the settings", f"sha256 {meta['settings_hash']}"),
        ("Sessions", [_session(one) for one in meta["sessions"]]),
    ])  # fmt: skip
    rows = []
    for k, text in enumerate(given["stages"], 1):
        name, _, options = text.removesuffix(")").partition("(")
        rows.append([Cell(str(k), k), Cell(name), Cell(options)])
    yield Table(f"The {len(rows)} stages and their options", ("#order", "stage", "options"), rows, folded=True)


def _limit(value: Any, what: str) -> str:
    return f"no limit {what}" if value is None else f"{value:g} s {what}"


def _session(one: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return f"started {one['started']}: {versions}"
