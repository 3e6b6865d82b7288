"""Small boxes around adversarial points, attacked boxes before the last layers, and the warm-up's regularisers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("sklearn")

from properties import Box, LinfBall, robustness
from training import IntervalTraining, SabrTraining, Standard, TapsTraining, train
from training.interval_loss import interval_pass
from training.margin_loss import margins_of
from training.method import Progress, TrainingMethod
from training.methods.interval import IntervalRun
from training.methods.taps import connected, cut_before
from training.network import NetworkInTraining
from training.schedule import Optimiser
from training.warm_up import warm_up_penalty
from verifier.demo import digits
from verifier.errors import ModelError
from verifier.graph.torch_import import import_torch

EPS, LARGE = 0.05, 0.12
EARLY, LATE = Progress(2, 0, 10, 10), Progress(9, 0, 10, 10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)
    ).double()


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[:count].double(), labels[:count]


def run_of(method: TrainingMethod, model: nn.Module, x: Tensor) -> IntervalRun:
    run = method.begin(NetworkInTraining(model, x), generator())
    assert isinstance(run, IntervalRun)
    return run


def loss_of(method: TrainingMethod, progress: Progress = LATE) -> Tensor:
    x, label = batch()
    return run_of(replace(method, initialise=False), network(), x).loss(x, label, progress).value


# --- small boxes


@pytest.mark.parametrize("threat", ["linf", "l2", "wasserstein"])
def test_the_box_holds_the_point_and_lies_in_the_sets_box(threat: str) -> None:
    x, label = batch()
    for clip in ((0.0, 1.0), None):
        if clip is None and threat == "wasserstein":
            continue
        method = SabrTraining(eps=0.2, threat=threat, share=0.3, clip=clip)
        outer = method.sets(x, 0.2).box()
        point = method.attack().perturb(network(), method.sets(x, 0.2), robustness(label, 10), generator(), x.dtype)
        lower, upper = method.small_box(x, point, 0.2).box()
        assert (lower >= outer[0] - 1e-12).all() and (upper <= outer[1] + 1e-12).all()
        assert (lower <= point + 1e-12).all() and (upper >= point - 1e-12).all()
        assert ((upper - lower) <= (outer[1] - outer[0]) + 1e-12).all()
        if threat == "linf" and clip is None:  # as in the paper: a share of the radius around the projected point
            center = torch.minimum(torch.maximum(point, x - 0.14), x + 0.14)
            torch.testing.assert_close(lower, center - 0.06)
            torch.testing.assert_close(upper, center + 0.06)


def test_at_the_whole_share_the_loss_is_that_of_interval_training() -> None:
    whole = loss_of(IntervalTraining(eps=EPS))
    torch.testing.assert_close(loss_of(SabrTraining(eps=EPS, share=1.0)), whole)
    losses = [loss_of(SabrTraining(eps=EPS, share=share)) for share in (0.1, 0.5, 1.0)]
    assert losses[0] < losses[1] < losses[2]


# --- attacked boxes


def test_attacked_margins_lie_between_intervals_and_members() -> None:
    x, label = batch()
    model = network()
    run: Any = run_of(TapsTraining(eps=EPS, initialise=False), model, x)
    ball = LinfBall(x, EPS, (0.0, 1.0))
    passed = interval_pass(run.network.graph, ball, label)
    attacked = run.attacked_margins(*passed.ranges[run.cut], label)
    assert (passed.margins <= attacked + 1e-9).all() and (passed.margins < attacked - 1e-3).any()
    box = Box(*(end.detach() for end in passed.ranges[run.cut]))
    for seed in range(5):  # no better than random points of the box by chance
        outputs = run.network.graph.forward_from(run.cut, box.sample(generator(seed)).double())
        assert (attacked <= margins_of(outputs, label) + 1e-9).all()
    corners = margins_of(model(ball.project(x + EPS * torch.randn(x.shape, dtype=x.dtype).sign())), label)
    assert (attacked < corners).double().mean() > 0.9


def test_the_connector_moves_points_with_the_ends_they_are_near() -> None:
    ends = torch.tensor([[0.0] * 5, [1.0] * 5], dtype=torch.float64, requires_grad=True)
    point = torch.tensor([0.0, 0.1, 0.5, 0.75, 1.0], dtype=torch.float64)
    made = connected(ends[0], ends[1], point, 0.5)
    torch.testing.assert_close(made, point)
    (gradient,) = torch.autograd.grad(made.sum(), ends)
    torch.testing.assert_close(gradient, torch.tensor([[1, 0.8, 0, 0, 0], [0, 0, 0, 0.5, 1]], dtype=torch.float64))
    flat = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(connected(flat[0], flat[1], torch.zeros(3), 0.25).sum(), flat)
    assert torch.equal(gradient, torch.full((2, 3), 0.5))


def test_the_gradient_weighs_the_two_factors_of_the_product() -> None:
    x, label = batch()

    def parts(weight: float) -> tuple[Tensor, Tensor]:
        model = network()
        run = run_of(TapsTraining(eps=EPS, initialise=False, weight=weight), model, x)
        value = run.loss(x, label, LATE).value
        return value, torch.autograd.grad(value, next(iter(model.parameters())))[0]

    (one, first), (same, second), (_, third) = (parts(w) for w in (1.0, 2.0, 4.0))
    torch.testing.assert_close(one, same)
    torch.testing.assert_close(third - second, 2 * (second - first))  # linear in the weight
    assert (second - first).abs().max() > 1e-3


def test_the_cut_leaves_as_many_layers_behind_as_are_asked_for() -> None:
    x, _ = batch(1)
    layers = [nn.Linear(64, 8), nn.ReLU(), *(part for _ in range(3) for part in (nn.Linear(8, 8), nn.ReLU()))]
    graph = import_torch(nn.Sequential(nn.Flatten(), *layers, nn.Linear(8, 3)).eval(), x.float())
    for count in (1, 2, 3):
        cut = cut_before(graph, count)
        assert cut in graph.activations and len([i for i in graph.activations if i > cut]) == count
    with pytest.raises(ModelError, match="no activation layer with 4 more behind it"):
        cut_before(graph, 4)


# --- the warm-up


def test_regularisers_are_those_written_out() -> None:
    """Shi et al. (2021), section 4.3, layer by layer."""
    x, label = batch()
    graph = import_torch(network().eval(), x[:1])
    passed = interval_pass(graph, LinfBall(x, 0.03), label)
    expected = 0.0
    for node in graph.pre_activations:
        lower, upper = (end.detach().numpy() for end in passed.ranges[node])
        center = (lower + upper) / 2
        spread = (center - center.mean()) ** 2
        expected += max(0, 0.7 - 0.03 / ((upper - lower) / 2).mean()) / 0.7
        for values in (center, spread):
            ratio = abs(values[lower > 0].sum()) / abs(values[upper < 0].sum())
            expected += max(0, 0.7 - min(ratio, 1 / ratio)) / 0.7
    assert expected > 0.1
    found = warm_up_penalty(graph, passed, 0.7)
    assert float(found.detach()) == pytest.approx(expected / len(graph.pre_activations))


@pytest.mark.parametrize("kind", [IntervalTraining, SabrTraining, TapsTraining], ids=lambda kind: kind.name)
def test_regularisers_count_while_the_radius_grows(kind: type[Any]) -> None:
    plain, more, most = (kind(eps=EPS, regularise=weight, tolerance=1.0) for weight in (0.0, 1.0, 2.0))
    assert torch.equal(loss_of(plain), loss_of(most))
    added = loss_of(more, EARLY) - loss_of(plain, EARLY)
    assert added > 0
    torch.testing.assert_close(loss_of(most, EARLY) - loss_of(plain, EARLY), 2 * added)


def test_layers_without_active_neurons_leave_gradients_finite() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    with torch.no_grad():
        model[1].bias.fill_(-100)
    x, label = (t[:4] for t in digits())
    graph = import_torch(model.eval(), x[:1])
    penalty = warm_up_penalty(graph, interval_pass(graph, LinfBall(x, 0.1), label), 0.5)
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    assert penalty.isfinite() and all(g is None or bool(g.isfinite().all()) for g in gradients)


# --- runs


def verified(method: TrainingMethod) -> float:
    """Accuracy verified after a short run, by dual bounds too: the losses prove nothing themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 10))
    images, labels = digits()
    history = train(
        model, (images[:700], labels[:700]), method, epochs=6, measure_every=6, validation=150,
        stages=("interval", "dual-adaptive"),
    ).history  # fmt: skip
    assert history.best is not None
    return float(history.best["verified"])


@pytest.fixture(scope="module")
def plain_verified() -> float:
    return verified(Standard(eps=LARGE, batch=30, optimiser=Optimiser(rate=1e-2)))


@pytest.mark.parametrize(
    "method",
    [
        SabrTraining(eps=LARGE, batch=30, optimiser=Optimiser(rate=1e-2)),
        TapsTraining(eps=LARGE, batch=30, optimiser=Optimiser(rate=1e-2)),
        pytest.param(
            TapsTraining(eps=LARGE, batch=30, share=0.5, optimiser=Optimiser(rate=1e-2)), marks=pytest.mark.slow
        ),
    ],
    ids=["sabr", "taps", "staps"],
)
def test_a_short_run_verifies_more_than_plain_training(method: TrainingMethod, plain_verified: float) -> None:
    found = verified(method)
    assert found > plain_verified + 0.2


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SabrTraining, {"share": 0.0}, "share must be"),
        (SabrTraining, {"attack_steps": 0}, "at least 1"),
        (TapsTraining, {"connect": 0.7}, "connect must be"),
        (TapsTraining, {"layers": 0}, "layers must be"),
        (TapsTraining, {"estimator_step": 0.0}, "step must be"),
        (IntervalTraining, {"regularise": -1.0}, "regularise must be"),
        (IntervalTraining, {"tolerance": 0.0}, "tolerance in"),
    ],
)
def test_settings_that_make_no_sense(kind: type[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(eps=EPS, **settings)


def test_the_worst_point_of_a_linear_last_layer_is_a_corner() -> None:
    """Behind the last activation the attack is exact: attacked margins are those of the box's corners."""
    torch.manual_seed(0)
    x, label = batch(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    run: Any = run_of(TapsTraining(eps=EPS, initialise=False), model.double(), x)
    lower, upper = (end.detach() for end in interval_pass(run.network.graph, LinfBall(x, EPS), label).ranges[run.cut])
    found = run.attacked_margins(lower, upper, label)
    bits = torch.tensor([[(k >> i) & 1 for i in range(8)] for k in range(256)], dtype=torch.float64)
    corners = lower.unsqueeze(1) + bits * (upper - lower).unsqueeze(1)  # [3, 256, 8]
    outputs = run.network.graph.forward_from(run.cut, corners.flatten(0, 1))
    least = margins_of(outputs, label.repeat_interleave(256)).unflatten(0, (3, 256)).amin(1)
    assert (found >= least - 0.1 * F.relu(least.abs()) - 1e-9).all()
    torch.testing.assert_close(found, least, atol=0.02, rtol=0.05)
