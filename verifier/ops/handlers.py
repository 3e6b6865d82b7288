"""What operators of users' models become: handlers by name, of traced (ATen) and of ONNX operators.

The importers (verifier.graph.walker, verifier.graph.onnx_walker) look them up here, so that the file of an operator may
bring its own. These are no registers of parts: one operator of ours serves many of theirs, most of theirs are
compositions, and their names are not ours to list or to alias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: arguments of a traced operator by the names of its schema, defaults filled in
Args = dict[str, Any]
#: of traced operators: handler(walker, arguments); of ONNX operators: handler(walker, *inputs)
Handler = Callable[..., Any]

ATEN: dict[str, Handler] = {}
ONNX: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Registers what traced operators become: handler(w, a), with the importer w and the arguments a by their names."""
    return _into(ATEN, names)


def onnx_operator(*names: str) -> Callable[[Handler], Handler]:
    """Registers what ONNX operators become: handler(w, *inputs), inputs as `verifier.graph.onnx_walker.Operand`."""
    return _into(ONNX, names)


def _into(handlers: dict[str, Handler], names: tuple[str, ...]) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        handlers.update(dict.fromkeys(names, handler))
        return handler

    return register
