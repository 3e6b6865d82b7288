"""What was asked of which network about which data."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.report.blocks import Block, Facts, Text, plural
from verifier.report.inputs import examples
from verifier.report.section import section
from verifier.report.subjects import CertifyRun
from verifier.report.words import SEMANTICS, cascade, perturbation, question


@section("asked", "What was asked", 10, CertifyRun)
def asked(run: CertifyRun) -> Iterator[Block]:
    """The question in a sentence, then what it is about."""
    meta, settings = run.report.meta, run.settings
    yield Text(
        f"For each of {plural(meta['examples'], 'input')}: {question(settings)[:-1]} as long as "
        f"{perturbation(settings)}?"
    )
    if not run.report.complete:
        yield Text(f"The run is not complete: {len(run.rows)} of {meta['examples']} examples are in.", warning=True)
    several = cascade(settings)
    clip = settings["clip"]
    within = "no valid range" if clip is None else f"valid range [{clip[0]!r}, {clip[1]!r}]"
    yield Facts([
        ("Network", f"sha256 {meta['model']}, over its operators and parameters; {_given(run.network)}"),
        *([("Cascade", several)] if several is not None else []),
        ("Data", [
            f"sha256 {meta['data']}, over the inputs and labels",
            f"examples {examples(run.report)}; {_given(run.inputs)}",
        ]),
        ("Perturbation", f"threat {settings['threat']}, eps {settings['eps']!r}, {within}"),
        ("Meaning of a proof", SEMANTICS[settings.get("semantics", "real")]),
    ])  # fmt: skip


def _given(one: object) -> str:
    return "not given to this page" if one is None else "given to this page, and the same by sha256"
