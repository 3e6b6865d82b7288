"""Deciding one instance: is there a point of a property's cases at which a network obeys one of their clauses?

unsat needs a proof of every case. sat needs a float32 point that lies in the file's box exactly, whose outputs in
onnxruntime obey every constraint of one clause exactly: each candidate of any stage is tried, the first that does
ends the search. For a network that computes in float32 the boxes are those of properties/vnnlib_hull.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from properties.vnnlib import Property
from properties.vnnlib_floats import CaseBatch, batches
from properties.vnnlib_hull import distance, float32_hull, widened_inputs
from verifier.arguments import input_errors
from verifier.arithmetic import precise_arithmetic
from verifier.budget import Budget
from verifier.cascade import Cascade
from verifier.certificate.certificate import Certificate
from verifier.certificate.rigour import Rigour
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.outcome import Outcome
from verifier.policy import Ladder
from verifier.query import Query
from verifier.stages import Stage, stage
from verifier.verdict import Outside, Reason, Trust
from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus
from verifier.vnncomp.joined import with_input
from verifier.vnncomp.ladder import InstanceLadder, ladder
from verifier.vnncomp.networks import check_shape
from verifier.vnncomp.progress import InstanceProgress
from verifier.vnncomp.replay import Replay, ReplayModel, WitnessJudge

#: values of all nodes for a batch of cases: of them a stage holds a few at a time
_BATCH_VALUES = 1 << 22


def decide(
    model: ReplayModel,
    prop: Property,
    timeout: float | None = None,
    *,
    stages: InstanceLadder | None = None,
    progress: Callable[[str], None] | None = None,
) -> InstanceAnswer:
    """Decide a property of a network within `timeout` seconds (None: no limit), as far as stages heed their budgets.

    Args:
        stages: default `verifier.vnncomp.ladder.ladder`.
        progress: is told what happens, in lines.

    Raises:
        InputError: property and network have different numbers of inputs or outputs, or numbers beyond float64.
        ModelError: the imported graph and the model differ within the property's boxes.
    """
    began, budget = time.monotonic(), Budget(timeout)
    size = int(torch.Size(model.input_shape).numel())
    if (prop.inputs, prop.outputs) != (size, model.outputs):
        raise InputError(
            f"the property is about {prop.inputs} inputs and {prop.outputs} outputs, the network has {size} and "
            f"{model.outputs}: do the two files belong together?"
        )
    _check_shapes(prop, model)
    say = progress or (lambda line: None)
    with input_errors():
        asked = float32_hull(prop) if model.precision == torch.float32 else prop
        parts = batches(asked, _cases_at_once(model.graph))
    wider = widened_inputs(prop, asked)
    if wider:
        say(f"{wider} of {prop.inputs} inputs have no float32 number between their bounds: their float32 hull is taken")
    watch = progress if isinstance(progress, InstanceProgress) else InstanceProgress(say)
    search = _InstanceSearch(model, asked, parts, stages, watch)
    with precise_arithmetic(), torch.no_grad():
        answer = search.run(budget)
    found = answer.witness
    if found is not None:
        found = replace(found, distance=distance(prop.cases[found.case], found.x))
    return replace(answer, witness=found, widened=wider).after(time.monotonic() - began)


def _cases_at_once(graph: Graph) -> int:
    """How many cases are worked on as one batch: more of them where the network is small."""
    return max(256, min(4096, _BATCH_VALUES // sum(node.size for node in graph.nodes)))


def _check_shapes(prop: Property, model: ReplayModel) -> None:
    """Raises InputError where a 2.0 file declares other shapes than the network has, but for a leading 1."""
    if prop.version == "1.0" or not prop.plain:  # what is built of declared networks has been compared with them
        return
    own_parts = list(getattr(model, "parts", {}).values())  # of an OnnxModel of several inputs
    if len(own_parts) != len(prop.parts):
        several = [list(shape) for shape in own_parts] or 1
        raise InputError(f"the property declares {len(prop.parts) or 1} inputs, the network has {several}")
    own_inputs = own_parts or [model.input_shape]
    inputs = [(n, s) for n, s, _ in prop.parts] or [(prop.input_name, prop.input_shape)]
    for (name, declared), own in zip(inputs, own_inputs, strict=True):
        check_shape("input", name, declared, own)
    check_shape("output", prop.output_name, prop.output_shape, model.graph.output_shape)


@dataclass
class _BatchState:
    """A batch of cases and what is known of them."""

    cases: CaseBatch
    query: Query
    replay: Replay
    rigour: Rigour  #: an unsat is one in rigorous arithmetic, where a certificate can be made in time
    open: Tensor  # [k] int64: cases of the batch that are not proved
    near: bool = False  #: some case has a counterexample in real arithmetic that did not replay
    reason: Reason | None = None
    outside: Outside | None = None  #: of an open case


@dataclass
class _InstanceSearch:
    model: ReplayModel
    prop: Property
    batches: Sequence[CaseBatch]
    stages: InstanceLadder | None
    watch: InstanceProgress
    decided: dict[int, str] = field(default_factory=dict)  #: case -> the stage that decided it
    certificates: dict[int, Certificate] = field(default_factory=dict)  #: case -> the evidence of its proof

    def run(self, budget: Budget) -> InstanceAnswer:
        if self.batches:
            self._check()
        parts = [self._part(cases) for cases in self.batches]
        self._climb(parts, budget)
        found = next((part.replay for part in parts if part.replay.found is not None), None)
        if found is not None and found.found is not None:
            self.decided[found.found.case] = found.found_by
            by = [self.decided.get(k) for k in range(len(self.prop.cases))]
            return InstanceAnswer(InstanceStatus.SAT, 0.0, found.found, decided_by=by)
        by = [self.decided.get(k) for k in range(len(self.prop.cases))]
        if all(stage is not None for stage in by):
            return InstanceAnswer(InstanceStatus.UNSAT, 0.0, decided_by=by, certificates=self.certificates)
        near = any(part.near for part in parts)
        left = f"{by.count(None)} of {len(by)} cases are open" if len(by) > 1 else "undecided"
        if near:
            left += "; a counterexample in real arithmetic does not replay in onnxruntime"
        outside = next((part.outside for part in parts if part.outside is not None), None)
        where = "" if outside is None else f"; {outside}"
        if budget.spent or any(part.reason is Reason.BUDGET for part in parts):
            why = f"{left}: the time is spent{where}"
            return InstanceAnswer(InstanceStatus.TIMEOUT, 0.0, reason=why, decided_by=by, advice=self.watch.advice())
        why = next((part.reason.value for part in parts if part.reason is not None), "no stage supports the network")
        advice = self._advice({part.reason for part in parts}, near)
        return InstanceAnswer(InstanceStatus.UNKNOWN, 0.0, reason=f"{left}: {why}{where}", decided_by=by, advice=advice)

    def _advice(self, reasons: set[Reason | None], near: bool) -> str:
        """What would help where all stages have ended with time left."""
        if near or Reason.NUMERICAL in reasons:
            return "what may help: a threshold a little away from the values that the network takes; more time does not"
        if reasons & {Reason.DOMAIN, Reason.UNSUPPORTED}:
            return ""  # the reason says it
        if self.stages is not None:
            return "what may help: other stages; without --stages all that suit the network are tried"
        return "what may help: `--stages milp`, which is complete for small networks, or a property of smaller boxes"

    def _check(self) -> None:
        """Graph and model are compared within the hull of all boxes."""
        lower = torch.stack([part.lower.amin(0) for part in self.batches]).amin(0)
        upper = torch.stack([part.upper.amax(0) for part in self.batches]).amax(0)
        self.model.check(lower.reshape(self.model.input_shape), upper.reshape(self.model.input_shape))

    def _part(self, cases: CaseBatch) -> _BatchState:
        graph = with_input(self.model.graph) if cases.with_inputs else self.model.graph
        query = Query.of(graph, cases.box(self.model.input_shape), cases.spec)
        replay = Replay(self.model, self.prop, cases)
        return _BatchState(cases, query, replay, Rigour(graph), torch.arange(cases.batch))

    def _climb(self, parts: Sequence[_BatchState], budget: Budget) -> None:
        """Quick stages on every part first, so that an easy witness is not behind a hard proof."""
        if len(parts) == 1:
            chosen = self.stages or ladder(parts[0].query)
            self._stages(parts[0], (*chosen.quick, *chosen.deep), budget)
            return
        for part in parts:
            if self._stages(part, (self.stages or ladder(part.query)).quick, budget):
                return
        for k, part in enumerate(parts):
            left = [p for p in parts[k:] if len(p.open)]
            if len(part.open) and not budget.spent:
                chosen = self.stages or ladder(part.query)
                share = None if budget.left == float("inf") else max(0.0, budget.left) / len(left)
                if self._stages(part, (*chosen.quick, *chosen.deep), Budget(share)):
                    return

    def _stages(self, part: _BatchState, stages: Sequence[str | Stage], budget: Budget) -> bool:
        """Runs stages over the open cases of a batch; whether a witness was found, which ends the search."""
        if budget.spent or not stages or len(part.open) == 0:
            part.reason = part.reason or (Reason.BUDGET if budget.spent else None)
            return False
        numbers, query = part.open, part.query.select(part.open)
        climbed = Ladder([stage(s) if isinstance(s, str) else s for s in stages], adapts=False)
        judge = WitnessJudge(part.replay, numbers)
        cascade = Cascade(climbed, judge, original=query.graph, rigour=part.rigour, watch=self.watch)
        outcome = cascade.run(query, budget)
        if judge.finished:
            return True
        self._take(part, numbers, outcome)
        points = {k: e.counterexample for k, e in enumerate(outcome.examples) if e.counterexample is not None}
        if points:
            part.near, near = True, list(points)
            part.replay.polish(query.select(torch.tensor(near)), torch.stack([*points.values()]), numbers[near], budget)
        return judge.finished

    def _take(self, part: _BatchState, numbers: Tensor, outcome: Outcome) -> None:  # [k] int64
        proved = []
        for k, number in enumerate(numbers.tolist()):
            example = outcome.examples[k]
            if example.certificate is not None and example.certificate.trust > Trust.PROBABILISTIC:
                case = part.cases.numbers[number]
                self.decided[case] = example.decided_by or "?"
                self.certificates[case] = example.certificate
                proved.append(number)
            else:
                part.reason, part.outside = example.reason or Reason.NUMERICAL, example.outside
        part.open = part.open[~torch.isin(part.open, torch.tensor(proved, dtype=torch.int64))]
