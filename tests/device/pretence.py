"""Inside, torch has one CUDA device, on which numbers are the CPU's."""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from device.building import Missing, built, torch_folder


def load() -> None:
    """Loads torch with the hooks in place.

    Raises:
        Missing: they cannot be built, or torch was there first.
    """
    if "torch" in sys.modules:
        raise Missing("torch was imported before this plugin: give it first, with -p device.plugin")
    library = built()
    folder = torch_folder() / "lib"
    for path in (folder / "libc10.so", folder / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    import torch
    import torch._dynamo
    import torch.export._trace  # they look for parts of CUDA as they are loaded, and find that there are none

    torch.cuda._lazy_init = lambda: None
    from device import tensors

    _kept.extend(tensors.registered())


_kept: list[Any] = []


@contextmanager
def pretended() -> Iterator[Any]:
    """One CUDA device is there inside. Gives the account of what is asked of it.

    Raises:
        AssertionError: on leaving, where something mixed devices and whoever asked for it swallowed the error.
    """
    import torch

    from device import tensors
    from device.accounts import Account

    desk = tensors.desk
    before, desk.account = desk.account, Account()
    account = desk.account
    lifts, swaps = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    undo = [_replaced(owner, name, value) for owner, name, value in _replacements(desk)]
    try:
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the object that it is
        with torch.autograd.set_multithreading_enabled(False):  # a backward pass is seen to come from its line
            yield account
        assert not account.mixes, f"an error of mixed devices was swallowed:\n{account.told()}"
    finally:
        for one in reversed(undo):
            one()
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        desk.account = before


def _replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def _replacements(desk: Any) -> Iterator[tuple[Any, str, Any]]:
    """What torch asks its CUDA part for in Python."""
    import torch

    from device.accounts import site

    def waits(*_: Any) -> None:
        desk.account.syncs[site("synchronize")] += 1

    def seeded(seed: int) -> None:
        desk.numbers.manual_seed(seed)

    memory = 8 << 30
    properties = SimpleNamespace(name="pretended", total_memory=memory, major=8, minor=0, multi_processor_count=1)
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (8, 0),
        "synchronize": waits,
        "manual_seed": seeded,
        "manual_seed_all": seeded,
        "get_rng_state": lambda device="cuda": desk.numbers.get_state(),
        "set_rng_state": lambda state, device="cuda": desk.numbers.set_state(state) and None,
        "mem_get_info": lambda device=None: (memory, memory),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
    }.items():
        yield torch.cuda, name, value
    yield torch.Tensor, "pin_memory", lambda tensor, device=None: tensor
    yield torch.export, "export", _on_the_cpu(torch.export.export)


def _on_the_cpu(export: Callable[..., Any]) -> Callable[..., Any]:
    """torch.export of a model on the device: traced on the CPU, with what the trace names on the device after."""
    import torch
    from torch import nn

    from device.tensors import CUDA, OnDevice, desk

    def bare(one: Any) -> Any:
        return one.inner.clone() if isinstance(one, OnDevice) else one

    def exported(model: nn.Module, args: tuple[Any, ...], *others: Any, **kwargs: Any) -> Any:
        tensors = [*model.parameters(), *model.buffers()]
        places = {t.device.type for t in [*tensors, *args] if isinstance(t, torch.Tensor)}
        if len(places) > 1:
            found = f"a model on {tensors[0].device}, an example on {args[0].device}" if tensors else "examples on both"
            raise desk.refuse(RuntimeError, f"Expected all tensors to be on the same device, but found {found}")
        if "cuda" not in places:
            return export(model, args, *others, **kwargs)
        memo = {
            id(t): nn.Parameter(bare(t), t.requires_grad) if isinstance(t, nn.Parameter) else bare(t) for t in tensors
        }
        program = export(copy.deepcopy(model, memo), tuple(map(bare, args)), *others, **kwargs)
        for node in program.graph.nodes:
            if node.kwargs.get("device") == torch.device("cpu"):
                node.kwargs = {**node.kwargs, "device": CUDA}
        return program

    return exported
