"""Tensors that say they are on cuda:0, with the CPU's numbers in them, and what operators do with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from device.accounts import Account, site
from device.rules import HOST_INDICES, NO_KERNEL, named, refused, waits

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


class Desk:
    """Where everything that is asked of the device goes through: counts, and refuses."""

    def __init__(self) -> None:
        self.account = Account()
        self.numbers = torch.Generator(CUDA)  #: those of who brings no generator

    def refuse(self, error: type[Exception], why: str) -> Exception:
        """The error to raise. It is kept, too: not everybody lets an error pass."""
        self.account.mixes[site(why)] += 1
        return error(why)

    def see(self, op: torch._ops.OpOverload, args: Sequence[Any], tensors: Sequence[Tensor], goes: bool) -> None:
        """Counts an operator that the device has a part in. Its result is on the device if it `goes` there.

        Raises:
            RuntimeError: CUDA would refuse it.
        """
        here = [t for t in tensors if isinstance(t, OnDevice)]
        there = [t for t in tensors if not isinstance(t, OnDevice)]
        if why := refused(op, args, here, there):
            raise self.refuse(RuntimeError, why)
        account, name = self.account, named(op)
        if name in ("copy", "_to_copy"):
            if goes and there:
                account.up[site(name)] += 1
            elif here and not goes:
                account.down[site(name)] += 1
        elif name in HOST_INDICES and here and there:
            account.up[site(f"{name} of the host's")] += 1
        if here and waits(op, args):
            account.syncs[site(name)] += 1
        if not op.is_view and name not in NO_KERNEL:
            account.launches += 1


desk = Desk()


class OnDevice(Tensor):
    """A tensor of cuda:0. `inner` is a tensor of the CPU with the same layout, which its views share."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=CUDA,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, *args, **(kwargs or {}))

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise desk.refuse(TypeError, "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                          "tensor to host memory first.")  # fmt: skip

    __array__ = numpy

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.inner!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **kwargs})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)  # a parameter of a module
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold the numbers; they are read onto the CPU."""
        on_host = self.detach().cpu().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            on_host = torch.nn.Parameter(on_host, self.requires_grad)
        return on_host.__reduce_ex__(protocol)


def computed(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """An operator of the device, by the CPU. Results are the objects that went in, where it writes into them."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    here = {id(t.inner): t for t in tensors if isinstance(t, OnDevice)}
    device = kwargs.get("device")
    goes = bool(here) if device is None else torch.device(device).type == "cuda"
    if named(op) == "copy":
        goes = isinstance(args[0], OnDevice)
    desk.see(op, args, tensors, goes)
    if device is not None:
        kwargs = {**kwargs, "device": CPU}
    kwargs.pop("pin_memory", None)
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, OnDevice) else t, (args, kwargs))
    if torch.Tag.nondeterministic_seeded in op.tags:
        with _random(goes, next((g for g in leaves if isinstance(g, torch.Generator)), None)) as generator:
            if kwargs.get("generator") is not None:
                kwargs["generator"] = generator
            args = tuple(generator if isinstance(a, torch.Generator) else a for a in args)
            found = op(*args, **kwargs)
    else:
        found = op(*args, **kwargs)
    if not goes:
        return found
    return tree_map(lambda t: _outer(t, here) if isinstance(t, Tensor) else t, found)


def _outer(inner: Tensor, here: dict[int, OnDevice]) -> OnDevice:
    """The tensor of the device with these numbers: the object that is there, or else a new one."""
    if id(inner) not in here:
        return OnDevice(inner)
    if here[id(inner)].shape != inner.shape:
        raise NotImplementedError("a tensor of the pretended device cannot take another size in place")
    return here[id(inner)]


@contextmanager
def _random(goes: bool, given: torch.Generator | None) -> Iterator[torch.Generator]:
    """A generator of the CPU's in the state of the device's, which is in the state after it then."""
    if given is not None and (given.device.type == "cuda") != goes:
        wanted, found = ("cuda", "cpu") if goes else ("cpu", "cuda")
        raise desk.refuse(RuntimeError, f"Expected a '{wanted}' device type for generator but found '{found}'")
    lender = given if given is not None else desk.numbers if goes else torch.default_generator
    if lender.device == CPU:
        yield lender
        return
    borrower, before = torch.default_generator, torch.default_generator.get_state()
    borrower.set_state(lender.get_state())  # that of who has no argument for one: dropout
    try:
        yield borrower
        lender.set_state(borrower.get_state())
    finally:
        borrower.set_state(before)


def from_factory(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """What reaches torch's own place for CUDA's kernels: tensors that are made there, in whichever thread."""
    with torch.no_grad():
        return computed(op, *args, **kwargs)


#: torch makes these for all devices by writing into an empty tensor, which takes its size then: a wrapper cannot
_RESIZED = (
    "arange", "arange.start", "arange.start_step", "linspace", "logspace", "range", "range.step", "eye", "eye.m",
    "randperm", "randperm.generator",
)  # fmt: skip


def registered() -> list[torch.library.Library]:
    """Puts `from_factory` in the place of CUDA's kernels; for as long as what is returned is kept."""
    whole = torch.library.Library("_", "IMPL")
    whole.fallback(from_factory, "CUDA")
    core = torch.library.Library("aten", "IMPL", "CUDA")
    for name in (*_RESIZED, "copy_"):  # those of all devices would be taken
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        core.impl(name, partial(from_factory, op))
    return [whole, core]
