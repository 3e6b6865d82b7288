"""Data sets as torch has them: a Dataset, or a DataLoader, read once and in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from verifier.errors import InputError

_WANTED = "it must give pairs of an image and its label, as tensors"


def is_torch_data(data: object) -> TypeGuard[Dataset[Any] | DataLoader[Any]]:
    """Whether these are images with labels of their own."""
    return isinstance(data, Dataset | DataLoader)


def read(data: Dataset[Any] | DataLoader[Any]) -> tuple[Tensor, Tensor]:  # [N, *input], [N]
    """All images and labels, in order.

    Raises:
        InputError: a loader that shuffles or leaves examples out, items that are no pairs of tensors, or none at all.
    """
    if isinstance(data, DataLoader):
        _check_order(data)
        batches: Iterable[Any] = data
    else:
        batches = ([_pair(item)] for item in _items(data))
        batches = (_stacked(batch) for batch in batches)
    return _together(batches, _size(data))


def read_for_training(data: Dataset[Any] | DataLoader[Any]) -> tuple[Tensor, Tensor]:  # [N, *input], [N]
    """As `read`, but of a loader whose batches come in an order of its own, its dataset: training has its own order.

    Raises:
        InputError: as `read`; and examples that are others each time, as of a random transform: read once, they would
            be the same in every epoch.
    """
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        data = data.dataset
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        for i in range(min(_LOOKED_AT, _size(data) or 0)):
            (x, _), (again, _) = (_pair(data[i]) for _ in range(2))
            if x.shape == again.shape and not torch.equal(x, again) and not bool(x.isnan().any()):
                raise InputError(
                    "the dataset gives other images each time (a random transform?), and they are read once: leave "
                    "random changes out of it and give them as augment=, which draws them anew in every epoch"
                )
    return read(data)


#: examples that are asked for twice
_LOOKED_AT = 16


def _size(data: Dataset[Any] | DataLoader[Any]) -> int | None:
    """How many examples there are; None where that is not known before they are read."""
    of: Any = data.dataset if isinstance(data, DataLoader) else data
    return None if isinstance(of, IterableDataset) or not hasattr(of, "__len__") else len(of)


def _together(batches: Iterable[Any], size: int | None) -> tuple[Tensor, Tensor]:  # [N, *input], [N]
    """All batches, in memory of their size where that is known: they are never there twice."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    whole: Tensor | None = None  # [size, *input]
    count = 0
    for batch in batches:
        x, y = _pair(batch)
        labels.append(torch.as_tensor(y))
        if size is None:
            images.append(x)
            continue
        if whole is None:
            whole = x.new_empty((size, *x.shape[1:]))
        if x.shape[1:] != whole.shape[1:] or x.dtype != whole.dtype or count + len(x) > size:
            raise InputError(
                f"the data's images are not of one shape: {list(whole.shape[1:])} of {whole.dtype}, and "
                f"{list(x.shape[1:])} of {x.dtype}; or there are more than the data's length, {size}"
            )
        whole[count : count + len(x)] = x
        count += len(x)
    if not labels:
        raise InputError("the data have no examples: nothing to certify")
    try:
        return torch.cat(images) if whole is None else whole[:count], torch.cat(labels)
    except RuntimeError as error:
        raise InputError(f"the data's images or labels are not of one shape: {error}") from error


def _check_order(loader: DataLoader[Any]) -> None:
    """Raises InputError where the loader's order is not the data's, by which rows are numbered."""
    if loader.batch_size is None:
        raise InputError("the loader has no batch size (batch_sampler=, or batch_size=None): give its dataset")
    if isinstance(loader.dataset, IterableDataset):
        return
    if not isinstance(loader.sampler, SequentialSampler):
        raise InputError(
            f"the loader takes examples in an order of its own ({type(loader.sampler).__name__}), and rows are "
            "numbered by their place in the data: make it with shuffle=False, or give its dataset"
        )
    if loader.drop_last and len(loader.dataset) % loader.batch_size:  # type: ignore[arg-type]
        raise InputError("the loader leaves the last examples out: make it with drop_last=False")


def _items(data: Dataset[Any]) -> Iterable[Any]:
    if isinstance(data, IterableDataset):
        return data
    size = getattr(data, "__len__", None)
    if size is None:
        raise InputError(f"{type(data).__name__} has no length: give a dataset with __len__ and __getitem__")
    return (data[i] for i in range(size()))


def _pair(item: Any) -> tuple[Tensor, Any]:
    if not isinstance(item, Sequence) or len(item) != 2:
        kind = f"{len(item)} things" if isinstance(item, Sequence) else type(item).__name__
        raise InputError(f"the data give {kind} at a time: {_WANTED}")
    x, y = item
    if not isinstance(x, Tensor):
        raise InputError(f"the data's images are of type {type(x).__name__}: {_WANTED} (transform=ToTensor())")
    return x, y


def _stacked(batch: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
    """Pairs of a dataset as a batch."""
    try:
        return torch.stack([x for x, _ in batch]), torch.stack([torch.as_tensor(y).reshape(()) for _, y in batch])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the data's images or labels are not of one shape: {error}") from error
