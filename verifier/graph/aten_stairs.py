"""ATen operators that jump: thresholds, shrinking, remainders, fake quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifier.graph.compositions import stairs as made
from verifier.graph.compositions.conditions import truncated
from verifier.graph.emitter import Var
from verifier.graph.walker import Walker, constants_only, name_of
from verifier.ops.concat import Concat
from verifier.ops.handlers import Args, handles
from verifier.ops.relu import LeakyReLU

handles("threshold")(lambda w, a: made.threshold(w, a["self"], float(a["threshold"]), float(a["value"])))
handles("hardshrink")(lambda w, a: made.shrink(w, a["self"], float(a["lambd"]), 0.0))
handles("trunc", "fix")(lambda w, a: truncated(w, a["self"]))
handles("frac")(lambda w, a: made.fraction(w, a["self"]))


@handles("rrelu", "rrelu_with_noise")
def _rrelu(w: Walker, a: Args) -> Var:
    if a["training"]:
        raise w.training()
    return w.emit(LeakyReLU((float(a["lower"]) + float(a["upper"])) / 2), a["self"])


@handles("fmod", "remainder")
def _remainder(w: Walker, a: Args) -> Var:
    divisor = a["other"]
    if not isinstance(a["self"], Var) or isinstance(divisor, Var) or torch.as_tensor(divisor).numel() != 1:
        raise w.unsupported("its divisor must be one constant number")
    return made.remainder(w, a["self"], float(divisor), name_of(w.node.target) == "fmod")


@handles("fake_quantize_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask",
         "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")  # fmt: skip
def _fake_quantised(w: Walker, a: Args) -> Any:
    constants_only(w, a, "scale", "zero_point", "fake_quant_enabled")
    switch = a.get("fake_quant_enabled")
    result = a["self"]
    if switch is None or bool(switch):
        scale, inverse = _scales(w, torch.as_tensor(a["scale"]).reshape(()))
        zero = int(a["zero_point"])
        result = made.fake_quantised(w, result, float(scale), float(inverse), zero, a["quant_min"], a["quant_max"])
    return (result, None) if "cachemask" in name_of(w.node.target) else result


@handles("fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask")
def _fake_quantised_channels(w: Walker, a: Args) -> Any:
    constants_only(w, a, "scale", "zero_point")
    x = a["self"]
    shape = w.shape(x)
    (axis,) = w.dims(a["axis"], len(shape) + 1)
    scale, inverse = (t.reshape(-1, *(1,) * (len(shape) - 1 - axis)) for t in _scales(w, a["scale"]))
    zeros = [int(z) for z in a["zero_point"]]
    if len(set(zeros)) == 1:
        result = made.fake_quantised(w, x, scale, inverse, zeros[0], a["quant_min"], a["quant_max"])
    else:
        numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape).split(1, axis)
        result = w.emit(Concat(axis), *(
            made.fake_quantised(w, w.gathered(x, part), float(s), float(i), z, a["quant_min"], a["quant_max"])
            for part, s, i, z in zip(numbers, scale.flatten(), inverse.flatten(), zeros, strict=True)
        ))  # fmt: skip
    return (result, None) if "cachemask" in name_of(w.node.target) else result


def _scales(w: Walker, scale: Tensor) -> tuple[Tensor, Tensor]:  # [...] -> [...] each
    """Scale and 1 / scale as torch has them: in single precision, whatever the model's is."""
    w.mixed = True
    scale = scale.detach().to(torch.float32)
    if not bool((scale > 0).all()):
        raise w.unsupported("its scale must be positive")
    return scale.to(w.dtype), (1 / scale).to(w.dtype)
