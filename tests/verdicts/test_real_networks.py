"""Wong & Kolter's own trained networks on the test sets they report: their numbers, attacks, patches against dense."""

from __future__ import annotations

import pytest
import torch
from helpers.real_data import images, wong_kolter_small
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import Trust, Verdict, Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.plan import PassPlan
from verifier.stages.attack import AttackStage
from verifier.stages.dual import DualStage

EPS, FIRST = 0.1, 200

#: name -> (data set, robust error in % that the paper prints for fixed slopes and 10,000 images, or None)
NETWORKS = {
    "wk_mnist": ("mnist", 5.82),
    "wk17a_mnist": ("mnist", None),
    "wk_fashion_mnist": ("fashion_mnist", 34.53),
}


def dual(model: nn.Module, x: Tensor, y: Tensor, stage: DualStage | None = None) -> tuple[Tensor, Bounds]:
    """Lower bounds [B, 9] of all margins over the unclipped ball."""
    query = Query.of(import_torch(model, x[:1]), LinfBall(x, EPS), robustness(y, 10))
    with torch.no_grad():
        report = (stage or DualStage()).plain(query, Bounds(), Budget())  # as the paper computes them
    assert report.lower is not None
    return report.lower, report.bounds


def error(lower: Tensor) -> float:
    """Robust error in per cent."""
    return 100 * float((lower.amin(1) <= 0).double().mean())


@pytest.mark.parametrize("name", list(NETWORKS))
def test_first_images(name: str) -> None:
    """The robust error of the first 200 images, and no attack on anything VERIFIED."""
    data, paper = NETWORKS[name]
    model, (x, y) = wong_kolter_small(name), images(data, FIRST)
    result = Verifier(model, x, stages=["clean", "dual"]).run(LinfBall(x, EPS), robustness(y, 10))
    verified = result.verified
    robust_error = 100 * float((~verified).double().mean())
    print(f"{name}: robust error of the first {FIRST} images {robust_error:.2f} %")
    if paper is not None:  # four standard deviations of a sample of 200
        assert abs(robust_error - paper) <= 4 * (paper * (100 - paper) / FIRST) ** 0.5
    assert 20 < int(verified.sum()) < FIRST
    attack = AttackStage(steps=20, restarts=2)
    index = verified.nonzero().squeeze(1)
    attacked = Verifier(model, x, stages=[attack]).run(LinfBall(x[index], EPS), robustness(y[index], 10))
    assert set(attacked.verdict) == {Verdict.UNKNOWN}
    margins = result.margins[index].amin(1)
    assert (margins > 0).all() and (attacked.attack_margin >= margins - 1e-4).all()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_patches_equal_full_size_backward_propagation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = NETWORKS[name]
    model, (x, y) = wong_kolter_small(name), images(data, 8)
    patches, bounds = dual(model, x, y)
    monkeypatch.setattr(PassPlan, "use_patches", lambda self, node, rows: False)
    dense, other = dual(model, x, y)
    assert ((patches - dense).abs() <= 1e-4 * dense.abs().clamp(min=1)).all()
    for node, interval in bounds.items():
        unstable = (other[node].lower < 0) & (other[node].upper > 0)
        for side in ("lower", "upper"):
            mine, theirs = getattr(interval, side)[unstable], getattr(other[node], side)[unstable]
            assert ((mine - theirs).abs() <= 1e-4 * theirs.abs().clamp(min=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wk_mnist", "wk_fashion_mnist"])
def test_the_papers_robust_error(name: str) -> None:
    """Fixed slopes over all 10,000 test images: the printed figures are 5.82 % and 34.53 %."""
    data, paper = NETWORKS[name]
    model, (x, y) = wong_kolter_small(name), images(data)
    assert len(x) == 10_000
    lower, _ = dual(model, x, y)
    robust_error = error(lower)
    print(f"{name}: robust error of 10,000 images {robust_error:.2f} %, the paper says {paper} %")
    assert paper is not None and abs(robust_error - paper) <= 0.1


def test_everything_is_decided() -> None:
    """The first 300 images of a robustly trained network: no verdict is left open, each with its own evidence."""
    network = wong_kolter_small("wk17a_mnist")
    x, y = images("mnist", 300)
    verifier = Verifier(network, x[:1])
    result = verifier.run(LinfBall(x, 0.1, (0.0, 1.0)), robustness(y, 10))
    assert Verdict.UNKNOWN not in result.verdict
    assert {"dual", "branch"} <= set(result.decided_by)
    for i, verdict in enumerate(result.verdict):
        point, certificate = result.counterexample[i], result.certificate[i]
        if verdict is Verdict.FALSIFIED:
            assert point is not None and bool(((point - x[i]).abs() <= 0.1 + 1e-6).all())
            assert int(network(point.unsqueeze(0)).argmax()) != int(y[i])
        else:
            assert certificate is not None and certificate.trust is Trust.CHECKED
            if result.decided_by[i] != "dual":  # the few that took more: every row, each from its own proof
                assert bool((certificate.recompute() > 0).all())
