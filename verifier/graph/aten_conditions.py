"""ATen operators on conditions: comparisons, logic, casts between numbers of different kinds."""

from __future__ import annotations

from typing import Any

import torch

from verifier.graph.compositions import conditions as made
from verifier.graph.emitter import Var
from verifier.graph.walker import Walker, dtype_of, name_of
from verifier.ops.handlers import Args, handles

#: whole numbers as wide as these hold what networks compute; narrower ones wrap around
_WHOLE = (torch.int32, torch.int64)


@handles("gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal", "not_equal")
def _compared(w: Walker, a: Args) -> Var:
    name = name_of(w.node.target)
    kind = {"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne"}.get(name, name)
    return made.compared(w, kind, a["self"], a["other"])


for _kind in ("and", "or", "xor"):

    def _combined(w: Walker, a: Args, kind: str = _kind) -> Var:
        _conditions_only(w)
        return made.combined(w, kind, a["self"], a["other"])

    handles(f"logical_{_kind}", f"bitwise_{_kind}", f"__{_kind}__")(_combined)


@handles("logical_not", "bitwise_not")
def _negated(w: Walker, a: Args) -> Var:
    _conditions_only(w)
    return made.negated(w, a["self"])


def _conditions_only(w: Walker) -> None:
    if any(dtype_of(n) != torch.bool for n in w.node.all_input_nodes):
        raise w.unsupported("it combines numbers, not conditions: compare them with 0 first")


@handles("to", "_to_copy", "type_as")
def _cast(w: Walker, a: Args) -> Any:
    source, target = dtype_of(w.node.all_input_nodes[0]), dtype_of(w.node)
    if target == torch.bool:
        return a["self"] if source == torch.bool else made.compared(w, "ne", a["self"], 0.0)
    if target.is_floating_point:
        w.same_precision({"dtype": target})
        return a["self"]
    if target not in _WHOLE:
        raise w.unsupported(f"it casts to {target}")
    return made.truncated(w, a["self"]) if source.is_floating_point else a["self"]


@handles("heaviside")
def _heaviside(w: Walker, a: Args) -> Var:
    if not isinstance(a["self"], Var) or isinstance(a["values"], Var):
        raise w.unsupported("what it is at zero must be constant")
    return made.heaviside(w, a["self"], a["values"])
