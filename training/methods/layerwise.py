"""Layerwise adversarial training: Balunovic & Vechev (2020), "Adversarial training and provable defenses", Algorithm 1.

One phase per layer. Phase 0 is adversarial training on the input set itself. Phase l keeps the first l layers as they
are, encloses what they can make of the input set in a zonotope C_l (verifier.zonotope, slopes of DeepZ), looks there
for the point of the largest loss, and trains the rest of the network on it. A network without such latent adversarial
examples is one that the same zonotopes verify.

What the paper leaves open, and what was chosen here: the inner attack takes steps of the gradient's sign in the error
terms and keeps the best point that it saw; the radius never falls below the certified one; l1 is on weights, not on
biases; between two layers the share of a batch that is attacked in the new region grows from nothing to all of it
(`ramp`), so that the loss does not jump. So does, in phase 0, the share that is attacked at all. The paper's text has
no such mixing; the authors' program (eth-sri/colt) mixes the losses of two regions, the first time with the plain loss.
`slower` and `cuts` are from there too.

Not in the paper's text: a penalty on the bands of the activations behind the cut (`stability`). A layer is frozen
before the zonotopes that it leads to are attacked, and nothing in the phases before asks for narrow ones; so without it
the loss rises from phase to phase. (The authors' program has a penalty for the same end: the sum of -l u over the
unstable neurons of the layer that is frozen next, times 0.003 to 0.017.) The bands are those of a pass from the region
through the layers that are trained, with widths estimated from random projections, and the gradient goes through the
pass. Xiao et al. (2019), "Training for faster adversarial robustness verification", penalise unstable neurons with
another function, of interval bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import InputSet, Threat
from training.margin_loss import error_at
from training.method import BatchLoss, Phase, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.schedule import Decayed, Rate
from training.weights import l1_norm, live, sources
from verifier.attacks import AttackPoints
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.graph.cuts import cuts
from verifier.ops.base import Activation
from verifier.projection import forward
from verifier.zonotope import Latent, exact_bands

#: for the widths behind the cut, where the regions themselves are exact
PROJECTIONS = 10


@register
@dataclass(frozen=True, kw_only=True)
class LayerwiseAdversarial(TrainingMethod):
    """Adversarial training in the zonotopes of one layer after another, the layers before it frozen.

    Args:
        eps: the radius to be certified. Only l-infinity balls: of other sets a zonotope holds the box around them.
        rate: within each phase. The paper's is Stepped(every=100, factor=0.1); the default, for shorter runs, is halved
            three times in a phase's second half.
        steps, size: of the inner attack; error terms are in [-1, 1].
        widen, shrink: phase l trains for max(eps, eps * widen * (1 - shrink)^l).
        l1: weight of the l1 norm of the weights that are trained.
        stability: weight of `looseness`, what the bands behind the cut are wide. It costs another pass of `projections`
            vectors (of ten, where that is None). 0: none.
        sampled: share of the attacked images whose bands are penalised. That pass costs several times what the attack
            does, and a part of a batch is enough to say which way the weights should go.
        ramp: share of a phase until the whole batch is attacked in the new region; the rest is attacked in the one
            before, or in phase 0 not at all.
        projections: estimate the widths of the zonotopes from so many Cauchy vectors, in place of computing them: for
            layers whose widths do not fit, or take too long. None: exact.
        shares: relative lengths of the phases, one for the input and one per cut (`regions`); default all alike.
        slower: the learning rate of phase l is multiplied by slower^l. The authors' program has 0.75 at 2/255 and 0.5
            at 8/255.
        cuts: only the first so many cuts have a phase; default all. The authors' program leaves out those between
            fully connected layers.
    """

    name: ClassVar[str] = "layerwise"
    calls_module: ClassVar[bool] = False
    stages: ClassVar[tuple[str, ...]] = ("interval", "dual", "dual-adaptive")

    rate: Rate = Decayed(factor=0.5, times=4, after=0.5)
    steps: int = 8
    size: float = 0.3
    widen: float = 1.1
    shrink: float = 0.05
    l1: float = 1e-5
    stability: float = 1.0
    sampled: float = 1.0
    ramp: float = 0.5
    projections: int | None = None
    shares: tuple[float, ...] | None = None
    slower: float = 1.0
    cuts: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if [name for name, _ in Threat.of(self.threat).parts] != ["linf"]:
            raise ValueError(
                f"layerwise training is for the threat model linf, not {self.threat!r}: use linf, or train by "
                "dual, ibp or adversarial"
            )
        if self.steps < 1 or not 0 < self.size < float("inf"):
            raise ValueError(f"the attack needs steps >= 1 of a size > 0, got {self.steps} of {self.size}")
        if not 1 <= self.widen < float("inf") or not 0 <= self.shrink < 1:
            raise ValueError(f"widen must be >= 1 and shrink in [0, 1), got {self.widen} and {self.shrink}")
        if not 0 <= self.stability < float("inf"):
            raise ValueError(f"stability must be >= 0, got {self.stability}")
        if not 0 < self.sampled <= 1:
            raise ValueError(f"sampled must be a share in (0, 1], got {self.sampled}")
        if not 0 <= self.l1 < float("inf") or not 0 <= self.ramp <= 1:
            raise ValueError(f"l1 must be >= 0 and ramp in [0, 1], got {self.l1} and {self.ramp}")
        if self.projections is not None and self.projections < 2:
            raise ValueError(f"projections must be at least 2 Cauchy vectors, or None, got {self.projections}")
        if self.shares is not None and not all(0 < share < float("inf") for share in self.shares):
            raise ValueError(f"shares must be numbers > 0, got {self.shares}")
        if not 0 < self.slower <= 1 or (self.cuts is not None and self.cuts < 0):
            raise ValueError(f"slower must be in (0, 1] and cuts >= 0, or None, got {self.slower} and {self.cuts}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _Layerwise(self, network, generator)

    def radius(self, phase: int) -> float:
        """What the sets of a phase have."""
        return self.eps * max(1.0, self.widen * (1 - self.shrink) ** phase)


class _Layerwise(TrainingRun):
    method: LayerwiseAdversarial

    def __init__(self, method: LayerwiseAdversarial, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        self.regions = regions(network.graph)
        if method.cuts is not None:
            self.regions = self.regions[: 1 + method.cuts]
        if method.shares is not None and len(method.shares) != len(self.regions):
            raise ValueError(
                f"shares must be {len(self.regions)} numbers, one for the input and one for each of the network's "
                f"{len(self.regions) - 1} cuts, got {len(method.shares)}"
            )
        self.still = network.graph.map_tensors(Tensor.detach)  #: the numbers of the live graph, in a step those of then

    def phase(self, epoch: int, epochs: int) -> Phase:
        ends = phase_ends(self.method.shares or (1.0,) * len(self.regions), epochs)
        index = next(i for i, end in enumerate(ends) if epoch < end)
        first = ends[index - 1] if index else 0
        return Phase(index, first, ends[index] - first, self.method.slower**index)

    def doubts(self, epochs: int) -> Iterator[str]:
        lengths = [phase.epochs for phase in {self.phase(epoch, epochs) for epoch in range(epochs)}]
        if len(lengths) > 1 and min(lengths) == 1:
            yield (
                f"some of the {len(lengths)} phases have a single epoch, too short for a new optimiser, a learning "
                "rate that falls and a region that comes in bit by bit: the network will be little better than after "
                f"the first phase. Give at least {5 * len(lengths)} epochs (the paper: hundreds), or other `shares`"
            )

    def parameters(self, progress: Progress) -> list[Tensor]:  # [...] each
        """Those that only nodes behind the cut use."""
        return trainable(self.network.graph, self.regions[self._phase(progress).index])

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        cut = self.regions[self._phase(progress).index]
        with self.network.on_batch(x, frozen=cut):
            self.still = self.network.graph.map_tensors(Tensor.detach)
            return self._loss(x, label, progress)

    def _loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        phase = self._phase(progress)
        cut = self.regions[phase.index]
        new = round(self._mixed(phase, progress) * len(x))
        points, loose = [], x.new_zeros(())
        if new > 0:
            points.append(self._worst(self._region(x[:new], phase.index), label[:new]))
            if self.method.stability:
                loose = self._looseness(x[: math.ceil(self.method.sampled * new)], phase.index)
        if new < len(x) and phase.index == 0:
            points.append(x[new:])
        elif new < len(x):
            before = self._region(x[new:], phase.index - 1)
            point = self._worst(before, label[new:])
            with torch.no_grad():
                points.append(self.still.until(cut).forward_from(before.node, point))
        outputs = self.network.graph.forward_from(cut, torch.cat(points)).flatten(1)
        value = F.cross_entropy(outputs, label)
        if self.method.l1:
            value = value + self.method.l1 * l1_norm(self.network.graph, cut)
        value = value + self.method.stability * (new / len(x)) * loose
        with torch.no_grad():
            clean = self.still.forward(x).flatten(1)
        figures = {"error": error_at(clean, label), "latent_error": error_at(outputs, label)}
        return BatchLoss(value, {**figures, "looseness": loose})

    def _phase(self, progress: Progress) -> Phase:
        return self.phase(progress.epoch, progress.epochs)

    def _mixed(self, phase: Phase, progress: Progress) -> float:
        """The share of a batch that is attacked in the phase's own region."""
        length = self.method.ramp * phase.epochs
        if length == 0:
            return 1.0
        return min(1.0, (progress.done - phase.first) / length)

    def _region(self, x: Tensor, index: int) -> Latent:  # [B, *input]
        """What a phase attacks around some inputs."""
        inputs, cut = self._sets(x, index), self.regions[index]
        if self.method.projections is None:
            return Latent.of(self.still, inputs, cut, exact_bands(self.still, inputs, cut))
        return Latent.of(self.still, inputs, cut, self._estimate(inputs, cut).bands)

    def _looseness(self, x: Tensor, index: int) -> Tensor:  # [B, *input] -> []
        """Of the bands behind a phase's cut, differentiable in the weights there."""
        cut = self.regions[index]
        estimate = self._estimate(self._sets(x, index), cut)
        return looseness(forward.onward(self.network.graph, estimate, self._draws(), self.still.output), cut)

    def _sets(self, x: Tensor, index: int) -> InputSet:  # [B, *input]
        return self.method.sets(x, self.method.radius(index))

    @torch.no_grad()
    def _estimate(self, inputs: InputSet, cut: int) -> forward.Estimate:
        return forward.estimated(self.still, inputs, self._draws(), cut)

    def _worst(self, region: Latent, label: Tensor) -> Tensor:
        """Latent adversarial points [B, *shape of the cut]."""

        def losses(point: Tensor) -> Tensor:  # [B, *shape] -> [B]
            outputs = self.still.forward_from(region.node, point).flatten(1)
            return F.cross_entropy(outputs, label, reduction="none")

        return worst_point(region, losses, self.method.steps, self.method.size, self.generator)

    def _draws(self) -> forward.Draws:
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator(self.network.device).manual_seed(seed)
        return forward.Draws(self.method.projections or PROJECTIONS, generator)


def looseness(estimate: forward.Estimate, cut: int) -> Tensor:  # []
    """How wide the bands behind a cut are, each layer's mean as a share of its mean activation; summed over layers.

    A ratio, since a layer that is scaled down with its bands is no tighter. Differentiable in the weights.

    Args:
        estimate: to the graph's output (forward.onward).
    """
    total = estimate.centers[0].new_zeros(())
    for i in (i for i in estimate.bands if i > cut):
        size = estimate.centers[i].abs().mean().clamp_min(torch.finfo(total.dtype).tiny)
        total = total + estimate.bands[i].radius.mean() / size
    return total


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
    best = AttackPoints.unseen(point)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            errors = {i: e.detach().requires_grad_(step < steps) for i, e in errors.items()}
            here = latent.at(errors)
            loss = losses(here)
        best.keep(here.detach(), -loss.detach())
        if step < steps:
            slopes = torch.autograd.grad(loss.sum(), list(errors.values()))
            errors = {
                i: (e.detach() + size * g.sign()).clamp(-1, 1) for (i, e), g in zip(errors.items(), slopes, strict=True)
            }
    return best.points.detach()


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


def trainable(graph: Graph, cut: int) -> list[Tensor]:  # [...] each
    """Parameters that nodes behind the cut use, and none before it."""
    frozen = {id(p) for i in graph.ancestors[cut] for t in live(graph, i) for p in sources(t)}
    behind = (p for i in range(cut + 1, len(graph.nodes)) for t in live(graph, i) for p in sources(t))
    return list({id(p): p for p in behind if id(p) not in frozen}.values())


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
