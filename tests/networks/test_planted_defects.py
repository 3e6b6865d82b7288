"""The comparison of small networks itself: defects that are planted in the verifier do not get past it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pytest import MonkeyPatch
from torch import Tensor

import networks.kinds  # noqa: F401
from networks.base import NETWORKS
from networks.comparison import compared, decided
from verifier import ModelError
from verifier.graph import torch_import
from verifier.ops.base import Activation, LinearRelaxation, Nonlinear, SlopeRule
from verifier.ops.clip import Clip
from verifier.ops.gates import GELU
from verifier.ops.handlers import ATEN
from verifier.ops.product import Product
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Tanh

Plant = Callable[[MonkeyPatch], None]


def lowered(operator: type[Activation]) -> Plant:
    """Its upper lines lie lower by 5 % of their height at the upper end."""

    def plant(patch: MonkeyPatch) -> None:
        true = operator.relax

        def relax(self: Activation, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
            lines = true(self, lower, upper, slope)
            height = (lines.upper_slope * upper + lines.upper_bias).abs()
            return replace(lines, upper_bias=lines.upper_bias - 0.05 * height)

        patch.setattr(operator, "relax", relax)

    return plant


def narrowed(operator: type[Nonlinear]) -> Plant:
    """Its largest values are 5 % too small."""

    def plant(patch: MonkeyPatch) -> None:
        true = operator.range

        def within(self: Nonlinear, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            low, high = true(self, lower, upper)
            return low, high - 0.05 * high.abs()

        patch.setattr(operator, "range", within)

    return plant


def misread(traced: str, operator: type[Nonlinear]) -> Plant:
    """An importer takes one function for another."""

    def plant(patch: MonkeyPatch) -> None:
        patch.setitem(ATEN, traced, lambda w, a: w.emit(operator(), a["self"]))

    return plant


def uncompared(plant: Plant) -> Plant:
    """The same, and nobody compares the graph with the model."""

    def both(patch: MonkeyPatch) -> None:
        plant(patch)
        patch.setattr(torch_import, "compare", lambda *_: None)

    return both


def check(name: str, eps: float, stages: tuple[str, ...]) -> None:
    one = next(replace(one, eps=eps) for one in NETWORKS if one.name == name)
    compared(one, decided(one, 5.0, stages))


#: each with a network, and a radius and stages whose bounds are close enough to what is possible
DEFECTS: dict[str, tuple[Plant, str, float, tuple[str, ...]]] = {
    "tanh's line": (lowered(Tanh), "perceptron, Tanh", 0.033, ("dual",)),
    "GELU's line": (lowered(GELU), "perceptron, GELU", 0.03, ("dual",)),
    "values of products": (narrowed(Product), "gate, bilinear", 0.001, ("interval",)),
    "values of hardtanh": (narrowed(Clip), "perceptron, Hardtanh", 0.001, ("interval",)),
    "leaky ReLU read as ReLU": (uncompared(misread("leaky_relu", ReLU)), "perceptron, LeakyReLU", 0.01, ("dual",)),
}


#: of every run; the others are of the longer one
QUICK = ("tanh's line",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DEFECTS])
def test_bounds_of_a_defect_contradict_samples(monkeypatch: MonkeyPatch, name: str):
    plant, *asked = DEFECTS[name]
    check(*asked)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"^bounds .* possible"):
        check(*asked)


def test_what_is_misread_is_refused_before(monkeypatch: MonkeyPatch):
    misread("leaky_relu", ReLU)(monkeypatch)
    with pytest.raises(ModelError, match="disagrees"):
        check("perceptron, LeakyReLU", 0.01, ("dual",))
