"""`train` on torch's Dataset and DataLoader: the same run as on the tensors in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from training import Standard, train, train_cascade
from verifier.errors import InputError


class Pictures(Dataset[Any]):
    """As torchvision has them: integers in memory, and a transform."""

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.x, self.y, self.transform = (x * 255).byte(), y.tolist(), transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.x[i]), self.y[i]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(*examples(), strict=True))


def examples() -> tuple[Tensor, Tensor]:  # [40, 4] of 255ths, [40]
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)).mul(255).floor() / 255
    return x, (x[:, 0] > x[:, 1]).long()


def weights(data: Any) -> Tensor:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2))
    train(net, data, Standard(eps=0.01, batch=8), epochs=2, validation=8, stages=())
    return net[0].weight.detach()


def to_float(x: Tensor) -> Tensor:
    return x.float() / 255


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(*examples()), Pictures(*examples(), to_float), DataLoader(TensorDataset(*examples()), 7),
        DataLoader(TensorDataset(*examples()), batch_size=7, shuffle=True, drop_last=True),
        DataLoader(Stream(), batch_size=7), Stream(),
    ],
    ids=["tensors", "pictures", "loader", "shuffled", "stream", "stream alone"],
)  # fmt: skip
def test_the_run_is_that_on_the_tensors(data: Any) -> None:
    assert torch.equal(weights(data), weights(examples()))


def test_random_transforms_are_refused() -> None:
    """Read once, they would be the same in every epoch."""
    with pytest.raises(InputError, match="give them as augment="):
        weights(Pictures(*examples(), lambda x: to_float(x) * torch.rand(1)))
    with pytest.raises(InputError, match="of one shape"):
        weights(Pictures(*examples(), lambda x: to_float(x)[: 2 + int(x[0]) % 2]))
    with pytest.raises(InputError, match="ToTensor"):
        weights(Pictures(*examples(), lambda x: x.numpy()))  # type: ignore[arg-type,return-value]


def test_to_choose_by_and_in_cascades() -> None:
    torch.manual_seed(0)
    data = TensorDataset(*examples())
    net = nn.Sequential(nn.Linear(4, 2))
    history = train(net, data, Standard(eps=0.01, batch=8), epochs=1, held_out=DataLoader(data, 9), stages=()).history
    assert history.best is not None and history.best["clean"] is not None
    found = train_cascade([net], data, Standard(eps=0.01, batch=8), epochs=1, validation=8)
    assert found.images[0] == 32
