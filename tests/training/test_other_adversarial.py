"""TRADES, free and augmented adversarial training, norms, penalties and schedules: each against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("sklearn")

from helpers.digit_runs import generator, images, network

from properties import L2Ball, LinfBall, Perturbation, robustness
from training import (
    AdversarialTraining,
    AugmentedTraining,
    FastTraining,
    FreeTraining,
    NormTraining,
    SdpTraining,
    Standard,
    TradesTraining,
    train,
)
from training.evaluation import Measurement
from training.method import Progress, TrainingMethod, TrainingRun
from training.methods.norms import NormRun
from training.methods.trades import TradesRun, divergence
from training.network import NetworkInTraining
from training.schedule import Cyclic, Linear, MultiStep, Optimiser
from training.settings import parsed

NOW = Progress(0, 0, 1, 1)


def begun(method: TrainingMethod, model: nn.Module, x: Tensor) -> TrainingRun:
    return method.begin(NetworkInTraining(model, x), generator())


# --- TRADES


@pytest.mark.parametrize("threat", ["linf", "l2", "linf+4*l2"])
def test_trades_is_the_clean_loss_and_the_divergence_at_worse_members(threat: str) -> None:
    x, y = images(20)
    model = network()
    method = TradesTraining(eps=0.1, threat=threat, beta=3.0)
    run = begun(method, model, x)
    assert isinstance(run, TradesRun)
    points = run.points(x)
    assert bool(method.sets(x).contains(points).all()) and not points.requires_grad
    clean, moved = model(x), model(points)
    apart = F.kl_div(F.log_softmax(moved, 1), F.log_softmax(clean, 1), reduction="batchmean", log_target=True)
    chance = divergence(clean, model(method.sets(x).sample(generator()).float())).mean()
    assert apart > 3 * chance
    loss = begun(method, model, x).loss(x, y, NOW)
    torch.testing.assert_close(loss.value, F.cross_entropy(clean, y) + 3 * apart)
    torch.testing.assert_close(loss.figures["divergence"], apart.detach())


def test_trades_asks_no_label_for_its_points() -> None:
    x, y = images(10)
    runs = [begun(TradesTraining(eps=0.1, beta=1.0), network(), x).loss(x, label, NOW) for label in (y, (y + 1) % 10)]
    assert torch.equal(runs[0].figures["divergence"], runs[1].figures["divergence"])


# --- free


def test_free_training_is_algorithm_6() -> None:
    """Weights and perturbation step by step, over two batches of which the second is smaller."""
    eps, rate, replays = 0.1, 0.05, 3
    x, y = images(14)
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    model, expected = network(), network()
    run = begun(FreeTraining(eps=eps, clip=None, replays=replays, batch=8), model, x)
    optimiser = torch.optim.SGD(model.parameters(), rate)
    for step in range(2 * replays):  # of the batches in between nothing is seen
        given = batches[step // replays] if step % replays == 0 else (torch.rand_like(x[:8]), y[:8])
        optimiser.zero_grad()
        run.loss(*given, Progress(0, step, 2 * replays, 1)).value.backward()
        optimiser.step()
        with torch.no_grad():
            run.stepped(Progress(0, step, 2 * replays, 1))
    change = torch.zeros_like(x[:8])
    plain = torch.optim.SGD(expected.parameters(), rate)
    for images_, labels in batches:
        for _ in range(replays):
            moved = change[: len(images_)].clone().requires_grad_()
            plain.zero_grad()
            F.cross_entropy(expected(images_ + moved), labels).backward()
            plain.step()
            assert moved.grad is not None
            change[: len(images_)] = (moved.detach() + eps * moved.grad.sign()).clamp(-eps, eps)
    for got, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_free_perturbations_are_members() -> None:
    x, y = images(8)
    method = FreeTraining(eps=0.3, threat="l2", batch=8)
    run: Any = begun(method, network(), x)
    for step in range(3):
        run.loss(x, y, Progress(0, step, 8, 1)).value.backward()
        assert bool(method.sets(x).contains(run.point.detach()).all())
        with torch.no_grad():
            run.stepped(Progress(0, step, 8, 1))
    assert float(run.change.abs().sum()) > 0


# --- unions, clean shares, penalties


def test_augmented_training_takes_every_members_points() -> None:
    x, y = images(12)
    model = network()
    method = AugmentedTraining(eps=0.1, threat="linf+4*l2", start="center")
    spec = robustness(y, 10)
    parts = []
    for ball in (LinfBall(x, 0.1, (0.0, 1.0)), L2Ball(x, 0.4, (0.0, 1.0))):
        points = method.made().perturb(model, ball, spec)
        assert bool(ball.contains(points).all())
        parts.append(F.cross_entropy(model(points), y))
    torch.testing.assert_close(begun(method, model, x).loss(x, y, NOW).value, (parts[0] + parts[1]) / 2)
    one = [begun(kind(eps=0.1), model, x).loss(x, y, NOW).value for kind in (AugmentedTraining, AdversarialTraining)]
    assert torch.equal(*one)
    worst = begun(AdversarialTraining(eps=0.1, threat="linf+4*l2", attack="max", start="center"), model, x)
    assert worst.loss(x, y, NOW).value >= (parts[0] + parts[1]) / 2 - 1e-6


@pytest.mark.parametrize("kind", [AdversarialTraining, AugmentedTraining], ids=lambda kind: kind.name)
def test_a_share_of_the_loss_is_clean(kind: type[AdversarialTraining]) -> None:
    x, y = images(12)
    model = network()
    whole, mixed = (begun(kind(eps=0.1, clean=share), model, x).loss(x, y, NOW).value for share in (0.0, 0.25))
    torch.testing.assert_close(mixed, 0.75 * whole + 0.25 * F.cross_entropy(model(x), y))


@pytest.mark.parametrize("kind", [Standard, AdversarialTraining, FastTraining, FreeTraining, TradesTraining])
def test_penalties_are_of_weights_alone(kind: type[Any]) -> None:
    x, y = images(12)
    model = network()
    plain, penalised = (
        begun(kind(eps=0.1, **given), model, x).loss(x, y, NOW).value for given in ({}, {"l1": 0.01, "l2": 0.1})
    )
    weights = [p for name, p in model.named_parameters() if "weight" in name]
    expected = sum(0.01 * w.abs().sum() + 0.05 * w.square().sum() for w in weights)
    torch.testing.assert_close(penalised - plain, expected)


# --- norms


def test_the_penalty_is_the_sum_of_the_layers_norms() -> None:
    x, y = images(20)
    model = network()
    matrices = [p.detach().flatten(1) for p in model.parameters() if p.dim() > 1]
    for norm, order in (("frobenius", "fro"), ("spectral", 2)):
        run = begun(NormTraining(eps=0.1, norm=norm, weight=0.5), model, x)
        assert isinstance(run, NormRun)
        for _ in range(12):  # the kept vectors come nearer from step to step
            loss = run.loss(x, y, NOW).value
        outputs = model(x)
        true = outputs.gather(1, y.unsqueeze(1)).squeeze(1)
        hinge = F.relu(1 + outputs.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) - true).mean()
        expected = sum(torch.linalg.matrix_norm(m, order) for m in matrices)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, hinge + 0.5 * expected, rtol=1e-3, atol=1e-3)
        (gradient,) = torch.autograd.grad(loss - hinge, [next(p for p in model.parameters() if p.dim() > 1)])
        left, values, right = torch.linalg.svd(matrices[0], full_matrices=False)
        known = matrices[0] / matrices[0].norm() if norm == "frobenius" else left[:, :1] @ right[:1]
        assert values[0] > values[1]
        torch.testing.assert_close(gradient.flatten(1), 0.5 * known, rtol=0.05, atol=0.02)


def test_the_weight_of_the_semidefinite_bound_follows_the_radius() -> None:
    assert SdpTraining(eps=0.1).strength == pytest.approx(0.01) and SdpTraining(eps=0.3).strength == 0.03
    assert SdpTraining(eps=0.3, weight=0.05).strength == 0.05


# --- schedules


def test_schedules_of_the_thesis() -> None:
    """Wong (2020), section 4.3.2, in 200 epochs from a rate of 1."""
    piecewise, linear, cyclic = MultiStep(), Linear(), Cyclic(0.4)
    assert [piecewise.at(done, 200) for done in (0, 99.9, 100, 149.9, 150, 200)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [linear.at(done, 200) for done in (0, 100, 125, 150, 200)] == pytest.approx([1, 1, 0.55, 0.1, 0.1])
    assert [cyclic.at(done, 200) for done in (0, 40, 80, 140, 200)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_lists_within_a_schedule_can_be_typed() -> None:
    typed = parsed(Standard, ["rate=multistep:at_shares=0.25,0.5,0.9,factor=0.5"])["rate"]
    assert typed == MultiStep((0.25, 0.5, 0.9), 0.5)
    assert parsed(Standard, ["rate=linear:last=0"])["rate"] == Linear(last=0.0)
    with pytest.raises(ValueError, match="shares of the run"):
        parsed(Standard, ["rate=multistep:at_shares=100,150"])


# --- runs


def attacked(method: TrainingMethod, epochs: int = 8) -> float:
    """Accuracy under attack at 0.1 after a short run."""
    model = train(network(), images(500), method, epochs=epochs, validation=0, stages=()).model
    x, y = images(150, 1400)
    measured = Measurement(perturbation=Perturbation(0.1, "linf", (0, 1)), stages=()).of(
        NetworkInTraining(model, x), x, y
    )
    return measured.attacked


@pytest.fixture(scope="module")
def plain() -> float:
    return attacked(Standard(eps=0.1, optimiser=Optimiser(rate=5e-3)))


@pytest.mark.parametrize(
    "method",
    [
        TradesTraining(eps=0.1, steps=5, optimiser=Optimiser(rate=5e-3)),
        FreeTraining(eps=0.1, replays=2, optimiser=Optimiser(rate=5e-3)),
    ],
    ids=lambda method: method.name,
)
def test_a_short_run_stands_more_than_plain_training(method: TrainingMethod, plain: float) -> None:
    assert attacked(method) > plain + 0.15


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TradesTraining, {"beta": -1.0}, "beta must be"),
        (TradesTraining, {"steps": 0}, "steps must be"),
        (TradesTraining, {"noise": 0.0}, "noise must be"),
        (FreeTraining, {"replays": 0}, "replays must be"),
        (FreeTraining, {"step": 0.0}, "step must be"),
        (AugmentedTraining, {"smallest": 0.05}, "for smallest"),
        (AdversarialTraining, {"clean": 1.0}, "clean must be"),
        (AdversarialTraining, {"l1": -1.0}, "l1 must be"),
        (NormTraining, {"norm": "nuclear"}, "no norm is called"),
        (NormTraining, {"weight": -1.0}, "weight must be"),
    ],
)
def test_settings_that_make_no_sense(kind: type[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(eps=0.1, **settings)
