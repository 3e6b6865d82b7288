"""Which stages decide an instance, in which order: the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass

from verifier.attacks.hinges import HingeAttack
from verifier.attacks.leaky import LeakyPGD
from verifier.graph import Graph
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.stages import Stage
from verifier.stages.attack import AttackStage
from verifier.stages.branch import BranchStage
from verifier.stages.dual import DualStage
from verifier.stages.dual_cases import DualCasesStage
from verifier.stages.forward import ForwardStage

#: bytes of working memory: one instance has the machine to itself
_MEMORY = 2**32

#: products of numbers that an attack on conjunctions may cost, and a descent from many starts: about a second each
_PRODUCTS, _DESCENT = 1e10, 4e10

#: inputs up to which splitting the input beats splitting neurons
LOW_DIMENSIONAL = 20

#: neurons above which functions of few inputs are worth their time before any neuron has a backward pass of its own
_WIDE = 4096


@dataclass(frozen=True)
class InstanceLadder:
    """Stages, or their names. `quick` are for every case first; `deep` take what time is left, for what is open."""

    quick: tuple[str | Stage, ...]
    deep: tuple[str | Stage, ...]


def ladder(query: Query) -> InstanceLadder:
    """The stages for a network and its cases."""
    # most of the witnesses there are, before any bound of neurons is paid for
    short = _many_starts(query, 8, 20) or AttackStage(restarts=2, seed=1)
    many: str | Stage = _many_starts(query, 36, 50, seed=1) or "attack"
    quick: tuple[str | Stage, ...] = ("clean", "interval", short, _dual(query), *_all_rows(query), many)
    if query.graph.nodes[0].size <= LOW_DIMENSIONAL:
        return InstanceLadder(quick, ("branch-input", "branch-deep"))
    # a few cases for every neuron's bounds are worth their time at once where they are cheap; how much of the rest goes
    # to more of them, and how much to the search, is for the stage to see
    cheap = DualCasesStage(leaves=(4,), share=0.1)
    search = BranchStage("branch", 58, most=10_000_000, share=1.0, smooth=True)
    return InstanceLadder(quick, (cheap, "dual-optimised", search))


def wide(graph: Graph) -> bool:
    """Whether a network is so large that what is done for all its neurons takes the time."""
    return sum(graph.nodes[i].size for i in graph.pre_activations) > _WIDE


def _dual(query: Query) -> Stage:
    """The first bounds of neurons: each by a backward pass, where few inputs do not make forward bounds cheaper."""
    graph, forward = query.graph, ForwardStage(memory=_MEMORY)
    if wide(graph) and query.semantics in forward.semantics and forward.supports(query):
        return forward
    return DualStage(SlopeRule.ADAPTIVE, memory=_MEMORY)


def _many_starts(query: Query, starts: int, steps: int, seed: int = 0) -> Stage | None:
    """The attack from many starts at once, from fewer where a network is large; None where it is too large for that."""
    attack = LeakyPGD.within(_DESCENT, query.graph, query.batch, starts=starts, steps=steps, seed=seed)
    return None if attack is None else AttackStage(attack=attack)


def _all_rows(query: Query) -> tuple[Stage, ...]:
    """The attack on conjunctions, where a clause has several rows and the network is small."""
    if query.spec.clauses == len(query.spec.clause):
        return ()
    attack = HingeAttack.within(_PRODUCTS, query.graph, query.batch)
    return () if attack is None else (AttackStage(attack=attack),)
