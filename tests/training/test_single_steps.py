"""Training with single steps against what Wong (2020), chapter 4, claims of it: where steps end, and what starts do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn")

from properties import InputSet, L1Ball, L2Ball, LinfBall, Perturbation, Union, WassersteinBall, robustness
from training import AdversarialTraining, FastTraining, MixedTraining, Trained, TrainingMethod, train
from training.evaluation import Measurement
from training.method import Progress
from training.methods.adversarial import Attacked
from training.network import NetworkInTraining
from training.watcher import Watcher
from verifier.demo import architecture, digits

EPS = 0.3


def network() -> nn.Module:
    torch.manual_seed(0)
    return architecture()


def on_black(count: int = 40) -> tuple[Tensor, Tensor]:
    """Digits with all pixels of less than a half black, as most of MNIST's are: there the range halves the ball."""
    x, y = digits()
    return torch.where(x < 0.5, 0.0, x)[:count], y[:count]


def at_an_end(inputs: InputSet, points: Tensor) -> float:
    """The share of entries of points [B, *input] that lie at an end of their range."""
    low, high = inputs.box(torch.float32)
    return float(((points - low).abs().minimum((high - points).abs()) < 1e-6).float().mean())


@pytest.mark.parametrize("method", [FastTraining(eps=EPS), AdversarialTraining(eps=EPS, attack="fgsm-random")])
def test_a_step_of_five_quarters_leaves_pixels_between_the_ends_of_a_halved_range(method: TrainingMethod) -> None:
    """From s in [-1, 1], up by 1.25: below 1 where s < -0.25. Down: below zero, which the range cuts off, always."""
    x, y = on_black()
    run = method.begin(NetworkInTraining(network(), x), torch.Generator().manual_seed(0))
    assert isinstance(run, Attacked)
    points, _ = run.points(x, y)
    inputs = method.sets(x)
    assert bool(inputs.contains(points).all())
    black = x == 0
    assert float(black.float().mean()) > 0.5
    up = points[black] > 0
    inner = (points[black] > 1e-6) & (points[black] < EPS - 1e-6)
    assert 0.3 < float(inner[up].float().mean()) < 0.45  # 0.375 of those that went up
    assert at_an_end(inputs, points) < 0.9


def test_the_adversarial_part_of_the_mixed_loss_takes_the_same_step() -> None:
    x, y = on_black()
    method = MixedTraining(eps=EPS)
    fast = FastTraining(eps=EPS).begin(NetworkInTraining(network(), x), torch.Generator().manual_seed(0))
    assert isinstance(fast, Attacked)
    expected, _ = fast.points(x, y)
    model = NetworkInTraining(network(), x)
    points = method.attack().perturb(model, method.sets(x), robustness(y, 10), torch.Generator().manual_seed(0))
    torch.testing.assert_close(points, expected)


@pytest.mark.parametrize("kind", [LinfBall, L2Ball, L1Ball, WassersteinBall], ids=lambda kind: kind.threat)
def test_a_set_without_its_range_holds_the_set(kind: Any) -> None:
    x, _ = on_black(6)
    cut, free = kind(x, 0.5, (0.0, 1.0)), kind(x, 0.5)
    assert free.unclipped() is free and cut.unclipped().describe() == free.describe()
    both = Union([cut, LinfBall(x, 0.1, (0.0, 1.0))]).unclipped()
    assert both.describe() == Union([free, LinfBall(x, 0.1)]).describe() and both.unclipped() is both
    member = cut.inside(cut.sample(torch.Generator().manual_seed(0)), torch.float64)
    assert bool(cut.unclipped().contains(member).all())


# ---------------------------------------------------------------- starts


def points_of(start: str, step: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two batches' images, and where their steps end without a valid range: [20, *], [2, 20, *]."""
    x, y = digits()
    x, y = x[:20], y[:20]
    method = FastTraining(eps=0.1, clip=None, start=start, step=step)
    run = method.begin(NetworkInTraining(network(), x), torch.Generator().manual_seed(0))
    assert isinstance(run, Attacked)
    return x, run.points(x, y)[0] - x, run.points(x, y)[0] - x


def test_starts_by_the_thesis_names() -> None:
    """Table 4.3: from zero, and from a corner of the half cube by half a step, only -eps, 0, eps come out."""
    _, first, second = points_of("zero")
    assert torch.equal(first, second) and levels(first) <= {-0.1, 0.0, 0.1}
    _, first, second = points_of("hypercube", 0.5)
    assert not torch.equal(first, second) and levels(first) | levels(second) == {-0.1, 0.0, 0.1}
    _, first, second = points_of("uniform")
    assert torch.equal(first, points_of("random")[1]) and len(levels(first)) > 100


def test_the_previous_start_is_what_the_batch_before_has_added() -> None:
    """Half steps from zero end at half the radius; those after them, one image each with the same gradient, at all."""
    _, first, second = points_of("previous", 0.5)
    assert levels(first) <= {-0.05, 0.0, 0.05}
    assert levels(second) <= {-0.1, -0.05, 0.0, 0.05, 0.1} and float((second.abs() > 0.099).float().mean()) > 0.5


def levels(moved: Tensor) -> set[float]:
    return {round(value, 4) + 0.0 for value in moved.flatten().tolist()}


class _Stop(Watcher):
    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if (progress.epoch, progress.step) == (1, 1):
            raise KeyboardInterrupt


def test_a_resumed_run_starts_where_the_batch_before_ended(tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> Trained:
        data = tuple(t[:70] for t in digits())  # the last of the batches is smaller
        return train(
            network(), data, FastTraining(eps=0.1, start="previous", batch=30), epochs=3, validation=0, out=out,
            checkpoint_seconds=0.0, stages=(), **options,
        )  # fmt: skip

    whole = run(tmp_path / "whole").model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", watcher=_Stop())
    resumed = run(tmp_path / "parts", resume=True).model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


# ---------------------------------------------------------------- the claim
# by default: where steps from each start end (above), that a short run of `fast` beats plain training under attack
# (test_adversarial_training), and that whole runs of it learn (test_doubtful_runs)


def attacked_after(method: TrainingMethod) -> float:
    x, y = digits()
    model = train(network(), (x[:600], y[:600]), method, epochs=8, validation=0, stages=()).model
    measured = Measurement(perturbation=Perturbation(0.1, clip=(0, 1)), stages=())
    return measured.of(NetworkInTraining(model, x[:1]), x[1200:1500], y[1200:1500]).attacked


@pytest.mark.slow
def test_a_single_step_is_as_good_as_seven_and_better_than_half_a_cube() -> None:
    """Tables 4.1 and 4.3 in small: fast within five points of PGD, R+FGSM below."""
    fast = FastTraining(eps=0.1, batch=50)
    same: dict[str, Any] = {"eps": 0.1, "batch": 50, "optimiser": fast.optimiser, "rate": fast.rate}
    found = attacked_after(fast)
    assert found > attacked_after(AdversarialTraining(steps=7, step=0.5, **same)) - 0.05
    assert found > attacked_after(FastTraining(start="hypercube", step=0.5, **same)) + 0.02
