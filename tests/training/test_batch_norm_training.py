"""Networks that are another function in training: batch norm with the clean batch's statistics, computed weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from helpers.differences import slope
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from properties import LinfBall, robustness
from training import DualTraining, IntervalTraining, LayerwiseAdversarial, MixedTraining, SdpTraining, Standard, train
from training.architectures import cnn_7layer_bn
from training.batch_norm import batch_norms, batch_sizes
from training.evaluation import Measurement
from training.initialisation import interval_initialisation
from training.interval_loss import interval_margins
from training.method import Progress, TrainingMethod
from training.network import NetworkInTraining
from training.schedule import Optimiser
from verifier import verify
from verifier.attacks import FGSM
from verifier.bound_map import Bounds
from verifier.errors import InputError, ModelError
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.interval import propagate

EPS = 0.05
LATE = Progress(epoch=9, step=0, steps=10, epochs=10)


class Twice(nn.Module):
    """A block that is called twice: its batch norm has statistics of either call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(1, 3, 3, padding=1), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
        self.again, self.last = nn.Conv2d(3, 3, 4, stride=2, padding=1), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:  # [B, 1, 8, 8] -> [B, 4]
        return self.last(self.block(self.again(self.block(self.first(x)))).flatten(1))


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 4, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip


def network(made: Callable[[], nn.Module] = plain) -> nn.Module:
    """In train mode, in float64, with averages and factors that are not those of the start."""
    torch.manual_seed(0)
    model = made().double()
    for norm in batch_norms(model):
        nn.init.normal_(norm.weight, std=0.7)
        nn.init.normal_(norm.bias, std=0.3)
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.train()


def batch(count: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64), torch.arange(count) % 4


def averages(model: nn.Module) -> list[Tensor]:
    return [b.clone() for norm in batch_norms(model) for b in norm.buffers()]


def after_clean_pass(model: nn.Module, x: Tensor) -> list[Tensor]:
    other = copy.deepcopy(model)
    other(x)
    return averages(other)


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("made", [plain, Twice])
def test_in_a_step_everything_is_one_function(made: Callable[[], nn.Module]) -> None:
    """The clean batch's own outputs, those of members, the graph's, and the bounds that hold all of them."""
    model, (x, label) = network(made), batch()
    other = copy.deepcopy(model)
    expected, moved = copy.deepcopy(model)(x), after_clean_pass(model, x)
    trained = NetworkInTraining(model, x)
    ball, generator = LinfBall(x, EPS), torch.Generator().manual_seed(2)
    with trained.on_batch(x):
        torch.testing.assert_close(trained(x), expected)
        torch.testing.assert_close(trained.graph.forward(x), expected)
        query = Query.of(trained.graph, ball, robustness(label, 4))
        lower, upper = propagate(query, Bounds())[trained.graph.output]
        for _ in range(20):
            member = ball.project(x + EPS * torch.randn(x.shape, generator=generator, dtype=x.dtype).sign())
            outputs = trained(member)
            torch.testing.assert_close(outputs, trained.graph.forward(member))
            assert (lower <= outputs + 1e-12).all() and (outputs <= upper + 1e-12).all()
        assert not torch.allclose(outputs, other(member)), "the members' own statistics were used"
    assert equal(averages(model), moved)
    torch.testing.assert_close(trained.graph.forward(x), model.eval()(x))
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize(
    "method",
    [
        IntervalTraining(eps=EPS), IntervalTraining(eps=EPS, kappa=0.5, l1=1e-4), MixedTraining(eps=EPS),
        MixedTraining(eps=EPS, attack_steps=3), DualTraining(eps=EPS), DualTraining(eps=EPS, projections=None),
        LayerwiseAdversarial(eps=EPS), LayerwiseAdversarial(eps=EPS, projections=4),
    ],
    ids=lambda m: m.name,
)  # fmt: skip
@pytest.mark.parametrize("epoch", [0, 9])
def test_averages_move_once_in_a_step_and_by_the_clean_batch(method: TrainingMethod, epoch: int) -> None:
    model, (x, label) = network(), batch()
    run = method.begin(NetworkInTraining(model, x), torch.Generator().manual_seed(0))
    before, moved = averages(model), after_clean_pass(model, x)
    run.loss(x, label, Progress(epoch, 0, 1, 10)).value.backward()
    # layerwise training ends with one layer to train: what leads to it is frozen, with its averages
    assert equal(averages(model), before if (method.name, epoch) == ("layerwise", 9) else moved)
    assert all(m.training for m in model.modules())


def test_semidefinite_training_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))
    x, label = batch()
    run = SdpTraining(eps=EPS).begin(NetworkInTraining(model.double(), x), torch.Generator().manual_seed(0))
    moved = after_clean_pass(model, x)
    run.loss(x, label, LATE).value.backward()
    assert equal(averages(model), moved)


@pytest.mark.parametrize("made", [plain, Twice])
def test_gradients_flow_through_the_statistics(made: Callable[[], nn.Module]) -> None:
    """They are those of finite differences; and weights before a layer of batch norm have no scale that matters."""
    model, (x, label) = network(made), batch()
    run = IntervalTraining(eps=EPS, initialise=False).begin(NetworkInTraining(model, x), torch.Generator())
    weights = [p for p in model.parameters() if p.dim() > 1]
    gradients = torch.autograd.grad(run.loss(x, label, LATE).value, weights)
    generator = torch.Generator().manual_seed(2)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        found = slope(lambda: run.loss(x, label, LATE).value, [weight], [direction])
        torch.testing.assert_close((gradient * direction).sum(), found, rtol=1e-4, atol=1e-7)
    along = float((gradients[0] * weights[0]).sum().abs().detach())  # of a longer first convolution
    assert along < 1e-3 * float((gradients[0].norm() * weights[0].norm()).detach())


def test_attacked_points_are_learnt_with_the_clean_statistics() -> None:
    model, (x, label) = network(), batch()
    method = MixedTraining(eps=EPS, alpha=0.0, initialise=False)
    run = method.begin(NetworkInTraining(model, x), torch.Generator().manual_seed(0))
    attacked, other = copy.deepcopy(model), NetworkInTraining(copy.deepcopy(model), x)
    attacked(x)  # the attack sees the averages after the clean pass
    ball, spec = method.sets(x), robustness(label, 4)
    attack, generator = FGSM.fast(1.25), torch.Generator().manual_seed(0)
    found = attack.perturb(lambda z: attacked.eval()(z), ball, spec, generator, torch.float64)
    with other.on_batch(x):
        expected = F.cross_entropy(other.graph.forward(found), label)
    torch.testing.assert_close(run.loss(x, label, LATE).value, expected)


def test_calls_that_cannot_be_told_apart_are_refused() -> None:
    class Rarely(nn.Module):
        """Calls its batch norm once more in training."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x.flatten(1))
            return self.last(self.norm(y) if self.training else y)

    model, (x, _) = network(Rarely), batch()
    trained = NetworkInTraining(model, x)
    with pytest.raises(ModelError, match="called more often in training"), trained.on_batch(x):
        _ = trained.graph
    assert not any("forward" in vars(m) for m in model.modules())


def test_networks_without_such_layers_are_not_called_for_it() -> None:
    x, _ = batch()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    trained = NetworkInTraining(model, x)
    model.register_forward_hook(lambda *_: pytest.fail("it was called"))
    with trained.on_batch(x):
        assert trained.graph.nodes[-1].op.weight is model[1].weight  # type: ignore[union-attr]


def test_the_last_image_of_an_epoch_joins_the_step_before() -> None:
    assert batch_sizes(9, 4, 1) == [4, 4, 1] and batch_sizes(9, 4, 2) == [4, 5]
    assert batch_sizes(8, 4, 2) == [4, 4] and batch_sizes(3, 4, 2) == [3] and batch_sizes(10, 4, 2) == [4, 4, 2]
    x, label = batch(5)
    for count, size in ((5, 1), (1, 4)):
        with pytest.raises(InputError, match="batch norm takes its statistics from the images of a step"):
            train(network(), (x[:count], label[:count]), Standard(eps=EPS, batch=size), epochs=1, validation=0)


# --- weights and constants that are computed


@pytest.mark.parametrize("normed", [weight_norm, spectral_norm, nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("method", [IntervalTraining(eps=EPS), DualTraining(eps=EPS), LayerwiseAdversarial(eps=EPS)])
def test_bounds_follow_weights_that_are_computed(
    normed: Callable[[nn.Module], nn.Module], method: TrainingMethod
) -> None:
    """After a few steps the graph is that of a fresh import, and the layers' parameters have moved."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its older interface
        layer = normed(nn.Linear(64, 8))
    model, (x, label) = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(8, 4)).double(), batch()
    trained = NetworkInTraining(model, x)
    run = method.begin(trained, torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(run.parameters(Progress(0, 0, 1, 10)), lr=0.1)
    before = [p.clone() for p in layer.parameters()]
    for _ in range(3):
        optimiser.zero_grad()
        run.loss(x, label, Progress(0, 0, 1, 10)).value.backward()
        optimiser.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    model.eval()
    fresh = import_torch(model, x[:1])
    for graph in (trained.graph, trained.measured()):
        torch.testing.assert_close(graph.forward(x), fresh.forward(x))
        torch.testing.assert_close(
            interval_margins(graph, LinfBall(x, EPS), label), interval_margins(fresh, LinfBall(x, EPS), label)
        )


def test_initialisation_reaches_weights_that_are_computed() -> None:
    expected, modern = nn.Linear(6, 5), weight_norm(nn.Linear(6, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        older = nn.utils.weight_norm(nn.Linear(6, 5))
    for layer in (expected, modern, older):
        interval_initialisation(layer, torch.Generator().manual_seed(0))
        layer(torch.zeros(1, 6))  # the older one computes its weight here
        torch.testing.assert_close(layer.weight, expected.weight)


@pytest.mark.parametrize("in_place", [True, False])
def test_constants_from_buffers_that_move_are_followed(in_place: bool) -> None:
    class Centred(nn.Module):
        """Takes off a running mean of its own making."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(64, dtype=torch.float64))
            self.last = nn.Linear(64, 4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            if self.training:
                step = 0.5 * (x.detach().mean(0) - self.mean)
                self.mean = self.mean.add_(step) if in_place else self.mean + step
            return self.last(x - self.mean / 2)

    model, (x, _) = Centred(), batch()
    trained = NetworkInTraining(model, x)
    for _ in range(2):
        model.train()(x)
        torch.testing.assert_close(trained.measured().forward(x), model.eval()(x))


# --- runs


def test_measurements_trace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import in the middle of a run would be done under flags that the measurement has set."""
    model, (x, label) = network(), batch()
    trained = NetworkInTraining(model, x)
    monkeypatch.setattr(torch.export, "export", lambda *_: pytest.fail("it was traced again"))
    before = averages(model)
    accuracy = Measurement(perturbation=IntervalTraining(eps=EPS).perturbation).of(trained, x, label)
    assert 0 <= accuracy.verified <= accuracy.attacked <= accuracy.clean <= 1
    assert equal(averages(model), before) and model.training


def columns(channels: int) -> tuple[Tensor, Tensor]:
    """Images [80, channels, 8, 8] with two bright columns of eight, and which of four labels [80] they show."""
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(4, (80,), generator=generator)
    bright = F.one_hot(label, 4).float().repeat(1, 16).view(80, 1, 8, 8)
    return 0.2 * torch.rand(80, channels, 8, 8, generator=generator) + 0.6 * bright, label


@pytest.mark.parametrize("matmul", ["medium", "highest"])
def test_a_run_under_the_users_flags_learns_and_what_it_measures_is_what_is_verified(matmul: str) -> None:
    x, label = columns(1)
    torch.manual_seed(0)
    try:
        torch.set_float32_matmul_precision(matmul)
        method = IntervalTraining(eps=EPS, batch=16, optimiser=Optimiser(rate=0.02))
        model, history = train(plain(), (x[:60], label[:60]), method, epochs=4, held_out=(x[60:], label[60:]))
    finally:
        torch.set_float32_matmul_precision("highest")
    best = history.best
    assert best is not None and all(math.isfinite(row["loss"]) for row in history.rows) and best["verified"] > 0.5
    assert not any(m.training for m in model.modules())
    result = verify(model, x[60:], eps=EPS, label=label[60:], clip=(0, 1), stages=["interval", "dual"])
    assert result.summary()["verified"] / 20 == pytest.approx(best["verified"])
    assert int(batch_norms(model)[0].num_batches_tracked) == 4 * best["epoch"]


def test_the_architecture_of_the_literature_trains_and_its_proofs_check() -> None:
    x, label = columns(3)
    torch.manual_seed(0)
    model, history = train(
        cnn_7layer_bn((3, 8, 8), 4, width=2), (x[:64], label[:64]), MixedTraining(eps=0.02, batch=16, alpha=0.3),
        epochs=5, held_out=(x[64:], label[64:]), measure_every=5,
    )  # fmt: skip
    result = verify(model, x[64:70], eps=0.02, label=label[64:70], clip=(0, 1), stages=["interval", "dual"])
    proved = [c for c in result.certificate if c is not None]
    assert proved and len(proved) == result.summary()["verified"], history.rows
    assert all(c.check().valid for c in proved[:2])
