"""What a verifier will do on its network, as a table: the stages in order, and what each has cost and decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from verifier.kernels import arithmetic_of
from verifier.verdict import Trust

if TYPE_CHECKING:
    import torch

    from verifier.graph import Graph
    from verifier.policy import Ladder


def explanation(graph: Graph, ladder: Ladder, dtype: torch.dtype, device: torch.device) -> Group:
    """The network in a line, the ladder as a table, and what each stage does.

    Args:
        graph: as it was imported. dtype: of bounds, where a stage has no precision of its own. device: where they are
            computed.
    """
    lines = (Text(f"{r.stage.name}: {r.stage.summary()}") for r in ladder.rungs())
    arithmetic = Text(f"arithmetic: {arithmetic_of(device, dtype)}")
    return Group(Text(_network(graph)), *_last(graph), *_constants(graph), _table(ladder, dtype), arithmetic, *lines)


def _last(graph: Graph) -> list[Text]:
    """What becomes of a softmax or a sigmoid at the end."""
    if graph.ordered is None:
        return []
    node = graph.nodes[graph.ordered]
    return [
        Text(
            f"questions about which output is larger are answered on {node.name} {list(node.shape)}: the last softmax "
            "or sigmoid leaves its order as it is; margins are then of these values, margins of attacks of the outputs"
        )
    ]


def _constants(graph: Graph) -> list[Text]:
    """What becomes of constants that are no parameters of the model."""
    said = []
    if graph.computed:
        said.append(
            "what the model computes from its parameters alone was computed once, in its precision: verdicts are about "
            "the network with these numbers"
        )
    if graph.rounded:
        said.append(f"trust is FLOAT at most, for the import rounded {graph.rounded}")
    return [Text(line) for line in said]


def _network(graph: Graph) -> str:
    parameters = sum(t.numel() for n in graph.nodes[1:] if n.op is not None for _, t in n.op.parameters())
    neurons = sum(graph.nodes[i].size for i in graph.activations)
    return (
        f"network: {list(graph.input_shape)} -> {list(graph.output_shape)}, {len(graph.nodes) - 1} operators, "
        f"{len(graph.activations)} activations with {neurons} neurons, {parameters} parameters"
    )


_NUMBERS = ("decided", "seconds each")
#: what a stage finds; proofs of our own arithmetic are rigorous where a certificate of them is
_PROOFS = {None: "counterexamples", Trust.FLOAT: "by certificate"}


def _table(ladder: Ladder, dtype: torch.dtype) -> Table:
    adapts = "the order adapts" if ladder.adapts else "the order was given"
    title = f"stages, in the order that they are tried on what is still open ({adapts})"
    table = Table(title=title, title_justify="left")
    for name in ("stage", "known as", "proofs", "precision", "decided", "seconds each", ""):
        # on a narrow terminal the other names take more lines, and nothing is cut off
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "known as")
    for rung in ladder.rungs():
        stage = rung.stage
        tried = rung.attempted > 0
        table.add_row(
            stage.name,
            ", ".join(stage.aliases),
            _PROOFS.get(stage.trust, str(getattr(stage.trust, "name", ""))),
            str(stage.precision or dtype).removeprefix("torch."),
            f"{rung.decided} of {rung.attempted}" if tried else "",
            f"{rung.price:.4f}" if tried else "",
            "moved back" if rung.moved_back else "",
        )
    return table
