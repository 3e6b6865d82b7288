"""Training against the semidefinite certificate: its eigenvectors, its objective, and what comes of it."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.differences import slope
from torch import Tensor, nn

from properties import LinfBall, robustness
from training import SdpTraining, Standard, train
from training.lanczos import top_eigenvectors
from training.method import Progress
from training.methods.sdp import SdpRun
from training.network import NetworkInTraining
from training.schedule import Optimiser
from training.sdp_dual import PairMatrices, certificates_from_duals, dual_value, starting_duals
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.demo import digits
from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.sdp import SdpBounds
from verifier.stages.sdp import SdpStage

FIRST = Progress(0, 0, 10, 2)


class Beside(nn.Module):
    """A convolution as hidden layer, and a linear path around it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 2), nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.leaky_relu(self.a(x - 0.25), 0.2).flatten(1)) + 0.5 * self.c(x.flatten(1))


def dense(inputs: int = 4, neurons: int = 5, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, neurons), nn.ReLU(), nn.Linear(neurons, outputs))


def built(name: str) -> tuple[nn.Module, Graph]:
    torch.manual_seed(3)
    make, shape = {"dense": (dense, (4,)), "beside": (Beside, (1, 2, 3))}[name]
    model = make().double()
    return model, import_torch(model.eval(), torch.zeros(1, *shape, dtype=torch.float64))


def pair_rows(classes: int = 3) -> Tensor:
    units = torch.eye(classes, dtype=torch.float64)
    return torch.stack([units[i] - units[j] for i, j in itertools.combinations(range(classes), 2)])


def written_out(matrices: PairMatrices) -> Tensor:  # [S, N, N]
    size = 1 + matrices.v.shape[1] + matrices.g.shape[1]
    units = torch.eye(size, dtype=matrices.v.dtype)
    return torch.stack([matrices.times(u.expand(len(matrices.v), -1)).detach() for u in units], 2)


# Lanczos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lanczos_finds_the_top(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 30, 30, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.mT
    matrix[1] -= 40 * torch.eye(30)  # all eigenvalues negative
    matrix[2] = 0
    matrix[3] = torch.diag(torch.cat([torch.full((3,), -1.0), torch.full((27,), -2.0)]))  # two of them, multiple
    matrix[4] = -torch.outer(torch.ones(30), torch.ones(30))
    start = torch.randn(5, 30, generator=generator, dtype=torch.float64)
    exact = torch.linalg.eigvalsh(matrix)[:, -1]
    used = matrix.to(dtype)

    def times(x: Tensor) -> Tensor:
        return torch.einsum("sij,sj->si", used, x)

    value, vector = top_eigenvectors(times, start.to(dtype), 30)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(value.double(), exact, atol=tolerance, rtol=0)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(5, dtype=dtype))
    quotient = (vector * times(vector)).sum(1)
    torch.testing.assert_close(quotient.double(), exact, atol=tolerance, rtol=0)
    few = top_eigenvectors(times, start.to(dtype), 6)[0].double()
    assert (few <= exact + tolerance).all() and few[0] < exact[0] - tolerance
    again = top_eigenvectors(times, vector, 2)[0].double()  # from where it ended
    torch.testing.assert_close(again, exact, atol=tolerance, rtol=0)


# the objective ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "beside"])
def test_matrices_are_those_of_the_paper(name: str) -> None:
    """Symmetric, and y^T M y / 4 is the quadratic form of eq. 5-7, by the network's Jacobian at a point."""
    _, graph = built(name)
    matrices = PairMatrices.of(graph, pair_rows())
    written = written_out(matrices)
    torch.testing.assert_close(written, written.mT)
    y = torch.randn(3, written.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matrices.form(y), torch.einsum("si,sij,sj->s", y, written, y))
    before = graph.nodes[graph.activations[0]].parents[0]
    x = torch.rand(1, *graph.input_shape, dtype=torch.float64)
    active = graph.values(x)[before].flatten() > 0
    # slopes that the activation has at x, and all inputs rising by one
    signs = torch.cat([torch.ones(1), torch.where(active, 1.0, -1.0), torch.ones(x.numel())]).double()
    moved = torch.autograd.functional.jacobian(lambda z: graph.forward(z).flatten(), x).flatten(1).sum(1)
    torch.testing.assert_close(matrices.form(signs.expand(3, -1)) / 4, pair_rows() @ moved)


@pytest.mark.parametrize("name", ["dense", "beside"])
def test_any_dual_variables_bound_both_directions(name: str) -> None:
    """Eq. 14 at arbitrary c, against all corners s, t of eq. 6, for f_i - f_j and f_j - f_i."""
    _, graph = built(name)
    generator = torch.Generator().manual_seed(1)
    for sign in (1, -1):
        matrices = PairMatrices.of(graph, sign * pair_rows())
        written = written_out(matrices)
        size, m = written.shape[1], matrices.v.shape[1]
        s = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=m)), dtype=torch.float64)
        left = torch.cat([torch.ones(len(s), 1), s], 1)
        corners = 2 * torch.einsum("kl,slj->skj", left, written[:, : m + 1, m + 1 :]).abs().sum(2).amax(1)
        for c in (torch.zeros(3, size).double(), 3 * torch.randn(3, size, generator=generator, dtype=torch.float64)):
            top, y = top_eigenvectors(
                lambda z, a=written, c=c: torch.einsum("sij,sj->si", a, z) - c * z, torch.randn_like(c), size
            )
            torch.testing.assert_close(top, torch.linalg.eigvalsh(written - torch.diag_embed(c))[:, -1])
            assert (dual_value(matrices, c, y) >= corners - 1e-9).all()
        c = starting_duals(graph, sign * pair_rows(), generator)
        y = torch.linalg.eigh(written - torch.diag_embed(c)).eigenvectors[:, :, -1]
        tight = dual_value(matrices, c, y)
        # within Grothendieck's constant of the corners, and a little for a short ascent
        assert (tight >= corners - 1e-9).all() and (tight <= 1.9 * corners).all()


def test_gradient_against_finite_differences() -> None:
    """Of eq. 15's bracket in the weights and in c, at exact eigenvectors."""
    model, graph = built("beside")
    rows = pair_rows()
    c = (0.5 * torch.rand(3, 1 + 4 + 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)) - 0.1
    c.requires_grad_()
    parameters = [*model.parameters(), c]

    def value() -> Tensor:
        matrices = PairMatrices.of(graph, rows)
        start = torch.ones_like(c) + torch.arange(c.shape[1]) / 10
        y = top_eigenvectors(lambda z: matrices.times(z) - c.detach() * z, start, c.shape[1])[1]
        assert (matrices.form(y) - (c * y.square()).sum(1) > 0.01).all()
        return dual_value(matrices, c, y).sum()

    gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = slope(value, [parameter], [direction])
        found = torch.zeros(()).double() if gradient is None else (gradient * direction).sum()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_certificates_from_duals_prove_no_less_than_the_paper() -> None:
    """At most eq. 16, at least the optimum, and the stage takes them."""
    _, graph = built("dense")
    rows, radius = pair_rows(), torch.full((1, 4), 0.1, dtype=torch.float64)
    optimum = SdpBounds(graph)
    optimum.solve(rows)
    written = written_out(PairMatrices.of(graph, rows))
    good = starting_duals(graph, rows, torch.Generator().manual_seed(0))
    for c in (good, 0.5 * good, good - 0.1, torch.zeros_like(good), torch.ones_like(good)):
        top = torch.linalg.eigvalsh(written - torch.diag_embed(c))[:, -1].clamp(min=0)
        paper = 0.1 / 4 * (c.shape[1] * top + c.clamp(min=0).sum(1))
        found = certificates_from_duals(graph, rows, c)
        reach = found.reach(rows, radius)[0]
        assert (reach <= paper * (1 + 1e-5)).all() and (reach >= optimum.reach(rows, radius)[0] * (1 - 1e-6)).all()
        torch.testing.assert_close(found.reach(-rows, radius)[0], reach)
    sdp = SdpStage()
    sdp.use(certificates_from_duals(graph, rows, good))
    x = torch.rand(6, 4, dtype=torch.float64)
    label = graph.forward(x).argmax(1)
    query = Query.of(graph, LinfBall(x, 0.1), robustness(label, 3))
    lower = sdp.run(query, Bounds(), Budget()).lower
    assert lower is not None
    corners = torch.tensor(list(itertools.product((-0.1, 0.1), repeat=4)), dtype=torch.float64)
    attacked = graph.forward((x.unsqueeze(1) + corners).flatten(0, 1)).unflatten(0, (6, 16))  # [6, 16, 3]
    margins = attacked.gather(2, label[:, None, None].expand(-1, 16, 1)) - attacked
    others = torch.tensor([[j for j in range(3) if j != i] for i in label.tolist()])
    assert (lower <= margins.amin(1).gather(1, others)).all() and lower.isfinite().all()


# the method ---------------------------------------------------------------------------------------------------------


def hidden(neurons: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, neurons), nn.ReLU(), nn.Linear(neurons, 10))


def measured(model: nn.Module, x: Tensor, label: Tensor, eps: float) -> tuple[float, float, float]:
    """Shares of images that are right, and that the solved program certifies (eq. 12); mean reach of the pairs."""
    bounds, rows = SdpBounds(import_torch(model, x[:1])), pair_rows(10)
    bounds.solve(rows)
    found = bounds.reach(rows, torch.full((1, 64), eps, dtype=torch.float64))[0]
    matrix = torch.zeros(10, 10, dtype=torch.float64)
    for reach, (i, j) in zip(found, itertools.combinations(range(10), 2), strict=True):
        matrix[i, j] = matrix[j, i] = reach
    outputs = model(x).detach().double()
    margins = outputs.gather(1, label.unsqueeze(1)) - outputs - matrix[label]
    margins = margins.scatter(1, label.unsqueeze(1), torch.inf)
    right = (outputs.argmax(1) == label).double().mean()
    return float(right), float((margins.amin(1) > 0).double().mean()), float(found.mean())


def test_training_lowers_the_bound() -> None:
    """Beside plain training of the same length: many more images are certified, with far smaller bounds."""
    x, label = digits()
    data, eps = (x[:600], label[:600]), 0.1
    settings = {"epochs": 20, "stages": (), "validation": 0}
    plain = train(hidden(), data, Standard(eps=eps, optimiser=Optimiser(rate=1e-2)), **settings)  # type: ignore[arg-type]
    method = SdpTraining(
        eps=eps, weight=0.025, reweigh=5, refresh=4, lanczos=8, optimiser=Optimiser(rate=1e-2)
    )  # fmt: skip
    robust = train(hidden(), data, method, **settings)  # type: ignore[arg-type]
    before, after = (measured(one.model, *data, eps) for one in (plain, robust))
    print("right, certified, reach:", before, after)
    assert after[0] > 0.75 and after[1] > 0.3 > 0.2 > before[1] and after[2] < 0.1 * before[2]
    last = robust.history.rows[-1]
    # the log's figures are about the present network: eq. 16 is near the optimum
    assert last["train_sdp_reach"] == pytest.approx(after[2], rel=0.1)
    assert last["train_sdp_error"] == pytest.approx(1 - after[1], abs=0.05)


def begun(model: nn.Module, method: SdpTraining, shape: tuple[int, ...] = (64,)) -> SdpRun:
    return method.begin(NetworkInTraining(model, torch.zeros(1, *shape)), torch.Generator().manual_seed(0))


def test_a_step_is_the_whole_objective_on_average() -> None:
    """Mean over the classes that may be drawn: hinge plus the weighted sum of all pairs; c of others stay put."""
    x, label = digits()
    x, label = x[:20], label[:20]
    run = begun(hidden(4), SdpTraining(eps=0.06, weight=0.3, lanczos=79), (1, 8, 8))
    run.weights = torch.rand(45, generator=torch.Generator().manual_seed(0))
    outputs = run.network(x).detach()
    true = outputs.gather(1, label.unsqueeze(1))
    rival = torch.stack([torch.cat([row[:i], row[i + 1 :]]).max() for row, i in zip(outputs, label, strict=True)])
    hinge = (1 + rival - true.squeeze(1)).clamp(min=0).mean()
    losses = {}
    while len(losses) < 10:
        loss = run.loss(x, label, FIRST).value
        gradients = torch.autograd.grad(loss, run.duals, allow_unused=True)
        drawn = [p for p, g in enumerate(gradients) if g is not None]
        (i,) = set.intersection(*(set(run.pairs[p].tolist()) for p in drawn))
        assert len(drawn) == 9
        losses[i] = loss.detach()
    expected = hinge + 0.3 * (run.weights * run.values).sum()
    torch.testing.assert_close(torch.stack(list(losses.values())).mean(), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_the_shares_of_the_worst_pairs() -> None:
    x, label = digits()
    run = begun(hidden(4), SdpTraining(eps=0.06, reweigh=2, refresh=0), (1, 8, 8))
    run.loss(x[:50], label[:50], FIRST)
    run.epoch_ended(Progress(0, 9, 10, 4))
    assert torch.equal(run.weights, torch.full((45,), 1 / 45)) and run.counts.sum() == 0
    run.loss(x[:50], label[:50], FIRST)
    outputs, expected = run.network(x[:50]).detach(), torch.ones(45)
    for row, i in zip(outputs, label[:50].tolist(), strict=True):
        at = {p: sum(pair) - i for p, pair in enumerate(run.pairs.tolist()) if i in pair}
        expected[max(at, key=lambda p: float(row[at[p]] + 0.015 * run.values[p]))] += 1
    run.epoch_ended(Progress(1, 9, 10, 4))
    torch.testing.assert_close(run.weights, expected / 95)


def test_bad_input_is_refused() -> None:
    deep = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ModelError, match="one activation layer, this one has 2"):
        begun(deep, SdpTraining(eps=0.1), (4,))
    with pytest.raises(ModelError, match="no pairs of classes"):
        begun(dense(outputs=1), SdpTraining(eps=0.1), (4,))
    for settings in ({"threat": "l2"}, {"weight": -1.0}, {"reweigh": 0}, {"refresh": -1}, {"lanczos": 0}):
        with pytest.raises(ValueError, match=next(iter(settings)) if "threat" not in settings else "l-infinity"):
            SdpTraining(eps=0.1, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        train(dense(), (torch.rand(8, 4), torch.zeros(8, dtype=torch.int64) + 5), SdpTraining(eps=0.1), epochs=1)
