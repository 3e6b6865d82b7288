"""Tensors without numbers, and numbers that are none: one message, from every function that takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verifier import attack, verify
from verifier.certification import certify
from verifier.errors import InputError, ModelError
from verifier.radius import certified_radius


def _verify(model: nn.Module, x: Tensor, eps: Any = 0.1, **options: Any) -> object:
    return verify(model, x, eps, stages=["interval"], **options)


def _attack(model: nn.Module, x: Tensor, eps: Any = 0.1, **options: Any) -> object:
    return attack(model, x, eps, **options)


def _certify(model: nn.Module, x: Tensor, eps: Any = 0.1, **options: Any) -> object:
    return certify(model, x, [0, 1], eps, stages=["interval"], progress=False, **options)


def _radius(model: nn.Module, x: Tensor, **options: Any) -> object:
    return certified_radius(model, x, **options)


FUNCTIONS: dict[str, Callable[..., object]] = {
    "verify": _verify, "attack": _attack, "certify": _certify, "radius": _radius,
}  # fmt: skip
WITH_EPS = [name for name in FUNCTIONS if name != "radius"]


@pytest.fixture
def default_device() -> Iterator[None]:
    yield
    torch.set_default_device(None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


X = torch.linspace(0, 1, 8).reshape(2, 4)
TENSORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (X.to_sparse, r"(x|images) is a sparse \(sparse_coo\) tensor.*to_dense"),
    "compressed": (X.to_sparse_csr, r"(x|images) is a sparse \(sparse_csr\) tensor"),
    "nested": (lambda: torch.nested.nested_tensor(list(X)), "(x|images) is a nested tensor"),
    "meta": (lambda: X.to("meta"), "(x|images) is on the device meta"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_without_numbers(name: str, kind: str) -> None:
    make, said = TENSORS[kind]
    with pytest.raises(InputError, match=said):
        FUNCTIONS[name](network(), make())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_models_without_numbers(name: str) -> None:
    with pytest.raises(ModelError, match=r"0\.weight is on the device meta"):
        FUNCTIONS[name](network().to("meta"), X)
    model: Any = network()
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse())
    with pytest.raises(ModelError, match=r"0\.weight is a sparse"):
        FUNCTIONS[name](model, X)


@pytest.mark.usefixtures("default_device")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_default_device_without_numbers(name: str) -> None:
    model = network()
    torch.set_default_device("meta")
    with pytest.raises(InputError, match=r'on the device meta.*set_default_device\("cpu"\)'):
        FUNCTIONS[name](model, X)


NO_RADII = (True, False, np.True_, torch.tensor(True), 1j, 10**400, torch.tensor(0.1, device="meta"))


@pytest.mark.parametrize("name", WITH_EPS)
@pytest.mark.parametrize("eps", NO_RADII, ids=lambda eps: f"{type(eps).__name__} {str(eps)[:8]}")
def test_radii_that_are_no_numbers(name: str, eps: Any) -> None:
    with pytest.raises(InputError, match="eps"):
        FUNCTIONS[name](network(), X, eps)


@pytest.mark.parametrize("name", ["verify", "attack"])
@pytest.mark.parametrize("eps", [[True, False], torch.tensor([True, False]), torch.tensor([0.1, 0.2]).to_sparse()])
def test_radii_of_examples_that_are_no_numbers(name: str, eps: Any) -> None:
    with pytest.raises(InputError):
        FUNCTIONS[name](network(), X, eps)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("clip", [(False, True), "01", 1])
def test_ranges_that_are_no_numbers(name: str, clip: Any) -> None:
    with pytest.raises(InputError, match="clip must be"):
        FUNCTIONS[name](network(), X, clip=clip)


@pytest.mark.parametrize("name", ["verify", "attack"])
@pytest.mark.parametrize("label", [torch.tensor([0, 1]).to_sparse(), torch.tensor([0, 1], device="meta")])
def test_labels_without_numbers(name: str, label: Tensor) -> None:
    with pytest.raises(InputError, match="label is"):
        FUNCTIONS[name](network(), X, label=label)


def test_a_model_on_two_devices_is_named_with_both() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[2].to("meta")
    with pytest.raises(ModelError, match=r"0\.weight is on cpu and its 2\.weight on meta.*model\.to\(device\)"):
        verify(model, torch.zeros(1, 3), 0.1, label=[0])
