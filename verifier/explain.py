"""What a verifier will do on its network, as a table: the stages in order, and what each has cost and decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from verifier.verdict import Trust

if TYPE_CHECKING:
    from verifier.api import Verifier
    from verifier.graph import Graph
    from verifier.policy import Rung


def explanation(verifier: Verifier) -> Group:
    """The network in a line, the ladder as a table, and what each stage does."""
    rungs = verifier.ladder.rungs()
    lines = (Text(f"{r.stage.name}: {r.stage.summary()}") for r in rungs)
    return Group(Text(_network(verifier.imported)), _ladder(rungs, verifier), *lines)


def _network(graph: Graph) -> str:
    parameters = sum(t.numel() for n in graph.nodes[1:] if n.op is not None for _, t in n.op.parameters())
    neurons = sum(graph.nodes[i].size for i in graph.activations)
    return (
        f"network: {list(graph.input_shape)} -> {list(graph.output_shape)}, {len(graph.nodes) - 1} operators, "
        f"{len(graph.activations)} activations with {neurons} neurons, {parameters} parameters"
    )


#: what a stage finds; proofs of our own arithmetic are rigorous where a certificate of them is
_PROOFS = {None: "counterexamples", Trust.FLOAT: "by certificate"}


def _ladder(rungs: tuple[Rung, ...], verifier: Verifier) -> Table:
    adapts = "the order adapts" if verifier.ladder.adapts else "the order was given"
    title = f"stages, in the order that they are tried on what is still open ({adapts})"
    table = Table(title=title, title_justify="left")
    for name in ("stage", "known as", "proofs"):
        table.add_column(name, no_wrap=True)
    for name in ("precision", "decided", "seconds each", ""):
        table.add_column(name, justify="right" if name in ("decided", "seconds each") else "left")
    for rung in rungs:
        stage = rung.stage
        tried = rung.attempted > 0
        table.add_row(
            stage.name,
            ", ".join(stage.aliases),
            _PROOFS.get(stage.trust, str(getattr(stage.trust, "name", ""))),
            str(stage.precision or verifier.graph.dtype).removeprefix("torch."),
            f"{rung.decided} of {rung.attempted}" if tried else "",
            f"{rung.price:.4f}" if tried else "",
            "moved back" if rung.moved_back else "",
        )
    return table
