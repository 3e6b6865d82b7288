"""`verify`: decide, with evidence, whether any allowed perturbation changes a network's answer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from properties import InputSet, Perturbation, Question, Specification, Threat, Union, same_side
from properties.specification import other_classes
from verifier.arguments import (
    check_example,
    check_narrow,
    checked_labels,
    checked_semantics,
    input_errors,
    same_answers,
)
from verifier.arithmetic import precise_arithmetic
from verifier.budget import Budget, seconds_of
from verifier.cascade import Cascade
from verifier.certificate.rigour import Rigour
from verifier.device import checked_device
from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.graph.runner import ImportedModel, ModelRunner, Runner
from verifier.graph.torch_import import import_torch
from verifier.judge import ModelJudge
from verifier.kernels import ask_products
from verifier.outcome import Outcome, RunWatch, StageWatch
from verifier.policy import Ladder
from verifier.progress import Verdicts, Watching, check_progress, listening
from verifier.query import Query
from verifier.result import Result
from verifier.several import as_one
from verifier.stages import REGISTRY, Stage, stage
from verifier.union import run_union
from verifier.verdict import Semantics, Trust

if TYPE_CHECKING:
    from rich.console import Group

#: the ladder: every registered stage that is not for named use only, cheapest first
DEFAULT_STAGES = tuple(
    sorted((name for name in REGISTRY if REGISTRY[name]().default), key=lambda name: (REGISTRY[name]().cost_rank, name))
)

#: seconds that one example may take before it is given up as UNKNOWN
DEFAULT_EXAMPLE_BUDGET = 60.0


class Prepared(Protocol):
    """A classifier made ready: what `verify` and `certify` need of it. `Verifier` says what each is."""

    @property
    def classes(self) -> int: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def graph_digest(self) -> str: ...

    def run(
        self,
        inputs: InputSet,
        spec: Specification,
        budget: float | None,
        example_budget: float | None,
        watch: RunWatch | None = None,
    ) -> Result: ...

    def run_own(
        self,
        x: Tensor,  # [B, *input]
        inputs: InputSet,
        budget: float | None,
        example_budget: float | None,
        watch: RunWatch | None = None,
    ) -> Result: ...


@runtime_checkable
class Verifiable(Protocol):
    """A classifier that is not one network, and knows how it is verified (verifier.network_cascade)."""

    @property
    def precision(self) -> torch.dtype:
        """Of its inputs."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run keeps of it beside the question, as JSON values."""

    def check_question(self, asked: Perturbation) -> None:
        """Raises InputError where it cannot be asked about such sets."""

    def prepared(
        self,
        example: Tensor,
        *,
        stages: Sequence[str | Stage] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Prepared:
        """As `Verifier`, of itself.

        Args:
            example: [B, *input].
        """


class Verifier:
    """A network made ready for verification: imported, checked against the model, with its stages.

    Args:
        model: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, or an `OnnxModel`.
        example: [B, *input], any valid input: its shape and precision.
        stages: names (see `verifier.stages.REGISTRY`) or Stage objects, in the order to run them; default
            `DEFAULT_STAGES`, in an order that adapts to what each costs and decides (verifier.policy).
        device: where bounds are computed; default the model's.
        dtype: precision of the bounds; default the model's. Close calls are computed again in float64.
        semantics: "real", or "float32" for a float32 network as hardware executes it (verifier.result.Semantics).

    Raises:
        ModelError: the model cannot be verified as it is; UnsupportedError: an operator has no relaxation here.
        InputError: the example or a stage name is unusable.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram | ImportedModel,
        example: Tensor,
        *,
        stages: Sequence[str | Stage] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        semantics: str | Semantics = Semantics.REAL,
    ) -> None:
        check_example(example)
        self.semantics = checked_semantics(semantics)
        with precise_arithmetic():
            self._prepare(model, example, stages, device, dtype)

    def _prepare(
        self,
        model: nn.Module | ExportedProgram | ImportedModel,
        example: Tensor,
        stages: Sequence[str | Stage] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:  # example [B, *input]
        if dtype not in (None, torch.float32, torch.float64):
            raise InputError(f"bounds are computed in torch.float32 or torch.float64, not in {dtype}")
        self.ladder = Ladder(_stages(stages), adapts=stages is None)
        self.imported, self.runner = _imported(model, example[:1])
        self.rigour = Rigour(self.imported, self.semantics)
        self.input_dtype = example.dtype
        if self.semantics is Semantics.FLOAT32:
            check_narrow(self.imported, example)
        self.device = _device(device, self.imported)
        ask_products(self.device)
        self.graph = self.imported.to(self.device, dtype or self.imported.dtype)
        self.replay_dtype = self._replay_dtype(example[:1])

    def _replay_dtype(self, example: Tensor) -> torch.dtype:  # [1, *input]
        """float64, unless the model fixes its own precision."""
        try:
            self.runner.run(example, dtype=torch.float64)
        except ModelError:
            return self.input_dtype
        return torch.float64

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order that they were given in."""
        return self.ladder.stages

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the bounds."""
        return self.graph.dtype

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return int(torch.Size(self.output_shape).numel())

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the outputs of one example."""
        return self.graph.output_shape

    def with_stages(self, places: Sequence[int]) -> Verifier:
        """The same network with some of its stages, by their places in `stages`."""
        other = copy.copy(self)
        other.ladder = Ladder([self.stages[k] for k in places], adapts=self.ladder.adapts)
        other.__dict__.pop("_before_the_last", None)  # it has stages of its own
        return other

    def explain(self) -> Group:
        """The network and the stages in the order they are tried, with what each has cost and decided so far.

        For a terminal: `rich.print(verifier.explain())`.
        """
        from verifier.explain import explanation

        return explanation(self.imported, self.ladder, self.dtype, self.device)

    def graph_digest(self) -> str:
        """SHA-256 of the network's content: operators, their options, their parameters, their wiring."""
        return self.imported.digest()

    def predict(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        """The original model's outputs, in its own precision."""
        with precise_arithmetic():
            return self.runner.run(x, dtype=None).flatten(1)

    def run(
        self,
        inputs: InputSet,
        spec: Specification,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
        watch: RunWatch | None = None,
    ) -> Result:
        """Verify a batch of input sets against their specifications.

        Args:
            inputs: B sets. spec: B specifications on this network's outputs.
            budget: seconds for the whole batch. example_budget: seconds for each example. None: no limit.
            watch: is told of the stages, and of examples as soon as they are settled. What it raises ends the run.
        """
        if inputs.shape != self.graph.input_shape:
            raise InputError(f"the model takes inputs of shape {self.graph.input_shape}, got {inputs.shape}")
        if spec.rows.shape[2] != self.classes:
            raise InputError(f"the model has {self.classes} outputs, the specification is about {spec.rows.shape[2]}")
        if inputs.batch != spec.batch:
            raise InputError(f"{inputs.batch} input sets, but specifications for {spec.batch} examples")
        hull = inputs.representable(self.input_dtype)
        if hull is not inputs:
            answered = self.run(hull, spec, budget, example_budget, watch)
            return replace(answered, hull=self._about_hull(inputs, answered))
        if self._asked_of_logits(spec):
            return self._before_the_last.run(inputs, spec, budget, example_budget, watch)
        if isinstance(inputs, Union):
            return run_union(self, inputs, spec, Budget(budget, example_budget), watch)
        return self.climb(self.ladder, inputs, spec, Budget(budget, example_budget), watch, watch)

    def _about_hull(self, asked: InputSet, answered: Result) -> str:
        """What the hull of sets has to do with an answer: `Result.hull`."""
        name = str(self.input_dtype).removeprefix("torch.")
        said = f"where an interval holds no {name} number, its {name} hull is meant"
        apart = []
        for i, point in enumerate(answered.counterexample):
            if point is not None:
                x, one = point.double().cpu().unsqueeze(0), asked.select(torch.tensor([i]))
                apart.append(float((x - one.project(x.to(one.box()[0].device)).cpu()).abs().max()))
        return f"{said}; counterexamples lie up to {max(apart):.3g} outside of their sets" if apart else said

    def specification(self, question: Question, x: Tensor, label: Tensor) -> Specification:  # [B, *input], [B]
        """A question by name about this network's outputs around x. Raises InputError where it does not fit them."""
        outputs = self.predict(x.to(self.input_dtype))
        with input_errors():
            return question.about(outputs.reshape(len(x), *self.output_shape), label)

    def proved_of(self, spec: Specification) -> Graph:
        """The graph that certificates of such a specification are about: where it can be, without a last softmax."""
        return self.imported.before_last if self._asked_of_logits(spec) else self.imported

    def _asked_of_logits(self, spec: Specification) -> bool:
        """Whether all that is asked is which outputs are larger, and the network ends in a softmax or a sigmoid.

        Over the real numbers the values before it are in the same order; rounded, outputs may be equal where these are
        not.
        """
        return self.imported.ordered is not None and self.semantics is Semantics.REAL and spec.compares

    @cached_property
    def _before_the_last(self) -> Verifier:
        """The same network without its last softmax or sigmoid; runs of the model stay those of the whole."""
        assert self.imported.ordered is not None
        other = copy.copy(self)
        other.imported = self.imported.until(self.imported.ordered)
        other.rigour = Rigour(other.imported, self.semantics)
        other.graph = other.imported.to(self.device, self.graph.dtype)
        return other

    def run_own(
        self,
        x: Tensor,  # [B, *input]
        inputs: InputSet,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
        watch: RunWatch | None = None,
    ) -> Result:
        """As `run`, of the network's own answers at x."""
        spec = same_answers(self.predict(x).argmax(1).cpu(), self.output_shape)
        return self.run(inputs, spec, budget, example_budget, watch)

    def climb(
        self,
        ladder: Ladder,
        inputs: InputSet,
        spec: Specification,
        budget: Budget,
        stages: StageWatch | None = None,
        watch: RunWatch | None = None,
    ) -> Result:
        """Verify with the stages of one ladder, each set by itself; arguments as `run` has checked them.

        Args:
            stages: is told of the stages. watch: of examples as soon as they are settled.
        """
        query = Query.of(self.graph, inputs.to(self.device), spec.to(self.device), self.semantics)
        replay = self.replay if self.semantics is Semantics.REAL else self._own_outputs
        judge = ModelJudge(replay, self.input_dtype, self.replay_dtype)
        own = spec.to(torch.device("cpu"))

        def tell(places: Tensor, outcome: Outcome) -> None:  # [k] int64
            assert watch is not None
            watch.settled(places.tolist(), self._result(outcome, inputs, own, places))

        told = None if watch is None else tell
        cascade = Cascade(ladder, judge, original=self.imported, rigour=self.rigour, watch=stages, tell=told)
        began = time.perf_counter()
        with precise_arithmetic(), torch.no_grad():
            outcome = cascade.run(query, budget)
            result = self._result(outcome, inputs, own, torch.arange(own.batch))
        rest = time.perf_counter() - began - float(result.seconds.sum())  # negative where examples ran side by side
        result.seconds.add_(max(0.0, rest) / max(1, len(result)))
        return replace(result, trust_limit=self.rigour.limit) if Trust.FLOAT in result.trust else result

    def replay(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes] float64
        """The original model's outputs, in float64 unless it insists on its own precision."""
        exact = self.replay_dtype is torch.float64
        return self.runner.run(x.to(self.replay_dtype), dtype=torch.float64 if exact else None).flatten(1).double()

    def _own_outputs(self, x: Tensor) -> Tensor:  # [B, *input] float64 -> [B, classes] float64
        """The original model's outputs in its own precision, of inputs that it holds exactly."""
        return self.predict(x.to(self.input_dtype)).double()

    def _result(self, outcome: Outcome, inputs: InputSet, spec: Specification, which: Tensor) -> Result:
        """Of the examples `which` [k] int64 of the batch."""
        examples = [outcome.examples[i] for i in which.tolist()]
        some, inputs = spec.select(which), inputs.select(which.to(inputs.center().device))
        clean = self.predict(inputs.center().to(self.input_dtype)).cpu()
        for k, example in enumerate(examples):
            if example.counterexample is not None and example.float32_agrees is None:
                outputs = self.predict(example.counterexample.unsqueeze(0)).cpu().double()
                one = some.select(torch.tensor([k]))
                example.float32_agrees = bool(one.worst(one.values(outputs))[0] < 0)
        label, margins = some.label, outcome.rows.margins(spec)[which]
        if label is not None:
            full = torch.full((len(margins), self.classes), torch.inf, dtype=margins.dtype)
            margins = full.scatter(1, other_classes(label, self.classes), margins)
        clause = None if label is not None else spec.clause
        return Result.of(examples, margins, label, clean.argmax(1), outcome.costs, self.semantics, clause)


def verify(
    model: nn.Module | ExportedProgram | ImportedModel | Verifiable,
    x: Tensor | Sequence[Tensor],
    eps: float | str | Sequence[float] | None = None,
    *,
    threat: str | Threat = "linf",
    label: Tensor | Sequence[int] | None = None,
    clip: tuple[float, float] | None = None,
    stages: Sequence[str | Stage] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    budget: float | str | None = None,
    example_budget: float | str | None = DEFAULT_EXAMPLE_BUDGET,
    input_set: InputSet | Sequence[InputSet] | None = None,
    spec: Specification | None = None,
    output: int | str | None = None,
    threshold: float | None = None,
    semantics: str | Semantics = Semantics.REAL,
    progress: bool | Callable[[Verdicts], None] = False,
) -> Result:
    """Decide for each example whether any allowed perturbation can change the network's answer.

    Args:
        model: a `torch.nn.Module` in eval mode, a `torch.export.ExportedProgram`, an `OnnxModel`, or a
            `NetworkCascade`.
        x: [B, *input], in the units the model takes. Of a module with several inputs a tuple of them; a counterexample
            then has them flattened, one after another (verifier.several).
        eps: radius of the sets around x, in the units of x unless the threat model says otherwise; of several inputs
            one for each, where 0.0 fixes an input. "8/255" is a number, too.
        threat: the kind of set, such as "linf", "l2", "l1" or "wasserstein", or a union such as "linf+5*l2"
            (properties.Threat).
        label: [B] the answers that must not change; default the model's own predictions. With the default, VERIFIED
            means that x is not an adversarial example of anything (Wong & Kolter 2018, Corollary 2).
        clip: (low, high), the valid range of inputs; default none.
        stages: which stages to run, in order; default `DEFAULT_STAGES`.
        device, dtype: where and in which precision bounds are computed; default the model's.
        budget: seconds for the whole call, also written as "60", "10s" or "2 min"; what is undecided then is UNKNOWN.
        example_budget: seconds for each example; None is no limit.
        input_set, spec: in place of eps and of label; `properties.questions` has what is usually asked by name, such as
            `properties.top_k`. Networks whose output has several dimensions need a spec. One of a single example is
            for all. Where a set's interval holds no float32 number and the network is in float32, the set is its
            float32 hull (`InputSet.representable`), and `Result.hull` says so.
        output: which of a module's several outputs is asked about: a place, a key or an attribute.
        threshold: of a network of one output: it stays on that side of the number on which it is at x.
        semantics: what a verdict is about: "real", the network over the real numbers; "float32", a float32 network as
            hardware executes it, in any order of summation (verifier.result.Semantics).
        progress: whether to show progress on stderr, or a function to call with the counts (a
            `verifier.progress.Verdicts`) as examples are decided and stages begin; what it raises ends the call.

    Raises:
        InputError: unusable arguments. ModelError, UnsupportedError: the model cannot be verified as it is.
    """
    budget, example_budget = seconds_of(budget, "budget"), seconds_of(example_budget, "example_budget")
    check_progress(progress)
    if (eps is None) == (input_set is None):
        raise InputError("give eps or input_set, " + ("not both" if eps is not None else "one of the two is needed"))
    if input_set is not None and (clip is not None or threat != "linf"):
        raise InputError("clip and threat go with eps; an input set of your own has its own limits")
    if sum(given is not None for given in (spec, label, threshold)) > 1:
        raise InputError("give either label or spec, not both, and a threshold instead of them")
    began = time.perf_counter()
    model, whole, sets = as_one(model, x, eps, threat, clip, input_set, output)
    verifier = prepared(model, whole, stages=stages, device=device, dtype=dtype, semantics=semantics)
    with input_errors():
        if label is not None:
            spec = same_answers(checked_labels(label, whole), verifier.output_shape)
        if threshold is not None:
            if not isinstance(verifier, Verifier):
                raise InputError("a threshold is for one network, not for several whose outputs are answers")
            spec = same_side(verifier.predict(whole).reshape(len(whole), *verifier.output_shape), threshold)
    left = None if budget is None else max(0.0, budget - (time.perf_counter() - began))
    if spec is not None and spec.batch == 1:
        spec = spec.expand(len(whole))
    if progress is False:  # in no parts: nobody waits
        return _asked(verifier, whole, sets, spec, left, example_budget, None)
    with listening(progress, len(whole)) as listen:
        watch = Watching(len(whole), listen)
        result = _asked(verifier, whole, sets, spec, left, example_budget, watch)
        watch.finished(result)
    return result


def _asked(
    verifier: Prepared,
    x: Tensor,  # [B, *input]
    sets: InputSet,
    spec: Specification | None,
    budget: float | None,
    example_budget: float | None,
    watch: RunWatch | None,
) -> Result:
    """Of the specification, or else of the network's own answers."""
    if spec is None:
        return verifier.run_own(x, sets, budget, example_budget, watch)
    return verifier.run(sets, spec, budget, example_budget, watch)


def prepared(
    model: nn.Module | ExportedProgram | ImportedModel | Verifiable,
    example: Tensor,
    *,
    stages: Sequence[str | Stage] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    semantics: str | Semantics = Semantics.REAL,
) -> Prepared:
    """A network's `Verifier`, or what something else that is verifiable brings in its place; arguments as there.

    Args:
        example: [B, *input].
    """
    if isinstance(model, Verifiable) and not isinstance(model, nn.Module):
        if checked_semantics(semantics) is not Semantics.REAL:
            raise InputError(f"a {type(model).__name__} is verified over the real numbers only: leave semantics out")
        return model.prepared(example, stages=stages, device=device, dtype=dtype)
    return Verifier(model, example, stages=stages, device=device, dtype=dtype, semantics=semantics)


def _imported(model: nn.Module | ExportedProgram | ImportedModel, example: Tensor) -> tuple[Graph, Runner]:
    """The model's graph, and the model as a function.

    Args:
        example: [1, *input].
    """
    if isinstance(model, ImportedModel) and not isinstance(model, nn.Module):
        return model.graph_for(example), model
    return import_torch(model, example), ModelRunner(model)


def labels_of(label: Tensor | Sequence[int] | None, verifier: Verifier, x: Tensor) -> Tensor:
    """The labels [B] that were given, or the model's own predictions at x."""
    if label is None:
        return verifier.predict(x).argmax(1).cpu()
    return checked_labels(label, x)


def _stages(names: Sequence[str | Stage] | None) -> tuple[Stage, ...]:
    if isinstance(names, str):
        raise InputError(f"stages must be a list of names, got the string {names!r}; write [{names!r}]")
    with input_errors():
        chosen = tuple(stage(s) if isinstance(s, str) else s for s in (DEFAULT_STAGES if names is None else names))
    if not chosen:
        raise InputError("stages is empty: name at least one")
    wrong = next((s for s in chosen if not isinstance(s, Stage)), None)
    if wrong is not None:
        raise InputError(f"stages must hold names of stages or Stage objects, got {wrong!r}")
    return chosen


def _device(device: torch.device | str | None, graph: Graph) -> torch.device:
    chosen = checked_device(device)
    if chosen is not None:
        return chosen
    for node in graph.nodes[1:]:
        for _, tensor in node.op.parameters() if node.op is not None else ():
            return tensor.device
    return torch.device("cpu")
