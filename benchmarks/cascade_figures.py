"""Robust error of the published cascades of Wong et al. (2018), beside the figures that their tables 2 and 4 print.

    python benchmarks/cascade_figures.py --nets DIR_WITH_ONNX --data DIR_WITH_MNIST_AND_CIFAR10 \\
        [--cascade all] [--images 10000] [--ladder] [--example-budget 10] [--no-attack]

A cascade is a list of networks. The rule of Algorithm 2: an image goes to the first stage that certifies its own
prediction at that image (every margin of the predicted class positive over the whole ball); what no stage certifies
gets the last stage's prediction, without a certificate. Robust error: images whose answer is wrong or not certified.
Clean error: images whose answer is wrong. The bound is the paper's: the dual with fixed slopes and exact norms, every
neuron by its own dual bound (Algorithm 1 of Wong & Kolter, 2018). The balls are those of the authors' experiments: cut
to [0, 1] for MNIST, not cut for CIFAR-10.

That rule says nothing of a cascade under attack: a point x' of the ball around x may be certified by another stage than
x, with another answer. Algorithm 4 of Wong's thesis (2020) adds that every stage up to the one that certifies must
predict what the first predicts, or else there is no certificate. Then no point of the ball gets another certified
answer (some may get none), since x lies in the ball around each of its points x'. So three lines are printed:

    Algorithm 2         the paper's figure
    Algorithm 4         the same stages with the thesis's condition
    Algorithm 2 broken  of Algorithm 2's robust images, those with a point x' in their ball at which Algorithm 2 itself
                        answers wrongly, with a certificate or (the second number) by the last stage without one; x' is
                        where gradient descent ends that lowers the margin of the stage that decided x. A lower limit

With `--ladder` each stage's certificate is sought by the whole default ladder as well. "at least" and "at most"
are the limits between which Algorithm 2's robust error lies with an exact certifier, whatever the undecided pairs of
image and stage turn out to be: equal where there are none. An exact certifier is not sure to lower the error: it also
certifies wrong predictions, of images that a loose bound leaves to a later stage that is right.

The CIFAR-10 networks take (x - mean) / 0.225, and so do the balls here: radii are 1 / 0.225 times those of pixels.
Twenty of the CIFAR-10 test images are not bit for bit the published ones (SOURCES.md in the data).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from properties import InputSet, L2Ball, LinfBall, robustness
from verifier import Verdict, Verifier, attack
from verifier.bound_map import Interval
from verifier.query import Query
from verifier.relaxation.backward import Relaxation
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.roundoff import Roundoffs
from verifier.stages.dual import DualStage

#: what a stage said of an image; an image that an earlier stage certified is not asked
CERTIFIED, OPEN, REFUTED, NOT_ASKED = 1, 0, -1, 2
CODES = {Verdict.VERIFIED: CERTIFIED, Verdict.UNKNOWN: OPEN, Verdict.FALSIFIED: REFUTED}
MEAN, DEVIATION = (0.485, 0.456, 0.406), 0.225


class EveryNeuron(DualStage):
    """Fixed slopes over dual bounds of all neurons, as published.

    The dual stage leaves out the neurons that interval bounds show to be stable. With fixed slopes the dual bound of
    such a neuron can be the looser one, and what follows from it the tighter.
    """

    @staticmethod
    def _bound_unstable(
        query: Query,
        node: int,
        tight: Interval,
        relaxations: dict[int, Relaxation],
        plan: PassPlan,
        roundoffs: Roundoffs | None,
        asked: Tensor | None = None,  # [B, *shape] bool
    ) -> tuple[Tensor, Tensor]:
        infinite = torch.full_like(tight.lower, torch.inf)
        unknown = Interval.of(-infinite, infinite, tight.sources[0])
        return DualStage._bound_unstable(query, node, unknown, relaxations, plan, roundoffs)


@dataclass(frozen=True)
class Published:
    """One cascade and what the paper prints of it, in per cent."""

    networks: str  #: the files' name up to the number of the stage
    stages: int
    data: str
    ball: type[LinfBall] | type[L2Ball]
    eps: float  #: in the unit of the networks' input
    clip: tuple[float, float] | None
    robust: float
    clean: float

    def around(self, x: Tensor) -> InputSet:
        return self.ball(x, self.eps, self.clip)


CASCADES = {
    # table 4, "CIFAR10 Small 36/255"; table 2, "MNIST Small 0.3" and "CIFAR10 Small 8/255"
    "l2-cifar": Published("scaled_l2_cifar_small_36px", 2, "cifar10", L2Ball, 36 / 255 / DEVIATION, None, 50.13, 48.64),
    "mnist": Published("scaled_mnist_small_0_3", 3, "mnist", LinfBall, 0.3, (0.0, 1.0), 33.64, 33.64),
    "cifar": Published("scaled_cifar_small_8px", 3, "cifar10", LinfBall, 8 / 255 / DEVIATION, None, 71.71, 71.71),
}


def images(data: Path, name: str, count: int) -> tuple[Tensor, Tensor]:
    """The first test images [N, C, H, W] as the networks take them, and their labels [N]."""
    with np.load(data / name / f"{name}_test.npz") as archive:
        x, y = archive["images"][:count], archive["labels"][:count]
    pixels, labels = torch.from_numpy(x).float() / 255, torch.from_numpy(y.astype(np.int64))
    if pixels.dim() == 3:
        return pixels.unsqueeze(1), labels
    return ((pixels - torch.tensor(MEAN)) / DEVIATION).permute(0, 3, 1, 2).contiguous(), labels


def read(path: Path, x: Tensor) -> nn.Sequential:
    """The network of a file, compared with onnxruntime on the images x."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    weights = [torch.tensor(numpy_helper.to_array(t)) for t in onnx.load(str(path)).graph.initializer]
    layers = [nn.Conv2d(weights[0].shape[1], 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(weights[4].shape[1], 100), nn.ReLU(), nn.Linear(100, 10)]
    network = nn.Sequential(*layers).eval()
    for parameter, value in zip(network.parameters(), weights, strict=True):
        assert parameter.shape == value.shape
        parameter.data = value
    (wanted,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    with torch.no_grad():
        worst = float((network(x) - torch.from_numpy(wanted)).abs().max())
    if worst > 1e-4:
        raise SystemExit(f"{path.name}: torch and onnxruntime differ by {worst:.1e}")
    return network


@dataclass(frozen=True)
class StageAnswers:
    """What K stages said of N images."""

    codes: Tensor  # [K, N] int8
    predictions: Tensor  # [K, N]
    truth: Tensor  # [N]
    seconds: float

    @property
    def certified(self) -> Tensor:  # [N] bool
        return (self.codes == CERTIFIED).any(0)

    @property
    def decided_by(self) -> Tensor:  # [N]
        """The first stage that certifies, else the last."""
        last = torch.full_like(self.truth, len(self.codes) - 1)
        return torch.where(self.certified, (self.codes == CERTIFIED).int().argmax(0), last)

    @property
    def right(self) -> Tensor:  # [N] bool
        return self.predictions.gather(0, self.decided_by.unsqueeze(0))[0] == self.truth

    @property
    def robust(self) -> Tensor:  # [N] bool
        """By Algorithm 2 of the paper."""
        return self.certified & self.right

    @property
    def agreed(self) -> Tensor:  # [N] bool
        """Certified by Algorithm 4 of the thesis: all stages up to the one that certifies predict the same."""
        agree = (self.predictions == self.predictions[0]).long().cumprod(0)
        return self.certified & (agree.gather(0, self.decided_by.unsqueeze(0))[0] == 1)

    def limits(self) -> tuple[Tensor, Tensor]:  # [N] bool each
        """Whether Algorithm 2 makes an image robust for some, and for all, answers to what is open."""
        possible = torch.zeros_like(self.certified)
        always, reached = ~possible, ~possible  # until a stage certifies
        for code, prediction in zip(self.codes, self.predictions, strict=True):
            may = reached & ((code == CERTIFIED) | (code == OPEN))
            right = prediction == self.truth
            possible |= may & right
            always &= ~may | right
            reached = reached & (code != CERTIFIED)
        return possible, always & self.certified


def answers_of(stages: list[Verifier], x: Tensor, y: Tensor, cascade: Published, budget: float | None) -> StageAnswers:
    """Ask each stage about the images that no stage before it certified."""
    began, left = time.perf_counter(), torch.arange(len(x))
    codes = torch.full((len(stages), len(x)), NOT_ASKED, dtype=torch.int8)
    predictions = torch.stack([torch.cat([s.predict(p).argmax(1) for p in x.split(500)]) for s in stages])
    for stage, code, prediction in zip(stages, codes, predictions, strict=True):
        for part in left.split(250):
            ball, spec = cascade.around(x[part]), robustness(prediction[part], stage.classes)
            result = stage.run(ball, spec, example_budget=budget)
            code[part] = torch.tensor([CODES[v] for v in result.verdict], dtype=torch.int8)
        left = left[code[left] != CERTIFIED]
    return StageAnswers(codes, predictions, y, time.perf_counter() - began)


def moved(nets: list[nn.Sequential], x: Tensor, found: StageAnswers, cascade: Published) -> Tensor:
    """Points in the balls of the robust images that lower the margin of the stage that decided them; x elsewhere."""
    points = x.clone()
    for k, network in enumerate(nets):
        mine = (found.robust & (found.decided_by == k)).nonzero()[:, 0]
        if len(mine) > 0:
            ball, label = cascade.around(x[mine]), found.truth[mine]
            points[mine] = attack(network, x[mine], input_set=ball, label=label, steps=20, restarts=1).points
    return points


def show_broken(
    nets: list[nn.Sequential], duals: list[Verifier], x: Tensor, found: StageAnswers, cascade: Published
) -> None:
    """What the cascade itself answers at those points."""
    robust = found.robust.nonzero()[:, 0]
    if len(robust) == 0:
        return
    there = answers_of(duals, moved(nets, x, found, cascade)[robust], found.truth[robust], cascade, None)
    if (found.agreed[robust] & there.agreed & ~there.right).any():
        raise SystemExit("a point of a ball got another answer of Algorithm 4, which cannot be: a bound is wrong")
    wrong = [share_of(~there.right & c, len(x)) for c in (there.certified, ~there.certified)]
    print(
        f"  Algorithm 2 broken   {wrong[0]} of all images by an answer with a certificate, {wrong[1].strip()} without",
        flush=True,
    )


def share_of(which: Tensor, count: int) -> str:  # [N] bool
    return f"{100 * int(which.sum()) / count:7.2f} %"


def percent(good: Tensor) -> str:  # [N] bool
    """Share of images that are not good."""
    return share_of(~good, len(good))


def show(title: str, found: StageAnswers) -> None:
    """The stages, one by one."""
    print(f"  {title}: {found.seconds:.0f} s")
    for k, code in enumerate(found.codes):
        asked, sure = code != NOT_ASKED, code == CERTIFIED
        wrong = sure & (found.predictions[k] != found.truth)
        print(
            f"    stage {k}: {int(asked.sum())} images, certified {int(sure.sum())} ({int(wrong.sum())} wrong), "
            f"refuted {int((code == REFUTED).sum())}, open {int((code == OPEN).sum())}",
            flush=True,
        )


def table(name: str, options: argparse.Namespace) -> None:
    """Print one cascade's rows."""
    cascade = CASCADES[name]
    x, y = images(options.data, cascade.data, options.images)
    nets = [read(options.nets / f"{cascade.networks}_stage{k}.onnx", x[:20]) for k in range(cascade.stages)]
    print(f"{name}: {len(x)} images, {cascade.around(x[:1]).describe()}", flush=True)
    duals = [Verifier(n, x[:1], stages=[EveryNeuron()]) for n in nets]
    found = answers_of(duals, x, y, cascade, None)
    show("the paper's bound", found)
    print(f"  clean error          {percent(found.right)}   paper {cascade.clean:.2f} %")
    print(f"  robust, Algorithm 2  {percent(found.robust)}   paper {cascade.robust:.2f} %")
    print(f"  robust, Algorithm 4  {percent(found.agreed & found.right)}", flush=True)
    if not options.no_attack:
        show_broken(nets, duals, x, found, cascade)
    if options.ladder:
        tight = answers_of([Verifier(n, x[:1]) for n in nets], x, y, cascade, options.example_budget)
        show("the default ladder", tight)
        possible, always = tight.limits()
        print(f"  clean error          {percent(tight.right)}")
        print(
            f"  robust, Algorithm 2  {percent(tight.robust)}   at least {percent(possible)}, at most {percent(always)}"
        )
        print(f"  robust, Algorithm 4  {percent(tight.agreed & tight.right)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cascade", default="all", choices=[*CASCADES, "all"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--no-attack", action="store_true", help="leave out the attack on the cascade as a whole")
    parser.add_argument("--ladder", action="store_true", help="each stage's certificates by the default ladder as well")
    parser.add_argument("--example-budget", type=float, default=10.0, help="seconds per image and stage")
    options = parser.parse_args()
    for name in CASCADES if options.cascade == "all" else [options.cascade]:
        table(name, options)


if __name__ == "__main__":
    main()
