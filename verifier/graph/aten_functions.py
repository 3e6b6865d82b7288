"""ATen operators that are functions of one variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from verifier.graph.compositions import functions as made
from verifier.graph.emitter import Var
from verifier.graph.walker import Walker, constants_only
from verifier.ops.base import Operator
from verifier.ops.exponential import Celu, Exp, Log, ThresholdSoftplus
from verifier.ops.gates import GELU, Atan, Erf, GELUTanh, HardSwish, Mish, SiLU
from verifier.ops.handlers import Args, handles
from verifier.ops.jumps import Floor, Round, Sign
from verifier.ops.periodic import Cos, Sin, Tan
from verifier.ops.powers import Reciprocal, Rsqrt, Sqrt, Square


def _one(make: Callable[[], Operator]) -> Callable[[Walker, Args], Var]:
    return lambda w, a: w.emit(make(), a["self"])


for _names, _kind in (
    (("exp",), Exp), (("log",), Log), (("sqrt",), Sqrt), (("rsqrt",), Rsqrt), (("reciprocal",), Reciprocal),
    (("square",), Square), (("sin",), Sin), (("cos",), Cos), (("tan",), Tan), (("atan", "arctan"), Atan),
    (("erf", "special_erf"), Erf), (("silu",), SiLU), (("mish",), Mish), (("hardswish",), HardSwish),
    (("floor",), Floor), (("sign", "sgn"), Sign),
):  # fmt: skip
    handles(*_names)(_one(_kind))


@handles("round")
def _round(w: Walker, a: Args) -> Var:
    if a.get("decimals", 0):
        raise w.unsupported("it rounds to decimals: scale before and after instead")
    return w.emit(Round(), a["self"])


@handles("ceil")
def _ceil(w: Walker, a: Args) -> Var:
    return made.ceil(w, a["self"])


@handles("gelu")
def _gelu(w: Walker, a: Args) -> Var:
    return w.emit(GELUTanh() if a["approximate"] == "tanh" else GELU(), a["self"])


@handles("pow")
def _pow(w: Walker, a: Args) -> Var:
    exponent = a["exponent"]
    if isinstance(exponent, torch.Tensor) and exponent.numel() == 1:
        exponent = float(exponent)
    if not isinstance(a["self"], Var) or not isinstance(exponent, int | float):
        raise w.unsupported("its exponent must be one number")
    return made.power(w, a["self"], float(exponent))


@handles("softplus")
def _softplus(w: Walker, a: Args) -> Var:
    threshold = float(a["threshold"])  # beyond it torch takes x itself
    if threshold < ThresholdSoftplus.threshold:
        w.rounds(f"softplus, which is a line from {threshold:g} on")
    w.loose |= threshold != ThresholdSoftplus.threshold
    return made.softplus(w, a["self"], float(a["beta"]), ThresholdSoftplus)


@handles("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(w: Walker, a: Args) -> Var:
    return made.log_sigmoid(w, a["self"])


@handles("elu")
def _elu(w: Walker, a: Args) -> Var:
    return made.elu(w, a["self"], float(a["alpha"]), float(a["scale"]), float(a["input_scale"]))


@handles("celu")
def _celu(w: Walker, a: Args) -> Var:
    return w.emit(Celu(float(a["alpha"])), a["self"])


handles("selu")(lambda w, a: made.selu(w, a["self"]))
handles("hardsigmoid")(lambda w, a: made.hard_sigmoid(w, a["self"]))
handles("log1p")(lambda w, a: made.log1p(w, a["self"]))
handles("expm1")(lambda w, a: made.expm1(w, a["self"]))
handles("softshrink")(lambda w, a: made.soft_shrink(w, a["self"], float(a["lambd"])))


@handles("prelu", "_prelu_kernel")
def _prelu(w: Walker, a: Args) -> Any:
    constants_only(w, a, "weight")
    slopes, rank = a["weight"], len(w.shape(a["self"]))
    if slopes.dim() == 1 and rank > 1:
        slopes = slopes.reshape(-1, *(1,) * (rank - 1))
    elif slopes.dim() == rank + 1:
        slopes = slopes[0]
    return made.prelu(w, a["self"], slopes)
