"""Layerwise adversarial training: Balunovic & Vechev (2020), "Adversarial training and provable defenses", Algorithm 1.

One phase per layer. Phase 0 is adversarial training on the input set itself. Phase l keeps the first l layers as they
are, encloses what they can make of the input set in a zonotope C_l (verifier.zonotope, slopes of DeepZ), looks there
for the point of the largest loss, and trains the rest of the network on it. A network without such latent adversarial
examples is one that the same zonotopes verify.

What the paper leaves open, and what was chosen here: the inner attack takes steps of the gradient's sign in the error
terms and keeps the best point that it saw; the radius never falls below the certified one; l1 is on weights, not on
biases; between two layers the share of a batch that is attacked in the new region grows from nothing to all of it
(`ramp`), so that the loss does not jump.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import InputSet, Threat
from training.method import Course, Loss, Method, Moment, Phase
from training.network import Network
from training.schedule import Decayed, Rate
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.graph.cuts import cuts
from verifier.ops.base import Activation
from verifier.projection import walk
from verifier.stages import interval
from verifier.zonotope import Band, Latent, exact_bands


@dataclass(frozen=True, kw_only=True)
class LayerwiseAdversarial(Method):
    """Adversarial training in the zonotopes of one layer after another, the layers before it frozen.

    Args:
        eps: the radius to be certified. Only l-infinity balls: of other sets a zonotope holds the box around them.
        rate: within each phase. The paper's is Stepped(every=100, factor=0.1); the default, for shorter runs, is halved
            three times in a phase's second half.
        steps, size: of the inner attack; error terms are in [-1, 1].
        widen, shrink: phase l trains for max(eps, eps * widen * (1 - shrink)^l).
        l1: weight of the l1 norm of the weights that are trained.
        ramp: share of a phase until the whole batch is attacked in the new region; the rest is attacked in the one
            before.
        projections: estimate the widths of the zonotopes from so many Cauchy vectors, in place of computing them: for
            layers whose widths do not fit, or take too long. None: exact.
        shares: relative lengths of the phases, one for the input and one per cut (`regions`); default all alike.
    """

    name: ClassVar[str] = "layerwise"
    stages: ClassVar[tuple[str, ...]] = ("interval", "dual", "dual-adaptive")

    rate: Rate = Decayed(factor=0.5, times=4, after=0.5)
    steps: int = 8
    size: float = 0.3
    widen: float = 1.1
    shrink: float = 0.05
    l1: float = 1e-5
    ramp: float = 0.5
    projections: int | None = None
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if [name for name, _ in Threat.of(self.threat).parts] != ["linf"]:
            raise ValueError(f"layerwise training is for the threat model linf, not {self.threat!r}")
        if self.steps < 1 or not 0 < self.size < float("inf"):
            raise ValueError(f"the attack needs steps >= 1 of a size > 0, got {self.steps} of {self.size}")
        if not 1 <= self.widen < float("inf") or not 0 <= self.shrink < 1:
            raise ValueError(f"widen must be >= 1 and shrink in [0, 1), got {self.widen} and {self.shrink}")
        if not 0 <= self.l1 < float("inf") or not 0 <= self.ramp <= 1:
            raise ValueError(f"l1 must be >= 0 and ramp in [0, 1], got {self.l1} and {self.ramp}")
        if self.projections is not None and self.projections < 2:
            raise ValueError(f"projections must be at least 2 Cauchy vectors, or None, got {self.projections}")
        if self.shares is not None and not all(0 < share < float("inf") for share in self.shares):
            raise ValueError(f"shares must be numbers > 0, got {self.shares}")

    def begin(self, network: Network, generator: torch.Generator) -> Course:
        return _Layerwise(self, network, generator)

    def radius(self, phase: int) -> float:
        """What the sets of a phase have."""
        return self.eps * max(1.0, self.widen * (1 - self.shrink) ** phase)


class _Layerwise(Course):
    method: LayerwiseAdversarial

    def __init__(self, method: LayerwiseAdversarial, network: Network, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        self.regions = regions(network.graph)
        if method.shares is not None and len(method.shares) != len(self.regions):
            raise ValueError(
                f"shares must be {len(self.regions)} numbers, one for the input and one for each of the network's "
                f"{len(self.regions) - 1} cuts, got {len(method.shares)}"
            )
        # the same numbers as the live graph's, now and after every step
        self.still = network.graph.map_tensors(Tensor.detach)

    def phase(self, epoch: int, epochs: int) -> Phase:
        ends = phase_ends(self.method.shares or (1.0,) * len(self.regions), epochs)
        index = next(i for i, end in enumerate(ends) if epoch < end)
        first = ends[index - 1] if index else 0
        return Phase(index, first, ends[index] - first)

    def parameters(self, moment: Moment) -> list[Tensor]:
        """Those that only nodes behind the cut use."""
        return trainable(self.network.graph, self.regions[self._phase(moment).index])

    def loss(self, x: Tensor, label: Tensor, moment: Moment) -> Loss:
        phase = self._phase(moment)
        cut = self.regions[phase.index]
        new = round(self._mixed(phase, moment) * len(x))
        points = [self._worst(x[:new], label[:new], phase.index)]
        if new < len(x):
            before = self._worst(x[new:], label[new:], phase.index - 1)
            with torch.no_grad():
                points.append(self.still.until(cut).forward_from(self.regions[phase.index - 1], before))
        outputs = self.network.graph.forward_from(cut, torch.cat(points)).flatten(1)
        value = F.cross_entropy(outputs, label)
        if self.method.l1:
            value = value + self.method.l1 * sum(p.abs().sum() for p in self.parameters(moment) if p.dim() > 1)
        with torch.no_grad():
            clean = self.still.forward(x).flatten(1)
        figures = {"error": clean, "latent_error": outputs}
        return Loss(value, {name: (y.argmax(1) != label).to(value.dtype).mean() for name, y in figures.items()})

    def _phase(self, moment: Moment) -> Phase:
        return self.phase(moment.epoch, moment.epochs)

    def _mixed(self, phase: Phase, moment: Moment) -> float:
        """The share of a batch that is attacked in the phase's own region."""
        length = self.method.ramp * phase.epochs
        if phase.index == 0 or length == 0:
            return 1.0
        return min(1.0, (moment.done - phase.first) / length)

    def _worst(self, x: Tensor, label: Tensor, index: int) -> Tensor:
        """Latent adversarial points [B, *shape of the cut] of the region of phase `index`."""
        cut = self.regions[index]
        if len(x) == 0:
            return x.new_zeros(0, *self.still.nodes[cut].shape)
        inputs = self.method.sets(x, self.method.radius(index))
        latent = Latent.of(self.still, inputs, cut, self._bands(inputs, cut))

        def losses(point: Tensor) -> Tensor:
            outputs = self.still.forward_from(cut, point).flatten(1)
            return F.cross_entropy(outputs, label, reduction="none")

        return worst_point(latent, losses, self.method.steps, self.method.size, self.generator)

    def _bands(self, inputs: InputSet, cut: int) -> dict[int, Band]:
        if self.method.projections is None:
            return exact_bands(self.still, inputs, cut)
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator(self.network.device).manual_seed(seed)
        return estimated_bands(self.still, inputs, cut, walk.Draws(self.method.projections, generator))


def worst_point(
    latent: Latent, losses: Callable[[Tensor], Tensor], steps: int, size: float, generator: torch.Generator
) -> Tensor:  # [B, *shape of the node]
    """The point of largest loss that an ascent in the error terms sees, from a random start (section 5).

    Steps of the gradient's sign: where the loss is linear in the errors, its maximum is a corner of [-1, 1]^k, and
    errors of neurons that matter little reach theirs as soon as the others.

    Args:
        losses: of points [B, *shape], [B].
    """
    errors = latent.sample(generator)
    point = latent.at(errors)
    highest = torch.full_like(point.flatten(1)[:, 0], -torch.inf)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            errors = {i: e.detach().requires_grad_(step < steps) for i, e in errors.items()}
            here = latent.at(errors)
            loss = losses(here)
        better = loss.detach() > highest
        highest = torch.where(better, loss.detach(), highest)
        point = torch.where(better.view(-1, *[1] * (point.dim() - 1)), here.detach(), point)
        if step < steps:
            slopes = torch.autograd.grad(loss.sum(), list(errors.values()))
            errors = {
                i: (e.detach() + size * g.sign()).clamp(-1, 1) for (i, e), g in zip(errors.items(), slopes, strict=True)
            }
    return point.detach()


@torch.no_grad()
def estimated_bands(graph: Graph, inputs: InputSet, node: int, draws: walk.Draws) -> dict[int, Band]:
    """As `exact_bands`, over pre-activations whose widths are estimated: for training alone, they prove nothing.

    Wong et al. (2018), section 3.2. Time and memory are those of r + 1 passes through the network. Where interval
    arithmetic is exact, or tighter than the estimate, it is taken.

    Args:
        draws: r Cauchy vectors (verifier.projection).
    """
    part = graph.until(node)
    noises, centers = {0: walk.born(inputs, draws, graph.dtype)}, {0: walk.center_of(inputs, graph.dtype)}
    ranges, found = {0: inputs.box(graph.dtype)}, dict[int, Band]()
    estimated = {i for i in part.pre_activations if not (inputs.is_box and part.exact_by_interval[i])}
    for i in range(1, part.output + 1):
        op, parents = part.nodes[i].op, part.nodes[i].parents
        if isinstance(op, Activation):
            found[i] = Band.fixed(op, *ranges[parents[0]])
        if i < node:
            ranges[i] = interval.step(part, i, ranges)
        if i <= max(estimated, default=0):
            centers[i] = walk.center_step(part, i, centers, found.get(i))
            noises[i] = walk.step(part, i, noises, found.get(i), draws)
        if i in estimated:
            ranges[i] = walk.within(ranges[i], centers[i], noises[i].width(centers[i]))
    return found


def regions(graph: Graph) -> list[int]:
    """The nodes whose regions are attacked, phase by phase: the input, then activations that every path passes.

    The last has parameters behind it. Of several with the same ones behind them it is the last.
    """
    found: dict[tuple[int, ...], int] = {}
    for node in reversed(cuts(graph)):
        behind = tuple(map(id, trainable(graph, node)))
        if isinstance(graph.nodes[node].op, Activation) and 0 < len(behind) < len(trainable(graph, 0)):
            found[behind] = node
    return [0, *found.values()]


def trainable(graph: Graph, cut: int) -> list[Tensor]:
    """Parameters that nodes behind the cut use, and none before it."""
    frozen = {id(p) for i in graph.ancestors[cut] for p in _live(graph, i)}
    behind = (p for i in range(cut + 1, len(graph.nodes)) for p in _live(graph, i) if id(p) not in frozen)
    return list({id(p): p for p in behind}.values())


def _live(graph: Graph, node: int) -> list[Tensor]:
    op = graph.nodes[node].op
    return [] if op is None else [p for _, p in op.parameters() if p.requires_grad]


def phase_ends(shares: tuple[float, ...], epochs: int) -> list[int]:
    """Epochs at which the phases end: whole ones, at least one each, as near to the shares as that allows.

    Raises:
        InputError: fewer epochs than phases.
    """
    phases = len(shares)
    if epochs < phases:
        raise InputError(f"this network is trained in {phases} phases of at least an epoch each: give more epochs")
    ends = [round(epochs * total / sum(shares)) for total in itertools.accumulate(shares)]
    for i in range(phases):
        ends[i] = min(max(ends[i], (ends[i - 1] if i else 0) + 1), epochs - (phases - 1 - i))
    return ends
