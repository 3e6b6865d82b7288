"""The papers' architectures: their sizes as printed there, and that they can be verified."""

from __future__ import annotations

import pytest
import torch

from training import architectures
from training.architectures import ARCHITECTURES, Normalise, architecture
from verifier.graph.torch_import import import_torch

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "units", "parameters"),
    [  # Wong et al. (2018), table 1; its 28,064 units of the large MNIST network cannot be had with its parameters
        ("small", architectures.MNIST, 4804, 166_406),
        ("small", CIFAR, 6244, 214_918),
        ("large", architectures.MNIST, 48_064, 1_974_762),
        ("large", CIFAR, 62_464, 2_466_858),
        ("resnet", architectures.MNIST, 82_536, 3_254_562),
        ("resnet", CIFAR, 107_496, 4_214_850),
        ("colt", CIFAR, 16_534, None),  # Balunovic & Vechev (2020), section 7 counts the 10 outputs as well
        pytest.param("cnn_7layer_bn", CIFAR, 229_888, 17_192_650, marks=pytest.mark.slow),
        ("cnn_7layer_bn:8", CIFAR, 28_736, None),
        ("two_layer:500", architectures.MNIST, 500, 784 * 500 + 500 + 5010),
        ("toy", (2,), 400, None),
    ],
)
def test_sizes_are_those_of_the_papers(name: str, shape: tuple[int, ...], units: int, parameters: int | None) -> None:
    model = architecture(name, shape, 2 if name == "toy" else 10).eval()
    graph = import_torch(model, torch.zeros(1, *shape))
    assert sum(graph.nodes[i].size for i in graph.activations) == units
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_width_and_depth() -> None:
    filters = {
        k: [m.weight.shape[0] for m in architecture(f"wide:{k}", CIFAR, 10) if hasattr(m, "weight")] for k in (1, 4)
    }
    assert filters == {1: [4, 8, 128, 10], 4: [16, 32, 512, 10]}
    convolutions = [m for m in architecture("deep:3", CIFAR, 10) if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.stride[0]) for c in convolutions] == [(8, 1), (8, 1), (8, 2), (16, 1), (16, 1), (16, 2)]


def test_batch_norm_starts_with_averages_of_nothing() -> None:
    for module in architecture("cnn_7layer_bn:4", CIFAR, 10).modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert module.training and not module.num_batches_tracked and not module.running_mean.any()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_factories_need_no_arguments(name: str) -> None:
    own = {"toy": (2,), "colt": CIFAR, "cnn_7layer_bn": CIFAR}
    x = torch.zeros(1, *own.get(name, architectures.MNIST))
    assert ARCHITECTURES[name]().eval()(x).dim() == 2


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("tiny", CIFAR, "there are: cnn_7layer_bn, colt, deep"),
        ("small:4", CIFAR, "takes no number"),
        ("wide:0", CIFAR, "an integer >= 1; got '0'"),
        ("wide:", CIFAR, "an integer >= 1"),
        ("small", (28, 28), "does not fit inputs of shape"),
        ("resnet", (5,), "does not fit inputs of shape"),
    ],
)
def test_bad_names_are_explained(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architecture(text, shape, 10)


def test_normalisation_is_part_of_the_network() -> None:
    layer = Normalise([0.5, 0.25], [0.5, 2.0])
    x = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(layer(x)[:, 1], (x[:, 1] - 0.25) / 2)
    assert len(import_torch(torch.nn.Sequential(layer, torch.nn.Flatten()).eval(), x[:1]).nodes) > 2
    with pytest.raises(ValueError, match="one std > 0"):
        Normalise([0.5], [0.0])
