"""ONNX operators that are functions of one variable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier.graph.compositions import functions as made
from verifier.graph.emitter import Var
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.base import Operator
from verifier.ops.exponential import Celu, Exp, Log
from verifier.ops.gates import GELU, Atan, Erf, GELUTanh, HardSwish, Mish, Softsign
from verifier.ops.handlers import onnx_operator
from verifier.ops.jumps import Floor, Round, Sign
from verifier.ops.periodic import Cos, Sin, Tan
from verifier.ops.powers import Reciprocal, Sqrt


def unary(w: OnnxWalker, x: Operand, function: Callable[[Var], Var]) -> OnnxValue:
    """function of the node, which leaves its shape."""
    x = w.dependent(x)
    return OnnxValue(function(x.var), x.shape)


def _one(make: Callable[[], Operator]) -> Callable[..., OnnxValue]:
    def handler(w: OnnxWalker, x: Operand) -> OnnxValue:
        return unary(w, x, lambda v: w.emit(make(), v))

    return handler


for _name, _kind in (
    ("Exp", Exp), ("Log", Log), ("Sqrt", Sqrt), ("Reciprocal", Reciprocal), ("Sin", Sin), ("Cos", Cos), ("Tan", Tan),
    ("Atan", Atan), ("Erf", Erf), ("Mish", Mish), ("HardSwish", HardSwish), ("Softsign", Softsign),
    ("Floor", Floor), ("Round", Round), ("Sign", Sign),
):  # fmt: skip
    onnx_operator(_name)(_one(_kind))


@onnx_operator("Ceil")
def _ceil(w: OnnxWalker, x: Operand) -> OnnxValue:
    return unary(w, x, lambda v: made.ceil(w, v))


@onnx_operator("Gelu")
def _gelu(w: OnnxWalker, x: Operand) -> OnnxValue:
    kind = GELUTanh if w.attribute("approximate", "none") == "tanh" else GELU
    return unary(w, x, lambda v: w.emit(kind(), v))


@onnx_operator("Elu")
def _elu(w: OnnxWalker, x: Operand) -> OnnxValue:
    return unary(w, x, lambda v: made.elu(w, v, w.attribute("alpha", 1.0)))


@onnx_operator("Celu")
def _celu(w: OnnxWalker, x: Operand) -> OnnxValue:
    return unary(w, x, lambda v: w.emit(Celu(w.attribute("alpha", 1.0)), v))


@onnx_operator("Selu")
def _selu(w: OnnxWalker, x: Operand) -> OnnxValue:
    alpha, gamma = (float(np.float32(v)) for v in (1.67326319217681884765625, 1.05070102214813232421875))
    return unary(w, x, lambda v: made.selu(w, v, w.attribute("alpha", alpha), w.attribute("gamma", gamma)))


@onnx_operator("Softplus")
def _softplus(w: OnnxWalker, x: Operand) -> OnnxValue:
    return unary(w, x, lambda v: made.softplus(w, v))


@onnx_operator("HardSigmoid")
def _hard_sigmoid(w: OnnxWalker, x: Operand) -> OnnxValue:
    slope, offset = w.attribute("alpha", float(np.float32(0.2))), w.attribute("beta", 0.5)
    return unary(w, x, lambda v: made.hard_sigmoid(w, v, slope, offset))


@onnx_operator("Pow")
def _pow(w: OnnxWalker, x: Operand, exponent: Operand) -> OnnxValue:
    given = w.tensor(exponent, "exponent")
    if given.numel() == 0 or not bool((given == given.flatten()[0]).all()) or given.dim() > len(w.dependent(x).shape):
        raise w.unsupported("its exponent must be one number")
    return unary(w, x, lambda v: made.power(w, v, float(given.flatten()[0])))
