"""Adversarial training: members only, weights only, radii that grow, one step, collapse, the best epoch, resuming."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn")

from helpers.digit_runs import generator, images, network

from properties import LinfBall, Perturbation, WassersteinBall, robustness
from training import AdversarialTraining, FastTraining, Standard, Trained, train
from training.evaluation import Measurement
from training.method import METHODS, Progress, TrainingMethod, TrainingRun
from training.methods.adversarial import Attacked
from training.modes import evaluated
from training.network import NetworkInTraining
from training.schedule import Constant, Optimiser, Rate
from training.watcher import Watcher
from verifier.attacks import FGSM, PGD, AttackProblem, CrossEntropy, MarginLoss, WorstMember, make
from verifier.attacks.msd import members_of
from verifier.demo import digits

THREATS = ("linf", "l2", "l1", "wasserstein", "linf+5*l2", "linf+4*l2+20*l1")
NOW = Progress(0, 0, 1, 1)


def run_of(method: TrainingMethod, model: nn.Module, x: Tensor) -> Attacked:
    run = method.begin(NetworkInTraining(model, x), generator())
    assert isinstance(run, Attacked)
    return run


def trained(method: TrainingMethod, epochs: int, count: int = 500, **options: Any) -> Trained:
    return train(network(), images(count), method, epochs=epochs, **{"validation": 0, **options})


def attacked_accuracy(model: nn.Module, eps: float, threat: str = "linf") -> float:
    x, y = images(100, 1400)
    return (
        Measurement(perturbation=Perturbation(eps, threat, (0, 1)), stages=())
        .of(NetworkInTraining(model, x), x, y)
        .attacked
    )


# --- the points


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("method", [AdversarialTraining, FastTraining], ids=["adversarial", "fast"])
def test_points_are_members_and_worse_than_the_images(method: type[TrainingMethod], threat: str) -> None:
    x, y = images(6)
    chosen = method(eps=0.08, threat=threat)
    run = run_of(chosen, network(), x)
    points, _ = run.points(x, y)
    assert points.dtype == x.dtype and not points.requires_grad and not torch.equal(points, x)
    assert bool(chosen.sets(x).contains(points).all())
    assert loss_at(run, points, y) > loss_at(run, x, y)


def loss_at(run: TrainingRun, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(run.network(x), y))


@pytest.mark.parametrize("attack", ["pgd", "msd", "max", "fgsm", "fgsm-random"])
def test_every_attack_by_name(attack: str) -> None:
    x, y = images(8)
    method = AdversarialTraining(eps=0.1, threat="linf+3*l2", attack=attack)
    points, _ = run_of(method, network(), x).points(x, y)
    assert bool(method.sets(x).contains(points).all())


def test_attacks_are_made_as_the_settings_say() -> None:
    plain = AdversarialTraining(eps=0.1).made()
    assert isinstance(plain, PGD) and type(plain.first).name == type(plain.start).name == "random"
    assert (plain.steps, plain.restarts, plain.momentum, plain.stop) == (10, 1, 0.0, -torch.inf)
    assert isinstance(plain.loss, CrossEntropy)
    other = AdversarialTraining(eps=0.1, attack="max", steps=3, step=0.5, restarts=2, momentum=0.5, start="center")
    worst = other.made()
    assert isinstance(worst, WorstMember) and isinstance(worst.attack, PGD)
    inner = worst.attack
    assert (inner.steps, inner.step, inner.restarts, inner.momentum) == (3, 0.5, 2, 0.5)
    assert type(inner.first).name == type(inner.start).name == "center"
    single = AdversarialTraining(eps=0.1, attack="fgsm-random").made()
    assert isinstance(single, FGSM) and single.step == 1.25 and isinstance(single.loss, CrossEntropy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": "magic"}, "no attack is called"),
        ({"attack": "fgsm", "steps": 3}, "cannot be made"),
        ({"start": "nowhere"}, "no start is called"),
        ({"steps": 0}, "at least 1"),
        ({"smallest": 0.2}, "smallest"),
        ({"smallest": 0.0}, "smallest"),
        ({"smallest": 0.05, "growth": 1.0}, "growth"),
        ({"smallest": 0.05, "restarts": 2}, "without restarts"),
        ({"smallest": 0.05, "attack": "max"}, "without restarts"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialTraining(eps=0.1, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"step": 0.0}, "step"), ({"collapse": 1.0}, "collapse"), ({"start": "nowhere"}, "no start is called")],
)
def test_bad_settings_of_fast_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastTraining(eps=0.1, **settings)


def test_both_are_known_by_name() -> None:
    assert METHODS["adversarial"] is AdversarialTraining and METHODS["fast"] is FastTraining
    assert AdversarialTraining.goal == FastTraining.goal == "attacked"


# --- the loss


@pytest.mark.parametrize("method", [AdversarialTraining(eps=0.1), FastTraining(eps=0.1)], ids=lambda m: m.name)
def test_only_the_weights_get_gradients(method: TrainingMethod) -> None:
    x, y = images(20)
    model = network()
    run = run_of(method, model, x)
    before = [p.detach().clone() for p in model.parameters()]
    x.requires_grad_()
    loss = run.loss(x, y, NOW)
    assert all(p.grad is None for p in model.parameters())  # the attack leaves none behind
    loss.value.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.grad is not None)
    assert x.grad is None and all(p.grad is not None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_loss_is_the_cross_entropy_at_the_points() -> None:
    x, y = images(20)
    model = network()
    points, _ = run_of(AdversarialTraining(eps=0.1), model, x).points(x, y)
    loss = run_of(AdversarialTraining(eps=0.1), model, x).loss(x, y, NOW)
    outputs = model(points)
    torch.testing.assert_close(loss.value, nn.functional.cross_entropy(outputs, y))
    torch.testing.assert_close(loss.figures["error"], (outputs.argmax(1) != y).float().mean())


def test_the_attack_sees_eval_mode_and_leaves_batch_norm_alone() -> None:
    x, y = images(20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm1d)
    run = run_of(AdversarialTraining(eps=0.1), model.train(), x)
    run.points(x, y)
    assert int(norm.num_batches_tracked or 0) == 0 and model.training and norm.training
    run.loss(x, y, NOW)
    assert int(norm.num_batches_tracked or 0) == 1  # the pass that learns


def test_modes_come_back_one_by_one() -> None:
    model = network().train()
    model[0].eval()
    with evaluated(model):
        assert not any(module.training for module in model.modules())
    assert model.training and not model[0].training and model[1].training


def test_one_step_is_the_fast_gradient_sign_method() -> None:
    """Algorithm 7 of the thesis, written out."""
    x, y = images(10)
    eps, model = 0.1, network()
    points, _ = run_of(FastTraining(eps=eps), model, x).points(x, y)
    ball = LinfBall(x, eps, (0.0, 1.0))
    torch.testing.assert_close(points, FGSM.fast().perturb(model, ball, robustness(y, 10), generator()), rtol=0, atol=0)
    start = LinfBall(x, eps).sample(generator()).float().requires_grad_()  # the valid range comes last
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(start), y), start)
    moved = start.detach() + 1.25 * eps * gradient.sign()
    expected = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    torch.testing.assert_close(points, expected)


def test_perturb_skips_only_the_values() -> None:
    x, y = images(10)
    spec, model = robustness(y, 10), network()
    for name in ("fgsm", "fgsm-random"):
        found = make(name).run(AttackProblem(model, LinfBall(x, 0.1), spec), generator()).points
        assert torch.equal(make(name).perturb(model, LinfBall(x, 0.1), spec, generator()), found)


def test_the_first_run_starts_where_it_is_told() -> None:
    x, y = images(10)
    problem = AttackProblem(network(), LinfBall(x, 0.1), robustness(y, 10))
    center = PGD(3, 1, loss=MarginLoss()).run(problem, generator(1)).points
    assert torch.equal(center, PGD(3, 1, loss=MarginLoss()).run(problem, generator(2)).points)
    first = make("pgd", steps=3, restarts=1, first=FGSM.fast().start)
    assert not torch.equal(first.run(problem, generator(1)).points, first.run(problem, generator(2)).points)


# --- radii that grow


def test_radii_of_the_thesis() -> None:
    """0.1, growing by 1.4 every 5 of 50 steps, ends at 0.1 * 1.4^9 = 2.07."""
    radii = AdversarialTraining(eps=2.1, threat="wasserstein", smallest=0.1, growth=1.4, steps=5).radii()
    torch.testing.assert_close(radii[:10], [0.1 * 1.4**k for k in range(10)])
    assert radii[10:] == [2.1]
    assert AdversarialTraining(eps=0.1).radii() == AdversarialTraining(eps=0.1, smallest=0.1).radii() == [0.1]


def test_the_radius_grows_until_the_image_is_broken() -> None:
    """On a linear network of two classes the radius that breaks an image is |margin| / |difference of weights|_1."""
    x = torch.rand(40, 12, generator=generator(), dtype=torch.float64)
    model = nn.Linear(12, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 12, generator=generator(1), dtype=torch.float64))
        model.bias.copy_(-model(x).mean(0) + model.bias)
        margin, y = model(x).diff(dim=1).squeeze(1), model(x).argmax(1)
    needed = margin.abs() / (model.weight[1] - model.weight[0]).abs().sum()
    needed = needed.detach()
    eps = float(needed.quantile(0.8))
    method = AdversarialTraining(eps=eps, clip=None, smallest=eps / 10, growth=1.5, steps=5, step=1.0)
    points, figures = run_of(method, model, x).points(x, y)
    radii = torch.tensor(method.radii(), dtype=torch.float64)
    first = (radii >= needed.unsqueeze(1)).double().argmax(1)  # of the radii that are large enough
    reached = torch.where(needed <= eps, radii[first], eps)
    assert 0.05 * len(x) <= int((needed > eps).sum()) and len(reached.unique()) >= 4
    torch.testing.assert_close((points - x).abs().amax(1), reached)
    torch.testing.assert_close(figures["radius"], reached.mean())
    broken = model(points).argmax(1) != y
    assert torch.equal(broken, needed <= eps)


def test_the_wasserstein_radius_moves_as_in_the_thesis() -> None:
    x, y = images(6)
    model = trained(Standard(eps=0.1, optimiser=Optimiser(rate=5e-3)), 3).model
    method = AdversarialTraining(eps=0.45, threat="wasserstein", smallest=0.05, growth=3.0, steps=3)
    points, figures = run_of(method, model, x).points(x, y)
    with torch.no_grad():
        broken = model(points).argmax(1) != y
    assert bool(WassersteinBall(x, 0.45, (0.0, 1.0)).contains(points).all())
    # the smallest radius whose ball holds the point is one of those tried, and differs from image to image
    holds = torch.stack([WassersteinBall(x, r, (0.0, 1.0)).contains(points) for r in method.radii()])
    reached = torch.tensor(method.radii())[holds.double().argmax(0)]
    assert int(broken.sum()) >= 3 and len(reached[broken].unique()) >= 2
    assert 0.05 <= float(reached.mean()) <= float(figures["radius"]) + 1e-6 <= 0.45 + 1e-6


def test_a_growing_radius_on_a_union_by_multi_steepest_descent() -> None:
    x, y = images(10)
    method = AdversarialTraining(eps=0.1, threat="linf+4*l2", attack="msd", smallest=0.02, growth=2.0, steps=3)
    assert len(members_of(method.sets(x))) == 2
    points, _ = run_of(method, network(), x).points(x, y)
    assert bool(method.sets(x).contains(points).all())


# --- whole runs

QUICK = {"optimiser": Optimiser(rate=5e-3), "eps": 0.1}


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return trained(Standard(**QUICK), 8, 400).model


@pytest.mark.parametrize(
    "method",
    [
        AdversarialTraining(steps=3, step=0.6, **QUICK),
        pytest.param(
            AdversarialTraining(attack="msd", threat="linf+4*l2", steps=2, step=0.8, **QUICK), marks=pytest.mark.slow
        ),
        FastTraining(**{**QUICK, "batch": 50}),
    ],
    ids=["pgd", "msd", "fast"],
)
def test_training_beats_plain_training_under_attack(method: TrainingMethod, plain: nn.Module) -> None:
    model, history = trained(method, 8, 400)
    assert not history.stopped and not model.training
    errors = history.column("train_error")
    assert errors[-1] < errors[0]
    threat = method.threat
    assert attacked_accuracy(model, 0.1, threat) > attacked_accuracy(plain, 0.1, threat) + 0.1


#: a radius at which the sets of two classes of digits overlap, so that only points of a single step can be told apart
COLLAPSING = FastTraining(
    eps=0.3, step=2.0, start="center", clip=None, rate=Constant(), optimiser=Optimiser(rate=3e-3), batch=50
)


def collapsing(method: FastTraining, **options: Any) -> Trained:
    """Threes and eights; a step of twice the radius from the center always ends in a corner."""
    x, y = digits()
    chosen = ((y == 3) | (y == 8)).nonzero().squeeze(1)[:200]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)
    )
    data = x[chosen], (y[chosen] == 8).long()
    return train(model, data, method, **{"epochs": 40, "validation": 0, **options})


@pytest.fixture(scope="module")
def collapsed() -> Trained:
    return collapsing(COLLAPSING)


def test_catastrophic_overfitting_is_seen_and_undone(collapsed: Trained) -> None:
    model, history = collapsed
    assert "catastrophic overfitting" in history.stopped and 5 < len(history.rows) < 40
    # it is no divergence: on the points that it learns at, the network had become better
    errors = history.column("train_error")
    assert errors[-1] < errors[2]
    # the weights are those of the epoch that the message names, also where nothing was held out
    best = int(history.stopped.split("in epoch ")[2].split(",")[0])
    assert best < len(history.rows)
    until = collapsing(COLLAPSING, epochs=best).model
    for name, value in until.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    # without the watch the run goes on, to a network that PGD breaks
    blind = collapsing(replace(COLLAPSING, collapse=0.0), epochs=len(history.rows))
    assert not blind.history.stopped
    x, y = digits()
    chosen = ((y == 3) | (y == 8)).nonzero().squeeze(1)[:200]
    data = x[chosen], (y[chosen] == 8).long()
    kept, lost = (
        Measurement(perturbation=Perturbation(0.3), stages=(), attack=PGD(5, 1, 0.5, CrossEntropy())).of(
            NetworkInTraining(m, x[:1]), *data
        )
        for m in (model, blind.model)
    )
    assert lost.attacked < 0.5 * kept.attacked


class _Stop(Exception):
    """Kills a run."""


class _Stopper(Watcher):
    """Raises after a step."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = epoch, step

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if (progress.epoch, progress.step) == self.at:
            raise _Stop


def _rows(run: Trained) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows]


def test_a_resumed_run_remembers_what_it_watches(collapsed: Trained, tmp_path: Path) -> None:
    with pytest.raises(_Stop):
        collapsing(COLLAPSING, out=tmp_path, checkpoint_seconds=0.0, watcher=_Stopper(5, 2))
    resumed = collapsing(COLLAPSING, out=tmp_path, resume=True)
    assert resumed.history.stopped == collapsed.history.stopped and _rows(resumed) == _rows(collapsed)


@dataclass(frozen=True)
class _Late(Rate):
    """A rate that ruins the network from the fifth epoch on."""

    def at(self, done: float, epochs: int) -> float:
        return 1.0 if done < 4 else 300.0


def test_the_best_epoch_by_attacked_accuracy_is_returned() -> None:
    method, held = AdversarialTraining(rate=_Late(), steps=2, step=0.6, **QUICK), images(60, 1000)
    model, history = trained(method, 6, 200, held_out=held, stages=())
    best, last = history.best, history.rows[-1]
    assert best is not None and best["epoch"] <= 4 and last["attacked"] < best["attacked"]
    assert best["attacked"] == max(history.column("attacked"))
    measured = Measurement(perturbation=Perturbation(0.1, clip=(0, 1)), stages=()).of(
        NetworkInTraining(model, held[0]), *held
    )
    assert (measured.attacked, measured.clean) == (best["attacked"], best["clean"])
    patient = trained(method, 50, 200, held_out=held, stages=(), patience=2).history
    assert patient.stopped.startswith("no better attacked accuracy") and len(patient.rows) < 10
    assert patient.best == {**best, "seconds": patient.best["seconds"]} if patient.best else False
