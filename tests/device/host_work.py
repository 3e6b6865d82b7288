"""What is left for the host to do beside a device."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class HostWork(TorchDispatchMode):
    """Counts operators that no tensor of the device takes part in, and the multiplications in them."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.flops = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)]
        if not any(t.is_cuda for t in tensors):
            self.operators += 1
            if func._overloadpacket in flop_registry:
                self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found
