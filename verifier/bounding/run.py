"""`bounds`: what the outputs or the neurons of a network can be over sets of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from properties import InputSet, Threat, Union
from verifier.api import Verifier
from verifier.arguments import check_example, input_errors
from verifier.arithmetic import precise_arithmetic
from verifier.bounding.asked import Asked, asked_of, query_about
from verifier.bounding.asked import home as home_of
from verifier.bounding.by_interval import by_interval
from verifier.bounding.by_rule import by_rule
from verifier.bounding.by_stage import ByStage
from verifier.bounding.found import BoundsResult, NodeBounds, known
from verifier.bounding.live import LiveBall, check_live, follows
from verifier.budget import Budget, seconds_of
from verifier.device import memory_errors
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.kernels import ask_products
from verifier.relaxation.dual import DualPass
from verifier.several import as_one
from verifier.stages import REGISTRY, Stage, stage
from verifier.stages.interval import IntervalStage
from verifier.verdict import Trust

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel


def bounds(
    model: nn.Module | ExportedProgram | ImportedModel | Graph,
    x: Tensor | Sequence[Tensor],
    eps: float | Tensor | Sequence[float] | None = None,
    method: str | Stage = "crown",
    *,
    of: str | Sequence[str] = "outputs",
    C: Tensor | None = None,
    linear: bool = False,
    threat: str | Threat = "linf",
    clip: tuple[float, float] | None = None,
    input_set: InputSet | Sequence[InputSet] | None = None,
    differentiable: bool = False,
    budget: float | str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    output: int | str | None = None,
) -> BoundsResult:
    """Lower and upper bounds of a network's outputs, or of its neurons, over a set around each input.

    Args:
        model: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, an `OnnxModel`, or the graph that
            `import_torch` made of a module: import once where bounds are asked for again and again, as in training.
        x: [B, *input], in the units the model takes; of a module with several inputs a tuple of them.
        eps: radius of the sets around x, in the units of x unless the threat model says otherwise; or [B].
        method: any stage that bounds, by name or alias (`verifier.stages.REGISTRY`): "ibp", "crown", "alpha-crown",
            "dual", "zonotope", "lp", "milp", ... Every row is bounded as well as the method can, whatever its sign.
            Neurons of which it can say nothing are bounded by "crown" then.
        of: "outputs", "all" for every node, or a list of names of nodes, as `print(verifier.import_torch(...))` shows
            them. An activation is bounded by its range over the bounds of what it reads.
        C: rows on the outputs, [S, outputs] or [B, S, outputs]: bounds of C y in place of those of y. Margins, say.
        linear: also linear functions of the input below and above (`Lines`), for methods that have them.
        threat, clip, input_set: as of `verify`. Over a union, the least and the greatest of its members' bounds.
        differentiable: keep the graph of gradients, to the live parameters of the model (and to x and eps with
            "linf"), for "interval", "dual", "dual-adaptive" and "zonotope". Bounds are then as floating point computes
            them. Otherwise no gradients are kept, and rounding is paid for: rigorously (trust CHECKED; see
            docs/soundness.md for where), or by an estimate (FLOAT).
        budget: seconds; what is not bounded by then is bounded less well, by intervals, or not at all (infinite), and
            the answer is `exhausted`; with `differentiable` as well.
        device, dtype: where and in which precision bounds are computed; default the model's. Some methods insist on
            float64.
        output: which of a module's several outputs is asked about.

    Raises:
        InputError: unusable arguments, or more memory is needed than the machine has left.
        ModelError, UnsupportedError: as `verify`, or the method does not fit.
    """
    chosen, clock = bounding_stage(method), Budget(seconds_of(budget, "budget"))
    live = differentiable and follows(x, eps)
    if live:
        check_live(str(threat), input_set is not None)
    if differentiable and not _keeps_gradients(chosen):
        raise InputError(f"{chosen.name} keeps no gradients: interval, dual, dual-adaptive and zonotope do")
    model, whole, sets = set_of(model, x, eps, threat, clip, input_set, output)
    graph = graph_of(model, whole, chosen, device, dtype, differentiable)
    if sets.shape != graph.input_shape:
        raise InputError(f"the model takes inputs of shape {graph.input_shape}, got {sets.shape}")
    if live:
        assert isinstance(x, Tensor) and eps is not None
        sets = LiveBall(x, eps, clip)  # type: ignore[arg-type]
    asked = asked_of(graph, of, C, linear, sets)
    small = "ask about fewer inputs at a time, or of a smaller network, or use interval"
    with memory_errors(chosen.name, small), precise_arithmetic(), nullcontext() if differentiable else torch.no_grad():
        return _Run(graph, asked, chosen, differentiable, clock).over(sets.to(home_of(graph)))


def set_of(
    model: Any, x: Any, eps: Any, threat: str | Threat, clip: tuple[float, float] | None, input_set: Any,
    output: int | str | None,
) -> tuple[Any, Tensor, InputSet]:  # fmt: skip
    """What is asked about as a model of one input, its inputs [B, *input] and its sets; arguments as of `bounds`.

    Raises:
        InputError: they are unusable.
    """
    if (eps is None) == (input_set is None):
        raise InputError("give eps or input_set, " + ("not both" if eps is not None else "one of the two is needed"))
    if input_set is not None and (clip is not None or threat != "linf"):
        raise InputError("clip and threat go with eps; an input set of your own has its own limits")
    radius: Any = eps.detach() if isinstance(eps, Tensor) else eps
    return as_one(model, x, radius, threat, clip, input_set, output)


def bounding_stage(method: str | Stage) -> Stage:
    """The stage of that name, set to take rows as far as it can. Raises InputError where it bounds nothing."""
    with input_errors():
        chosen = stage(method) if isinstance(method, str) else method
    if not isinstance(chosen, Stage):
        raise InputError(f"method must be the name of a stage or a Stage, got {method!r}")
    found = None if chosen.trust is None else chosen.bounding()
    if found is None:
        known_ = (n for n in REGISTRY if (s := REGISTRY[n]()).trust is not None and s.bounding() is not None)
        does = "looks for counterexamples" if chosen.trust is None else "finds out signs"
        raise InputError(
            f"{chosen.name} {does}, and bounds nothing: {', '.join(known_)} do; verifier.exact_range finds what an "
            "output can be exactly"
        )
    return found


def graph_of(
    model: Any, x: Tensor, chosen: Stage, device: torch.device | str | None, dtype: torch.dtype | None, live: bool
) -> Graph:  # x [B, *input]
    """The network as the stage wants it: in its precision, its parameters live where they are to be."""
    if isinstance(model, Graph):
        check_example(x)
        graph, home = model, home_of(model) if device is None else torch.device(device)
    else:
        ready = Verifier(model, x, stages=["interval"], device=device, dtype=dtype)
        graph, home = ready.imported, ready.device
    ask_products(home)
    precision = chosen.precision or dtype or graph.dtype

    def moved(t: Tensor) -> Tensor:  # [...]
        return (t if live else t.detach()).to(home, precision if t.is_floating_point() else None)

    return graph.map_tensors(moved)


def _keeps_gradients(chosen: Stage) -> bool:
    return isinstance(chosen, IntervalStage) or (isinstance(chosen, DualPass) and chosen.trust is Trust.CHECKED)


@dataclass(frozen=True)
class _Run:
    """One call of `bounds`, ready to be asked about sets."""

    graph: Graph
    asked: Asked
    stage: Stage
    differentiable: bool
    budget: Budget

    def over(self, sets: InputSet) -> BoundsResult:
        """Bounds over B sets; over unions, of their members together."""
        if not isinstance(sets, Union):
            return self._over_one(sets)
        if self.asked.lines:
            raise InputError("no linear function is the least of several: ask for lines over each member of a union")
        found = [self._over_one(member) for member in sets.members]
        nodes = {
            name: NodeBounds(
                torch.stack([f[name].lower for f in found]).amin(0), torch.stack([f[name].upper for f in found]).amax(0)
            )
            for name in found[0]
        }
        trust = tuple(min(each) for each in zip(*(f.trust for f in found), strict=True))
        return self._result(nodes, trust, any(f.exhausted for f in found))

    def _over_one(self, sets: InputSet) -> BoundsResult:
        graph = self.graph.until(self.asked.last)
        nothing = sets.box(graph.dtype)[0].new_zeros(1, 1, graph.nodes[-1].size)
        query = query_about(graph, sets, nothing)
        stage, exhausted = self.stage, False
        if isinstance(stage, IntervalStage):
            found, trust, exhausted = by_interval(query, self.asked, self.differentiable, self.budget)
            trusts = (trust,) * query.batch
        elif _keeps_gradients(stage):
            assert isinstance(stage, DualPass)
            if not stage.supports(query):
                raise InputError(f"{stage.name} cannot be asked about this set: too many of its inputs vary")
            found, trust, exhausted = by_rule(stage, query, self.asked, self.differentiable, self.budget)
            trusts = (trust,) * query.batch
        else:
            work = ByStage(stage, query, self.graph.output, self.asked.lines, self.budget)
            found, trusts, exhausted = work.bounds(self.asked), tuple(work.trust), work.exhausted
        nodes = {graph.nodes[i].name: known(one) for i, one in found.items()}
        return self._result(nodes, trusts, exhausted)

    def _result(self, nodes: dict[str, NodeBounds], trust: tuple[Trust, ...], exhausted: bool) -> BoundsResult:
        return BoundsResult(nodes, self.graph.nodes[-1].name, self.stage.name, trust, exhausted)
