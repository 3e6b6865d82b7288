"""The linear program of one subdomain: where nothing is left to split it is exact, and ascent need not reach it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor

from solvers import Program, SolveStatus
from solvers.inline import minimum
from solvers.pool import Task
from verifier.branching.dual import SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.subdomains import Subdomains
from verifier.budget import Budget, OutOfTime, checkpoint
from verifier.encoding.cut_and_solve import cut_and_solve
from verifier.encoding.hull import facets
from verifier.encoding.placement import Facet
from verifier.encoding.planes import Planes, around
from verifier.ops.base import Activation, Pieces

#: programs of one subdomain at most, on a set that is no box
ROUNDS = 8


def linear_programs(
    dual: SubdomainDual, subdomain: Subdomains, seconds: float
) -> Iterator[tuple[Subdomains | None, Tensor | None]]:
    """What `linear_program` gives for a subdomain: once on a box, else again and again with planes that cut it off.

    Yields:
        Better variables for the subdomain, and the point [n] where the program's minimum is; None where there is none.
    """
    inputs, ends = dual.net.inputs, time.monotonic() + seconds
    planes = None
    if not inputs.is_box:
        with torch.no_grad():
            planes = Planes.to_start(inputs, _shaped(dual.net, dual.at(subdomain).on_input))

    def solve(asked: Iterable[Planes | None]) -> Iterator[_LeafAnswer]:
        for known in asked:
            yield _LeafAnswer(known, *linear_program(dual, subdomain, ends - time.monotonic(), known))

    def separate(answer: _LeafAnswer) -> tuple[_LeafAnswer, Callable[[], Planes | None]]:
        return answer, lambda: answer.further(dual) if time.monotonic() <= ends else None

    for answer in cut_and_solve([planes], solve, separate, 1 if inputs.is_box else ROUNDS):
        yield answer.better, answer.point


@dataclass(frozen=True)
class _LeafAnswer:
    """What the program of a subdomain with these planes gave."""

    planes: Planes | None
    better: Subdomains | None
    point: Tensor | None  # [n]

    def further(self, dual: SubdomainDual) -> Planes | None:
        """The planes, and more that cut off the point; None where none does."""
        if self.better is None or self.point is None or self.planes is None:
            return None
        with torch.no_grad():
            form = dual.at(self.better).on_input
        inputs = dual.net.inputs
        more, cut = around(inputs, _shaped(dual.net, self.point.unsqueeze(0)), _shaped(dual.net, form))
        return self.planes.joined(more) if cut.any() else None


def _shaped(net: Matrices, flat: Tensor) -> Tensor:  # [k, n] -> [k, *input]
    return flat.unflatten(1, net.inputs.shape)


def intervals(dual: SubdomainDual, subdomain: Subdomains) -> tuple[Tensor, Tensor]:
    """The intervals of what the free neurons read, in one subdomain: [Z] each."""
    lower, upper = (t.clone() for t in dual.ends)
    lines = dual.relaxation(subdomain)
    return lower.scatter(0, subdomain.neuron[0], lines.lower[0]), upper.scatter(0, subdomain.neuron[0], lines.upper[0])


def linear_program(
    dual: SubdomainDual, subdomain: Subdomains, seconds: float, planes: Planes | None = None
) -> tuple[Subdomains | None, Tensor | None]:
    """The subdomain with the program's variables, and a minimiser [n], by HiGHS; None for what it does not give.

    Of a network without products, over a box. The variables are the solver's word. They are worth what `SubdomainDual`
    makes of them.

    Args:
        dual: in float64. subdomain: one.
        planes: half-spaces that hold the set, where it is no box.
    """
    net, own = dual.net, Budget(seconds)
    lower, upper = intervals(dual, subdomain)
    ends = [(b.op, lower[b.reads].unsqueeze(0), upper[b.reads].unsqueeze(0)) for b in net.blocks]
    pieces = [op.pieces(*over) for op, *over in ends if isinstance(op, Activation)]
    x, y = (np.concatenate([_padded(getattr(p, axis)[:, 0].numpy(), pieces) for p in pieces], 1) for axis in "xy")
    sides = facets(x, y)
    clause = dual.clauses[subdomain.target[0]][dual.valid[subdomain.target[0]]]
    try:
        with own.enforced():
            program = _program(net, sides, clause, (lower.numpy(), upper.numpy()), (y.min(0), y.max(0)))
    except OutOfTime:
        return None, None
    if planes is not None:
        low, high = (t.flatten().numpy() for t in net.inputs.box(torch.float64))
        rows, limits = planes.on_columns(np.eye(len(low)), np.zeros(len(low)), (low, high))
        rows = np.pad(rows, ((0, 0), (0, program.columns - rows.shape[1])))
        program = program.with_rows(rows, limits, np.full(len(limits), np.inf))
    largest = np.zeros(program.columns)
    largest[-1] = 1.0
    answer = minimum(Task(program, largest[None], until=time.monotonic() + own.left))
    if answer.status is not SolveStatus.OPTIMAL or answer.row_duals is None or answer.primal is None:
        return None, None
    duals, first = -answer.row_duals[: net.free], net.free
    for side in sides:
        at = np.flatnonzero(side.valid)
        duals[at] += answer.row_duals[first : first + len(at)] * side.slope[at]
        first += len(at)
    weight = torch.zeros_like(subdomain.weight)
    weight[0, : len(clause)] = torch.from_numpy(answer.row_duals[first : first + len(clause)]).float().clamp(min=0)
    if not float(weight.sum()) > 0:
        return None, None
    weight /= weight.sum()
    nu = torch.from_numpy(duals / _scale(net, clause))
    found = with_multipliers(dual, replace(subdomain, weight=weight), nu, lower, upper)
    return found, torch.from_numpy(answer.primal[: net.to_input.shape[1]])


def _program(
    net: Matrices,
    sides: list[Facet],
    clause: Tensor,
    ends: tuple[np.ndarray, np.ndarray],
    outputs: tuple[np.ndarray, np.ndarray],
) -> Program:
    """Columns x, y and the largest row t of the clause, scaled; rows: z in its ends, sides of hulls, t >= rows.

    Args:
        clause: [W] int64, its rows.
    """
    low, high = (t.flatten().numpy() for t in net.inputs.box(torch.float64))
    on_input, on_free, bias = csr_array(net.to_input.numpy()), csr_array(net.to_free.numpy()), net.bias.numpy()
    blocks = [hstack([on_input, on_free, csr_array((net.free, 1))])]
    lower, upper = [ends[0] - bias], [ends[1] - bias]
    for side in sides:
        checkpoint()
        at = np.flatnonzero(side.valid)
        blocks.append(hstack([_side(side, at, on_input, on_free), csr_array((len(at), 1))]))
        limit = side.bias[at] + side.slope[at] * bias[at]
        none = np.full(len(at), np.inf)
        lower.append(limit if side.below else -none)
        upper.append(none if side.below else limit)
    scale = _scale(net, clause)
    own = [scale * net.row_input[clause].numpy(), scale * net.row_free[clause].numpy(), -np.ones((len(clause), 1))]
    blocks.append(-csr_array(np.concatenate(own, 1)))
    lower.append(scale * net.row_bias[clause].numpy())
    upper.append(np.full(len(clause), np.inf))
    columns = np.concatenate([low, outputs[0], [-np.inf]]), np.concatenate([high, outputs[1], [np.inf]])
    integer = np.zeros(len(columns[0]), dtype=bool)
    return Program(csr_array(vstack(blocks)), np.concatenate(lower), np.concatenate(upper), *columns, integer)


def _scale(net: Matrices, clause: Tensor) -> float:  # [W] int64
    """What a clause's rows are multiplied with in the program: their coefficients are 1 at most then."""
    parts = (net.row_input[clause].abs(), net.row_free[clause].abs())
    size = max(float(p.max()) if p.numel() else 0.0 for p in parts)
    return 1 / size if size > 0 else 1.0


def with_multipliers(
    dual: SubdomainDual, subdomain: Subdomains, nu: Tensor, lower: Tensor, upper: Tensor
) -> Subdomains:
    """One subdomain whose multipliers on the free neurons' inputs are nu [M], whatever lines it has.

    What nu has beside the lines becomes a multiplier of the neuron's interval, [lower, upper] [M], for every neuron.
    """
    net = dual.net
    weight = subdomain.weight.to(nu)
    nu_hat = (weight @ net.row_free[dual.clauses[subdomain.target[0]]] + nu @ net.to_free).squeeze(0)
    slope, position = torch.zeros_like(nu), dual.slopes(subdomain)
    for block, lines in zip(net.blocks, dual.relaxation(subdomain).blocks, strict=True):
        positive = nu_hat[block.part].unsqueeze(0) >= 0
        slope[block.part] = lines.sided(positive, position[:, block.part])[0]
    gamma = (nu - slope * nu_hat).float().unsqueeze(0)
    neuron = torch.arange(net.free).unsqueeze(0)
    true = torch.ones_like(neuron, dtype=torch.bool)
    used = torch.full_like(subdomain.used, net.free)
    return replace(
        subdomain, used=used, neuron=neuron, raised=true, lowered=true, lower=lower.double().unsqueeze(0),
        upper=upper.double().unsqueeze(0), gamma=gamma, bound=torch.full_like(subdomain.bound, torch.inf),
    )  # fmt: skip


def _padded(points: np.ndarray, pieces: list[Pieces]) -> np.ndarray:
    """Points [K, m] with the last one repeated, up to the most of any block."""
    most = max(len(p.x) for p in pieces)
    return np.concatenate([points, np.repeat(points[-1:], most - len(points), 0)])


def _side(side: Facet, at: np.ndarray, on_input: csr_array, on_free: csr_array) -> csr_array:
    """The rows y - slope z of one side, for the neurons `at`."""
    slope = csr_array((side.slope[at], (np.arange(len(at)), at)), shape=(len(at), len(side.slope)))
    own = csr_array((np.ones(len(at)), (np.arange(len(at)), at)), shape=slope.shape)
    return hstack([-(slope @ on_input), own - slope @ on_free])
