"""Interval training and its mixes: the losses against what they bound, their ends, and short runs."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.differences import slope
from torch import Tensor, nn
from torch.nn import functional as F

from properties import LinfBall, robustness
from training import IntervalTraining, MixedTraining, Standard, train
from training.architectures import Residual
from training.initialisation import interval_initialisation
from training.interval_loss import interval_margins
from training.margin_loss import margins_of
from training.method import Progress, TrainingMethod, TrainingRun
from training.methods.mixed import COMBINATIONS
from training.network import NetworkInTraining
from training.schedule import Optimiser
from verifier.attacks.losses import cross_entropy
from verifier.bound_map import Bounds
from verifier.demo import digits
from verifier.errors import ModelError
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.interval import propagate

EPS = 0.05
#: a progress after the ramp
LATE = Progress(epoch=9, step=0, steps=10, epochs=10)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 4, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[:n].double(), labels[:n]


def begun(method: TrainingMethod, model: nn.Module, x: Tensor) -> TrainingRun:
    return method.begin(NetworkInTraining(model, x), torch.Generator().manual_seed(0))


# --- the loss


def test_interval_loss_bounds_the_cross_entropy_of_every_member() -> None:
    x, label = batch()
    model = network().double()
    worst = cross_entropy(interval_margins(import_torch(model.eval(), x[:1]), LinfBall(x, EPS, (0, 1)), label))
    generator = torch.Generator().manual_seed(1)
    ball = LinfBall(x, EPS, (0, 1))
    for _ in range(20):
        corner = ball.project(x + EPS * torch.randn(x.shape, generator=generator, dtype=x.dtype).sign())
        for point in (corner, ball.sample(generator)):
            assert (F.cross_entropy(model(point), label, reduction="none") <= worst + 1e-12).all()


def test_at_radius_zero_the_loss_is_the_clean_cross_entropy() -> None:
    x, label = batch()
    model = network().double()
    clean = F.cross_entropy(model(x), label)
    for method in (IntervalTraining(eps=0.0, initialise=False), MixedTraining(eps=0.0, initialise=False)):
        loss = begun(method, model, x).loss(x, label, LATE)
        torch.testing.assert_close(loss.value, clean)
    early = Progress(epoch=0, step=0, steps=10, epochs=10)
    ramped = begun(IntervalTraining(eps=EPS, initialise=False), model, x).loss(x, label, early)
    torch.testing.assert_close(ramped.value, clean)
    assert ramped.value < begun(IntervalTraining(eps=EPS, initialise=False), model, x).loss(x, label, LATE).value


def test_gradients_are_those_of_finite_differences() -> None:
    x, label = batch(3)
    model = network().double()
    parameters = list(model.parameters())
    started = begun(IntervalTraining(eps=EPS, initialise=False, kappa=0.7, l1=1e-3), model, x)
    gradients = torch.autograd.grad(started.loss(x, label, LATE).value, parameters)
    generator = torch.Generator().manual_seed(2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        difference = slope(lambda: started.loss(x, label, LATE).value, [parameter], [direction])
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-6)


def test_kappa_weighs_the_two_losses_and_l1_adds_the_weights() -> None:
    x, label = batch()
    model = network().double()

    def loss(**settings: float) -> Tensor:
        return (
            begun(IntervalTraining(**{"eps": EPS, **settings}, initialise=False), model, x).loss(x, label, LATE).value
        )

    torch.testing.assert_close(loss(kappa=0.0), F.cross_entropy(model(x), label))
    torch.testing.assert_close(loss(kappa=0.25), 0.75 * loss(kappa=0.0) + 0.25 * loss())
    weights = sum(p.abs().sum() for name, p in model.named_parameters() if "weight" in name)
    torch.testing.assert_close(loss(l1=0.1), loss() + 0.1 * weights)
    torch.testing.assert_close(loss(eps=EPS / 2, overshoot=2.0), loss())


# --- the mixes


@pytest.mark.parametrize("combination", sorted(COMBINATIONS))
def test_ends_of_each_combination_are_the_two_losses(combination: str) -> None:
    x, label = batch()
    model = network().double()

    def loss(alpha: float) -> Tensor:
        method = MixedTraining(eps=EPS, initialise=False, alpha=alpha, combination=combination, attack_steps=3)
        return begun(method, model, x).loss(x, label, LATE).value

    interval = begun(IntervalTraining(eps=EPS, initialise=False), model, x).loss(x, label, LATE).value
    spec, ball = robustness(label, 10), LinfBall(x, EPS, (0, 1))
    attack = MixedTraining(eps=EPS, attack_steps=3).attack()
    points = attack.perturb(NetworkInTraining(model, x), ball, spec, torch.Generator().manual_seed(0), torch.float64)
    adversarial = F.cross_entropy(model(points), label)
    torch.testing.assert_close(loss(1.0), interval)
    torch.testing.assert_close(loss(0.0), adversarial)
    between = [loss(a) for a in (0.0, 0.2, 0.6, 1.0)]
    assert all(a < b for a, b in itertools.pairwise(between))
    assert F.cross_entropy(model(x), label) < adversarial < interval


@pytest.mark.parametrize("combination", sorted(COMBINATIONS))
def test_combinations_of_tiny_and_huge_losses_stay_finite(combination: str) -> None:
    """In float32: an example that is safe against the attack by far, and lost by far by the intervals."""
    adversarial = torch.tensor([[500.0, 300.0], [60.0, 90.0], [-400.0, 1.0]], requires_grad=True)
    interval = torch.tensor([[400.0, 200.0], [-300.0, 20.0], [-900.0, -1.0]], requires_grad=True)
    for alpha in (0.0, 0.3, 1.0):
        loss = COMBINATIONS[combination](adversarial, interval, alpha)
        assert loss.isfinite().all() and (loss >= 0).all()
        for gradient in torch.autograd.grad(loss.sum(), (adversarial, interval), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_margins_give_the_cross_entropy() -> None:
    outputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3, 1])
    expected = F.cross_entropy(outputs, label, reduction="none")
    torch.testing.assert_close(cross_entropy(margins_of(outputs, label)), expected)


@pytest.mark.parametrize("threat", ["l2", "linf+2*l1"])
def test_any_threat_and_a_residual_network(threat: str) -> None:
    """The interval loss is that of the sets' boxes: above the loss at every point that the attack finds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), Residual(3, 4, downsample=True), nn.Flatten(), nn.Linear(16, 10))
    x, label = batch()
    for kind in (torch.float32, torch.float64):
        losses = []
        for alpha in (0.0, 0.5, 1.0):
            method = MixedTraining(eps=0.1, threat=threat, alpha=alpha, initialise=False, attack_steps=4)
            loss = begun(method, model.to(kind), x.to(kind)).loss(x.to(kind), label, LATE)
            losses.append(loss.value.detach())
            loss.value.backward()
        assert losses[0] < losses[1] < losses[2]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        model.zero_grad()


def test_the_attack_of_a_mix_starts_at_random_and_grows_with_the_radius() -> None:
    """At a step of no length it ends where it began: in the set of `attack_radius` times the ramped radius."""
    x, label = batch()
    seen: list[Tensor] = []
    for steps in (1, 3):
        method = MixedTraining(
            eps=EPS, initialise=False, attack_steps=steps, attack_step=1e-9, attack_radius=3.0, clip=None
        )
        started = begun(method, network().double(), x)
        half = Progress(27, 0, 1, 100)
        assert method.grown(half) == pytest.approx(0.5)
        started.network.model.train().register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
        started.loss(x, label, half)
        moved = (seen[-1] - x).abs()  # the last call is that of the loss
        moved = moved[moved.flatten(1).amax(1) > 1e-6]  # many steps keep the center, where that is worse
        assert len(moved) >= (len(x) if steps == 1 else 1)
        assert 0.95 * 1.5 * EPS < moved.amax() <= 1.5 * EPS * (1 + 1e-6)
        assert moved.mean() == pytest.approx(0.75 * EPS, rel=0.1)


def test_the_attack_of_a_mix_sees_eval_mode() -> None:
    x, label = batch()
    model, modes = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10)), []
    started = begun(MixedTraining(eps=EPS, attack_steps=2), model.double(), x)
    model.train().register_forward_hook(lambda module, inputs, outputs: modes.append(module.training))
    started.loss(x, label, LATE)
    assert len(modes) > 2 and modes[-1] and not any(modes[:-1]) and all(m.training for m in model.modules())


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in (
        {"warm_up": 0.7, "ramp": 0.5},
        {"l1": -1.0},
        {"overshoot": 0.0},
        {"kappa": 1.5},
        {"first_kappa": -0.1},
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            IntervalTraining(eps=EPS, **settings)
    for mixed in ({"alpha": 2.0}, {"combination": "sum"}, {"attack_radius": 0.0}, {"attack_step": 0.0}):
        with pytest.raises(ValueError, match=next(iter(mixed))):
            MixedTraining(eps=EPS, **mixed)  # type: ignore[arg-type]


def test_a_radius_may_be_written_as_a_fraction() -> None:
    assert IntervalTraining(eps="2/255").settings() == IntervalTraining(eps=2 / 255).settings()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a number, nor a fraction"):
        MixedTraining(eps="2:255")  # type: ignore[arg-type]


# --- where it starts


def test_initialisation_keeps_the_widths_of_intervals() -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(256, 256), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    x = torch.rand(4, 256)

    def growth() -> float:
        """Mean width before the last ReLU, as a multiple of that before the first."""
        graph = import_torch(model.eval(), x[:1])
        ranges = propagate(Query.of(graph, LinfBall(x, 0.1), robustness(torch.zeros(4).long(), 10)), Bounds())
        widths = [float((ranges[i][1] - ranges[i][0]).detach().mean()) for i in graph.pre_activations]
        return widths[-1] / widths[0]

    default = growth()
    interval_initialisation(model, torch.Generator().manual_seed(1))
    assert default > 100
    assert 0.5 < growth() < 2
    with pytest.raises(ModelError, match="no linear layer"):
        interval_initialisation(nn.Sequential(nn.ReLU()), torch.Generator())


# --- runs


def digits_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))


@pytest.fixture(scope="module")
def plain_verified() -> float:
    return verified(Standard(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2)))


def verified(method: TrainingMethod) -> float:
    """Accuracy verified by intervals alone, after a short run."""
    images, labels = digits()
    history = train(
        digits_model(), (images[:700], labels[:700]), method, epochs=6, measure_every=6, validation=150,
        stages=("interval",),
    ).history  # fmt: skip
    assert history.best is not None
    return float(history.best["verified"])


@pytest.mark.parametrize(
    "method",
    [
        IntervalTraining(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2)),
        MixedTraining(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2)),
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in (
                IntervalTraining(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2), first_kappa=0.0, kappa=0.5),
                MixedTraining(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2), combination="exp"),
                MixedTraining(eps=EPS, batch=30, optimiser=Optimiser(rate=1e-2), combination="cc"),
            )
        ),
    ],
    ids=lambda m: getattr(m, "combination", f"{m.name}-{getattr(m, 'kappa', '')}"),
)
def test_a_short_run_verifies_far_more_than_plain_training(method: TrainingMethod, plain_verified: float) -> None:
    assert verified(method) > plain_verified + 0.4
