"""One instance of VNN-LIB: its files, what they ask, and the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from verifier.report.blocks import Block, Facts, Text, Tiles, plural
from verifier.report.section import section
from verifier.report.sections.bench import TONES
from verifier.report.subjects import InstanceRun

#: answer -> what it means
_MEANING = {
    "sat": "There is a counterexample: an allowed input whose outputs are those that the property describes.",
    "unsat": "There is no counterexample: this was proved.",
    "unknown": "Neither a proof nor a counterexample was found.",
    "timeout": "The time was up before there was a proof or a counterexample.",
    "error": "The files could not be used.",
}


@section("answer", "Answer", 10, InstanceRun)
def answer(run: InstanceRun) -> Iterator[Block]:
    """The answer, then the files and what is asked of them."""
    word = run.status.value
    yield Tiles([(word, "answer", TONES[word])])
    if run.doubt:
        yield Text("The counterexample that was claimed could not be confirmed: see below.", warning=True)
    else:
        yield Text(_MEANING[word])
    asked = run.asked
    yield Facts([
        *((f"Network {name}".strip(), [path.name, f"sha256 {_digest(path)}"]) for name, path in run.networks.items()),
        ("Property", [run.property_file.name, f"sha256 {_digest(run.property_file)}", f"VNN-LIB {asked.version}"]),
        ("It is about", f"{plural(asked.inputs, 'input')}, {plural(asked.given, 'output')}"),
        ("It describes", f"counterexamples in {plural(len(asked.cases), 'box', 'boxes')}, "
                         f"by {plural(asked.clauses, 'clause')} on the outputs"),
        ("Result file", run.result.name),
    ])  # fmt: skip


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
