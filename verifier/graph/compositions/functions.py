"""Functions of one variable that are a few steps of those that the operators have."""

from __future__ import annotations

from torch import Tensor

from verifier.graph.emitter import Emitter, Var
from verifier.ops.base import Operator
from verifier.ops.clip import Clip
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.exponential import Elu, Exp, Log, Softplus
from verifier.ops.jumps import Floor
from verifier.ops.powers import Power, Reciprocal, Rsqrt, Sqrt, Square, WholePower
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.ops.smooth import Sigmoid

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def sigmoid(w: Emitter, x: Var) -> Var:
    y = w.emit(Sigmoid(), x)
    w.builder.orders[y.index] = x.index  # every entry by itself, and rising
    return y


def power(w: Emitter, x: Var, exponent: float) -> Var:
    """x ** exponent, by the operator that is best at it."""
    if exponent == 0:
        return w.as_node(1.0, x, w.shape(x))
    kinds: dict[float, Operator] = {2.0: Square(), 0.5: Sqrt(), -0.5: Rsqrt(), -1.0: Reciprocal()}
    if exponent == 1:
        return x
    if exponent in kinds:
        return w.emit(kinds[exponent], x)
    if exponent > 2 and exponent.is_integer():
        return w.emit(WholePower(int(exponent)), x)
    if exponent == -2:
        return w.emit(Square(), w.emit(Reciprocal(), x))
    if exponent < 0 and exponent.is_integer():
        return w.emit(WholePower(int(-exponent)), w.emit(Reciprocal(), x))
    return w.emit(Power(exponent), x)


def softplus(w: Emitter, x: Var, beta: float = 1.0, kind: type[Softplus] = Softplus) -> Var:
    """log(1 + exp(beta x)) / beta."""
    result = w.emit(kind(), w.scaled(x, beta))
    return result if beta == 1 else w.emit(Divide(beta), result)


def log_sigmoid(w: Emitter, x: Var) -> Var:
    """-softplus(-x)."""
    return w.emit(Multiply(-1.0), w.emit(Softplus(), w.emit(Multiply(-1.0), x)))


def elu(w: Emitter, x: Var, alpha: float, scale: float = 1.0, inner: float = 1.0) -> Var:
    """scale times x where positive, alpha (exp(inner x) - 1) elsewhere."""
    if inner != 1:
        raise w.unsupported(f"an ELU of input_scale {inner}")
    return w.scaled(w.emit(Elu(alpha), x), scale)


def selu(w: Emitter, x: Var, alpha: float = _SELU_ALPHA, gamma: float = _SELU_SCALE) -> Var:
    return w.scaled(w.emit(Elu(alpha), x), gamma)


def hard_sigmoid(w: Emitter, x: Var, slope: float = 1 / 6, offset: float = 0.5) -> Var:
    """slope x + offset, clipped to [0, 1]."""
    return w.emit(Clip(0.0, 1.0), w.emit(Shift(offset), w.scaled(x, slope)))


def prelu(w: Emitter, x: Var, slopes: Tensor) -> Var:
    """ReLU(x) + slope (x - ReLU(x)), slopes broadcast to the node: one activation, and the slopes as they are."""
    if bool((slopes == slopes.flatten()[0]).all()) and not slopes.requires_grad:
        return w.emit(LeakyReLU(float(slopes.flatten()[0])), x)
    positive = w.emit(ReLU(), x)
    return w.sum(positive, w.with_constant(Multiply, w.difference(x, positive), slopes))


def soft_shrink(w: Emitter, x: Var, limit: float) -> Var:
    """x - clip(x, -limit, limit)."""
    return w.difference(x, w.emit(Clip(-limit, limit), x))


def log1p(w: Emitter, x: Var) -> Var:
    return w.emit(Log(), w.emit(Shift(1.0), x))


def expm1(w: Emitter, x: Var) -> Var:
    return w.emit(Shift(-1.0), w.emit(Exp(), x))


def ceil(w: Emitter, x: Var) -> Var:
    """ceil(x) = -floor(-x)."""
    return w.scaled(w.emit(Floor(), w.scaled(x, -1.0)), -1.0)
