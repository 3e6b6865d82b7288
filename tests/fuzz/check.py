"""What is held against each other: verdicts and bounds on one side, members of the set on the other.

A member's value is computed in float64 with a bound on its rounding error, which is found here, by an error analysis
of its own; a violation counts where it is larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from fuzz import certificates
from fuzz.recipe import GraphModel, Problem, Recipe, problem, tiny
from properties import InputSet, Specification, Union
from verifier import Trust, Verdict, Verifier, VerifierError
from verifier.api import DEFAULT_STAGES
from verifier.bound_map import Bounds, Interval
from verifier.budget import Budget
from verifier.errors import InternalError
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine
from verifier.ops.linear import Linear
from verifier.ops.product import Product
from verifier.policy import Ladder
from verifier.query import Query
from verifier.result import Result
from verifier.stages import StageReport, stage
from verifier.verdict import Semantics

#: seconds that a stage may take for an example
SECONDS = 0.2
#: of float64: enough for sums of the lengths that occur here, with room
_LOSS = 2.0**-44
_TINY = 1e-300


@dataclass(frozen=True)
class Members:
    """Points of one example's set, the values of all nodes there, and how far rounding can have moved them."""

    x: Tensor  # [P, *input] float64
    values: list[Tensor]  # per node [P, *shape]
    errors: list[Tensor]  # per node [P, *shape]


class Wrong(AssertionError):
    """A verdict or a bound that some member of the set contradicts."""


def check(recipe: Recipe, seconds: float = SECONDS) -> str:
    """Run a recipe's problem and hold what comes out against members of the sets; returns the verdicts in words.

    Raises:
        Wrong: a verdict or a bound is wrong. Whatever the verifier raises that is not about what it was given.
    """
    if "tiny" in recipe:
        return check_tiny(recipe, seconds)
    asked = problem(recipe)
    precise = asked.graph.to(dtype=torch.float64)
    batch = range(asked.inputs.batch)
    narrow = asked.semantics is Semantics.FLOAT32
    members = [
        (as_float32 if narrow else at_members)(asked.graph if narrow else precise, points(precise, asked, b))
        for b in batch
    ]
    if any(not v.isfinite().all() for m in members for v in m.values):
        return "not finite"
    try:
        found = _verified(asked, seconds)
    except InternalError:
        raise
    except VerifierError as error:
        return type(error).__name__
    for b in batch:
        _check_verdict(asked, found, b, members[b])
        _check_certificates(asked, found, b, members[b], recipe["out_seed"])
    _check_stage(asked, precise, members, seconds)
    return " ".join(v.value for v in found.verdict)


def check_tiny(recipe: Recipe, seconds: float) -> str:
    """Verdict and margin of a tiny network against its exact least margin."""
    asked, truth = tiny(recipe)
    found = _verified(asked, seconds)
    verdict, lower = found.verdict[0], float(found.margins[0, 0])
    if (verdict is Verdict.VERIFIED and not truth > 0) or (verdict is Verdict.FALSIFIED and not truth < 0):
        raise Wrong(f"{verdict.value} by {found.decided_by[0]}, the least margin is {float(truth):.3e}")
    members = at_members(asked.graph.to(dtype=torch.float64), asked.inputs.center().double())
    if math.isfinite(lower) and Fraction(lower) > truth + Fraction(float(_tolerance(asked.dtype, members, asked)[0])):
        raise Wrong(f"lower bound {lower:.17g}, the least margin is {float(truth):.17g}")
    if asked.stage is not None:
        runner = stage(asked.stage)
        own = asked.graph.to(dtype=torch.float64) if runner.precision is torch.float64 else asked.graph
        query = Query.of(own, asked.inputs, asked.spec)
        with torch.no_grad():
            report = runner.run(query, Bounds(), Budget(None, seconds)) if runner.supports(query) else StageReport()
        checked = min(report.trust, *report.bounds.trusts(1)) is Trust.CHECKED
        if (
            checked
            and report.lower is not None
            and report.lower[0, 0].isfinite()
            and Fraction(report.lower.item()) > truth
        ):
            raise Wrong(f"CHECKED lower bound {report.lower.item():.17g}, the least margin is {float(truth):.17g}")
    made = certificates.made_up(asked, 0, recipe["tiny"]["seed"])
    if made is not None and any(
        math.isfinite(v) and Fraction(v) > truth for v in [*made.lower.tolist(), *made.clauses.tolist()]
    ):
        raise Wrong(f"the checker bounds the row by {made.lower.tolist()}, the least margin is {float(truth):.17g}")
    return verdict.value


# -- points -----------------------------------------------------------------------------------------------------------


def points(graph: Graph, asked: Problem, b: int) -> Tensor:
    """Members of example b's set, in float64: its center, random ones, corners, and where gradients lead."""
    inputs = asked.inputs.select(torch.tensor([b]))
    dtype = torch.float32 if asked.semantics is Semantics.FLOAT32 else torch.float64
    found = [_members(inputs, inputs.center().double(), dtype)]
    for part in inputs.members if isinstance(inputs, Union) else (inputs,):
        found += [_members(part, x, dtype) for x in _points(graph, part, asked.spec.select(torch.tensor([b])))]
    return torch.cat(found)


def _points(graph: Graph, inputs: InputSet, spec: Specification) -> Iterator[Tensor]:
    count = 4 if inputs.costly_projection else 32
    many = inputs.select(torch.zeros(count, dtype=torch.int64))  # one set, so many times
    generator = torch.Generator().manual_seed(7)
    starts = many.sample(generator).double()
    low, high = many.box()
    corners = torch.where(torch.randint(2, low.shape, generator=generator, dtype=torch.bool), low, high)
    for x in (starts, many.project(corners)):
        yield x
        for step in (1.0, 0.3, 0.1, 0.03)[: 1 if inputs.costly_projection else 4]:  # projected gradient descent
            point = x.detach().requires_grad_()
            with torch.enable_grad():
                rows = graph.forward(point).flatten(1) @ spec.rows[0].double().T + spec.offset[0].double()
                value = spec.worst(rows).sum()
                (gradient,) = torch.autograd.grad(value, point) if value.requires_grad else (torch.zeros_like(point),)
            x = many.project(x + many.steepest_ascent(x, -gradient.nan_to_num(), step))
            yield x


def _members(inputs: InputSet, x: Tensor, dtype: torch.dtype) -> Tensor:  # [P, *input] -> [at most P, *input]
    """What lies in the set after some roundings, numbers of a precision in float64."""
    many = inputs.select(torch.zeros(len(x), dtype=torch.int64))
    moved = many.inside(x, dtype)
    return moved[many.contains(moved)].double()


def as_float32(graph: Graph, x: Tensor) -> Members:
    """What float32 arithmetic makes of all nodes: torch's sums, and sums in a random order. None of it is off."""
    runs = [graph.values(x.float())]
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        values = [x.float()]
        for node in graph.nodes[1:]:
            given = [values[p] for p in node.parents]
            assert node.op is not None
            shuffled = isinstance(node.op, Linear) and given[0].dim() == 2
            values.append(_in_any_order(node.op, given[0], generator) if shuffled else node.op.apply(*given))
        runs.append(values)
    joined = [torch.cat(together).double() for together in zip(*runs, strict=True)]
    return Members(torch.cat([x] * len(runs)), joined, [torch.zeros_like(v) for v in joined])


def _in_any_order(op: Linear, x: Tensor, generator: torch.Generator) -> Tensor:  # [P, n] float32 -> [P, m]
    """W x + b, the products and the bias added one after the other in a random order."""
    products = x.unsqueeze(1) * op.weight  # [P, m, n]
    if op.offset is not None:
        products = torch.cat([products, op.offset.expand(len(x), -1).unsqueeze(2)], 2)
    order = torch.randperm(products.shape[2], generator=generator)
    total = products[..., order[0]]
    for k in order[1:]:
        total = total + products[..., k]
    return total


def at_members(graph: Graph, x: Tensor) -> Members:
    """The values of all nodes at x with a bound on their rounding errors, node by node."""
    values, errors = graph.values(x), [torch.zeros_like(x)]
    for i, node in enumerate(graph.nodes[1:], 1):
        given = [errors[p] for p in node.parents]
        if isinstance(node.op, Activation):
            # a value next to a kink is off by no more than the input, times the largest slope
            errors.append(
                node.op.moved(values[node.parents[0]], values[node.parents[0]], given[0])
                + _LOSS * (1 + values[i].abs()) * node.op.ulps
                + _LOSS * values[i].abs()
            )
            continue
        if isinstance(node.op, Product):
            (a, b), (da, db) = (node.op.read(t[node.parents[0]]).unbind(1) for t in (values, errors))
            errors.append(a.abs() * db + b.abs() * da + da * db + _LOSS * values[i].abs() + _TINY)
            continue
        assert isinstance(node.op, Affine)
        size = node.op.apply_abs(*(values[p].abs() for p in node.parents))
        bias = node.op.bias_size(graph.parent_shapes(i), x)
        size = size if bias is None else size + bias
        errors.append(node.op.apply_abs(*given) + _LOSS * size + _TINY)
    return Members(x, values, errors)


def rows_at(asked: Problem, b: int, members: Members) -> tuple[Tensor, Tensor]:
    """The specification's rows at the members, [P, S], and their errors."""
    rows, offset = asked.spec.rows[b].double(), asked.spec.offset[b].double()
    y, error = members.values[-1].flatten(1), members.errors[-1].flatten(1)
    value = y @ rows.T + offset
    return value, error @ rows.abs().T + _LOSS * (y.abs() @ rows.abs().T + offset.abs()) + _TINY


# -- checks -----------------------------------------------------------------------------------------------------------


def _verified(asked: Problem, seconds: float) -> Result:
    verifier = Verifier(
        GraphModel(asked.graph), asked.inputs.center()[:1].to(asked.dtype), dtype=asked.dtype, semantics=asked.semantics
    )
    names = DEFAULT_STAGES if asked.stage is None else ("attack", asked.stage)
    verifier.ladder = Ladder([stage(n) for n in names], adapts=False)
    return verifier.run(asked.inputs, asked.spec, budget=20 * seconds, example_budget=seconds)


def _check_verdict(asked: Problem, found: Result, b: int, members: Members) -> None:
    value, error = rows_at(asked, b, members)
    clause = asked.spec.clause
    if found.verdict[b] is Verdict.VERIFIED:
        broken = torch.stack([(value + error < 0)[:, clause == c].all(1) for c in range(asked.spec.clauses)], 1).any(1)
        if broken.any():
            k = int(broken.nonzero()[0])
            raise Wrong(
                f"VERIFIED by {found.decided_by[b]} (example {b}), but the rows are {value[k].tolist()} "
                f"+- {error[k].tolist()} at {members.x[k].tolist()}"
            )
    if found.verdict[b] is Verdict.FALSIFIED:
        point = found.counterexample[b]
        assert point is not None
        if not bool(asked.inputs.select(torch.tensor([b])).contains(point.double().unsqueeze(0))):
            raise Wrong(f"the counterexample of example {b} is outside of its set: {point.tolist()}")
        narrow, x = asked.semantics is Semantics.FLOAT32, point.double().unsqueeze(0)
        at = as_float32(asked.graph, x) if narrow else at_members(asked.graph.to(dtype=torch.float64), x)
        value, error = rows_at(asked, b, at)
        if narrow:  # some evaluation in float32 is enough: the model's own may add up in another order
            largest = max(float(v.abs().max()) for v in at.values)
            value, error = value[:1], error[:1] + 2.0**-20 * largest * asked.spec.rows[b].double().abs().sum(1)
        if not any(bool((value - error < 0)[0, clause == c].all()) for c in range(asked.spec.clauses)):
            raise Wrong(f"FALSIFIED (example {b}), but the rows at the counterexample are {value[0].tolist()}")
    _check_margins(asked, found, b, members)
    if found.verdict[b] is Verdict.VERIFIED:
        certificate = found.certificate[b]
        assert certificate is not None
        if (certificate.trust is not found.trust[b]) or (found.trust[b] is Trust.PROBABILISTIC and asked.stage is None):
            raise Wrong(f"trust of the verdict {found.trust[b]}, of its certificate {certificate.trust}")
        if len(certificate.sets) == 1:  # a union's bounds are over one member each
            for node, interval in certificate.sets[0].last.bounds.items():
                _check_interval(f"certificate, node {node}", members, node, interval, 0)


def _check_certificates(asked: Problem, found: Result, b: int, members: Members, seed: int) -> None:
    value, error = rows_at(asked, b, members)
    for made in (certificates.made_up(asked, b, seed), certificates.of_verified(asked, asked.graph, found, b)):
        wrong = "" if made is None else certificates.too_high(made, value, error, asked.spec.clause)
        if wrong:
            raise Wrong(f"example {b}: {wrong}")


def _check_margins(asked: Problem, found: Result, b: int, members: Members) -> None:
    value, error = rows_at(asked, b, members)
    lower = found.margins[b]
    if asked.spec.label is not None:
        lower = lower[torch.arange(len(lower)) != asked.spec.label[b]]
    _check_lower(f"margins of example {b}", lower, value, error, _tolerance(asked.dtype, members, asked), members)


def _check_lower(name: str, lower: Tensor, value: Tensor, error: Tensor, tolerance: Tensor, members: Members) -> None:
    """lower [S] <= value [P, S], up to the error of the value and a tolerance [S]."""
    over = lower.double() - (value + error + tolerance).amin(0)
    if (over > 0).any():
        s = int(over.argmax())
        k = int(value[:, s].argmin())
        raise Wrong(
            f"{name}: lower bound {float(lower[s]):.17g} of row {s}, value {float(value[k, s]):.17g} "
            f"+- {float(error[k, s]):.3g} at {members.x[k].tolist()}"
        )


def _tolerance(dtype: torch.dtype, members: Members, asked: Problem) -> Tensor:
    """What rounding may do to a bound that accounts for none of it: of float64's own error, scaled to the precision."""
    more = torch.finfo(dtype).eps / torch.finfo(torch.float64).eps
    largest = members.errors[-1].flatten(1).amax(0)
    rows = asked.spec.rows.double().abs().amax(0)  # [S, outputs]
    return more * (rows @ largest) + 1e3 * torch.finfo(dtype).eps * asked.spec.offset.double().abs().amax(0)


def _check_interval(name: str, members: Members, node: int, interval: Interval, b: int) -> None:
    """Bounds of a node; those whose rounding is accounted for get no tolerance but that of the values themselves."""
    value, error = members.values[node], members.errors[node]
    low, high = (side[b].double().reshape(value.shape[1:]) for side in (interval.lower, interval.upper))
    slack = error
    if min(source.trust for source in interval.sources) < Trust.CHECKED:
        eps = torch.finfo(interval.lower.dtype).eps
        slack = error + eps / torch.finfo(torch.float64).eps * error.amax(0) + 8 * eps * value.abs().amax(0)
    if ((value + slack < low) | (value - slack > high)).any():
        raise Wrong(
            f"{name} ({min(s.trust for s in interval.sources).name}): values {_ends(value)} outside of "
            f"{low.flatten().tolist()} .. {high.flatten().tolist()}"
        )


def _ends(value: Tensor) -> str:
    return f"{value.amin(0).flatten().tolist()} .. {value.amax(0).flatten().tolist()}"


def _check_stage(asked: Problem, graph: Graph, members: list[Members], seconds: float) -> None:
    """What the stage reports by itself: lower bounds of rows and of whole clauses, and intermediate bounds."""
    if asked.stage is None or isinstance(asked.inputs, Union):
        return
    runner = stage(asked.stage)
    own = graph if runner.precision is torch.float64 else asked.graph
    query = Query.of(own, asked.inputs, asked.spec, asked.semantics)
    if asked.semantics not in runner.semantics or not runner.supports(query):
        return
    with torch.no_grad():
        report = runner.run(query, Bounds(), Budget(None, seconds))
    for b, at in enumerate(members):
        value, error = rows_at(asked, b, at)
        if report.lower is not None:
            trust = min(report.trust, report.bounds.trusts(len(members))[b])
            tolerance = torch.zeros(value.shape[1]) if trust is Trust.CHECKED else _tolerance(asked.dtype, at, asked)
            _check_lower(
                f"{asked.stage} alone, {trust.name}, example {b}", report.lower[b], value, error, tolerance, at
            )
        if report.clauses is not None:
            for c in range(asked.spec.clauses):
                chosen = asked.spec.clause == c
                best = (value[:, chosen] + error[:, chosen]).amax(1).amin()
                slack = float(_tolerance(asked.dtype, at, asked).max())
                if float(report.clauses[b, c]) > float(best) + slack:
                    raise Wrong(
                        f"{asked.stage} alone: clause {c} of example {b} bounded by {report.clauses[b, c]}, met {best}"
                    )
        for node, interval in report.bounds.items():
            _check_interval(f"{asked.stage} alone, example {b}, node {node}", at, node, interval, b)
