"""The network that a property is about: its ONNX file, or one that is built of the files of all its networks.

Several networks, several inputs and outputs, hidden nodes, inputs that are equal and products of variables are all one
ONNX model of one flat input and one flat output: the outputs and hidden nodes in the order of the property, then the
products. It is imported, compared with onnxruntime and replayed as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from properties.vnnlib import Property
from properties.vnnlib_networks import Declared, DeclaredNetwork
from verifier.errors import InputError, UnsupportedError
from verifier.graph.onnx_file import read_model
from verifier.graph.onnx_model import OnnxModel
from verifier.graph.onnx_several import JOINED, inputs_of, with_one_input

if TYPE_CHECKING:
    from onnx import ModelProto

#: what the parts that are added are called
_FREE, _GIVEN, _ALL = "inputs that differ", "outputs joined", "outputs and products"


def network_of(prop: Property, files: Path | Mapping[str, Path]) -> OnnxModel:
    """The model that a property is about.

    Args:
        files: the ONNX file of each network by its name in the property; one path where the property needs one file.

    Raises:
        InputError: files for other networks than the property declares, or networks that are not as it declares them.
        ModelError, UnsupportedError: as `OnnxModel.load`; networks that cannot be made one.
    """
    paths = files_of(prop, files)
    if prop.plain:
        return OnnxModel.load(next(iter(paths.values())))
    if not prop.networks:
        proto = read_model(next(iter(paths.values())))
        if len(proto.graph.output) != 1:
            raise UnsupportedError(
                f"the network has {len(proto.graph.output)} outputs, and a VNN-LIB 1.0 property is about one: declare "
                "them in one of version 2.0"
            )
        joined = _with_outputs(_one_input(proto, ()), [proto.graph.output[0].name], [prop.given], prop)
        return OnnxModel(joined, "the network with the property's products")
    protos = {name: read_model(path) for name, path in paths.items()}
    matched = {n.name: _matched(n, protos[_source(n, prop.networks)]) for n in prop.networks}
    merged = _merged([(n, protos[_source(n, prop.networks)], matched[n.name]) for n in prop.networks])
    given = [(n, t) for n in prop.networks for t in n.of("hidden", "output")]
    names = [_prefixed(n, matched[n.name][t.name]) for n, t in given]
    model = OnnxModel(
        _with_outputs(_one_input(merged, prop.tied), names, [t.size for _, t in given], prop),
        "the property's " + ("network" if len(prop.networks) == 1 else "networks as one"),
    )
    for name, (_, tensor) in zip(names, given, strict=True):
        check_shape(tensor.kind, tensor.name, tensor.shape, model.shapes[name])
    return model


def files_of(prop: Property, files: Path | Mapping[str, Path]) -> dict[str, Path]:
    """The file of each network that needs one, by its name in the property. Raises InputError as `network_of`."""
    needed = [n.name for n in prop.networks if n.equal_to is None] or ["N"]
    if isinstance(files, Path):
        if len(needed) > 1:
            raise InputError(
                f"the property is about the networks {', '.join(needed)}, and one file is given: `verifier vnnlib` "
                f"takes {' '.join(f'--network {name}=FILE' for name in needed)}"
            )
        return {needed[0]: files}
    if not prop.networks:
        raise InputError("the property names no network: give the ONNX file as the first argument, without --network")
    missing, other = [n for n in needed if n not in files], [n for n in files if n not in needed]
    if missing or other:
        same = {n.name: n.equal_to for n in prop.networks if n.equal_to is not None}
        what = [f"{name} has none" for name in missing]
        what += [f"{name} is {same[name]}'s" if name in same else f"there is no network {name}" for name in other]
        raise InputError(f"the property needs a file for each of {', '.join(needed)}: {'; '.join(what)}")
    return {name: files[name] for name in needed}


def check_shape(kind: str, name: str, declared: Sequence[int], own: Sequence[int]) -> None:
    """Raises InputError where a tensor of the file has another shape than the property says, but for a leading 1."""
    if _without_batch(declared) != _without_batch(own):
        shown = [1, *own] if len(own) < len(declared) else list(own)
        raise InputError(
            f"the property declares its {kind} {name} as {list(declared)}, the network's {kind} is {shown}: "
            "entries would be taken for others"
        )


def _without_batch(shape: Sequence[int]) -> tuple[int, ...]:
    ones = next((k for k, n in enumerate(shape) if n != 1), len(shape))
    return tuple(shape[ones:])


def _source(network: DeclaredNetwork, networks: Sequence[DeclaredNetwork]) -> str:
    """The network whose file is this one's."""
    by_name = {n.name: n for n in networks}
    while network.equal_to is not None:
        network = by_name[network.equal_to]
    return network.name


def _matched(network: DeclaredNetwork, proto: ModelProto) -> dict[str, str]:
    """What the ONNX file calls each declared tensor. Raises InputError where the two do not fit."""
    inputs, found = inputs_of(proto), dict[str, str]()
    for kind, own in (("input", list(inputs)), ("output", [o.name for o in proto.graph.output])):
        declared = network.of(kind)
        if declared[0].node is not None:
            found |= {t.name: _named(network, t, own) for t in declared}
        elif len(declared) == len(own):
            found |= {t.name: name for t, name in zip(declared, own, strict=True)}
        if len({found.get(t.name) for t in declared}) < len(declared) or (kind == "input" and len(declared) < len(own)):
            raise InputError(
                f"the property declares {len(declared)} {kind}s of the network {network.name}, its file has "
                f"{len(own)}: {', '.join(own)}; name what is meant of them in the property, in quotes after the shape"
            )
    for tensor in network.of("hidden"):
        found[tensor.name] = _hidden(network, tensor, proto)
    for tensor in network.of("input"):
        shape = inputs[found[tensor.name]]
        check_shape("input", tensor.name, tensor.shape, (1, *shape[1:]) if shape[:1] == (0,) else shape)
    return found


def _named(network: DeclaredNetwork, tensor: Declared, own: Sequence[str]) -> str:
    if tensor.node is None or tensor.node not in own:
        raise InputError(
            f"the network {network.name} has no {tensor.kind} {tensor.node!r}, which the property calls "
            f"{tensor.name}; it has {', '.join(own)}"
        )
    return tensor.node


def _hidden(network: DeclaredNetwork, tensor: Declared, proto: ModelProto) -> str:
    """The value of that name, or the output of the only node of that name."""
    values = [name for node in proto.graph.node for name in node.output if name]
    if tensor.node in values:
        return str(tensor.node)
    nodes = [node for node in proto.graph.node if node.name == tensor.node]
    if len(nodes) == 1 and len([name for name in nodes[0].output if name]) == 1:
        return str(nodes[0].output[0])
    shown = ", ".join(values[:20]) + (", ..." if len(values) > 20 else "")
    raise InputError(
        f"the network {network.name} has no value, and no node with one output, called {tensor.node!r}, which the "
        f"property calls {tensor.name}; its values are {shown}"
    )


def _prefixed(network: DeclaredNetwork, name: str) -> str:
    return f"{network.name}: {name}"


def _merged(parts: Sequence[tuple[DeclaredNetwork, ModelProto, Mapping[str, str]]]) -> ModelProto:
    """All networks side by side, the names of each with its own in front; inputs in the order of the property."""
    from onnx import compose

    versions = {n.name: {o.domain or "ai.onnx": o.version for o in proto.opset_import} for n, proto, _ in parts}
    if len({tuple(sorted(v.items())) for v in versions.values()}) > 1:
        said = ", ".join(f"{name} of {v.get('ai.onnx')}" for name, v in versions.items())
        raise UnsupportedError(
            f"networks of different opsets cannot be made one: {said}; convert them with "
            "onnx.version_converter.convert_version"
        )
    merged: ModelProto | None = None
    ordered = []
    for network, proto, names in parts:
        own = compose.add_prefix(proto, prefix=_prefixed(network, ""))
        by_name = {i.name: i for i in own.graph.input}
        ordered += [by_name[_prefixed(network, names[t.name])] for t in network.of("input")]
        if merged is None:
            merged = type(proto)()
            merged.CopyFrom(own)
            continue
        merged.ir_version = max(merged.ir_version, own.ir_version)
        for field in ("node", "initializer", "sparse_initializer"):
            getattr(merged.graph, field).extend(getattr(own.graph, field))
    assert merged is not None
    del merged.graph.value_info[:]
    kept = [type(i).FromString(i.SerializeToString()) for i in ordered]
    del merged.graph.input[:]
    merged.graph.input.extend(kept)
    return merged


def _one_input(proto: ModelProto, tied: Sequence[int]) -> ModelProto:
    """As a function of [1, n]: the inputs, flattened, of which those that are equal are one."""
    from onnx import helper

    model = with_one_input(proto)
    if tied:
        kind = model.graph.input[0].type.tensor_type.elem_type
        place = _constant(model, np.array(tied, np.int64), "which input is which")
        axis = helper.make_node("Gather", [_FREE, place], [JOINED], axis=1)
        model.graph.node.insert(0, axis)
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(_FREE, kind, [1, max(tied) + 1]))
    return model


def _with_outputs(model: ModelProto, names: Sequence[str], sizes: Sequence[int], prop: Property) -> ModelProto:
    """With one output [1, m]: some values, flattened, one after another, then the property's products.

    Args:
        names: of the values. sizes: their entries, as the property has them.
    """
    from onnx import helper

    parts = []
    for k, (name, size) in enumerate(zip(names, sizes, strict=True)):
        shape = _constant(model, np.array([1, size], np.int64), f"shape {k}")
        parts.append(f"flat {k}")
        model.graph.node.append(helper.make_node("Reshape", [name, shape], parts[-1:]))
    model.graph.node.append(helper.make_node("Concat", parts, [_GIVEN], axis=1))
    last = _GIVEN
    if prop.products:
        products = [_product(model, k, factors) for k, factors in enumerate(prop.products)]
        last = _ALL
        model.graph.node.append(helper.make_node("Concat", [_GIVEN, *products], [last], axis=1))
    kind = model.graph.input[0].type.tensor_type.elem_type
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(last, kind, [1, prop.outputs]))
    return model


def _product(model: ModelProto, number: int, factors: Sequence[int]) -> str:
    """A product of entries, one after another; returns what it is called."""
    from onnx import helper

    source = model.graph.input[0].name
    made = ""
    for step, factor in enumerate(factors):
        name = f"factor {factor}"
        if not any(name in node.output for node in model.graph.node):
            place = _constant(model, np.array([factor if factor >= 0 else -1 - factor], np.int64), f"place of {name}")
            values = source if factor >= 0 else _GIVEN
            model.graph.node.append(helper.make_node("Gather", [values, place], [name], axis=1))
        if not made:
            made = name
            continue
        result = f"product {number}, step {step}"
        model.graph.node.append(helper.make_node("Mul", [made, name], [result]))
        made = result
    return made


def _constant(model: ModelProto, values: np.ndarray, name: str) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(values, f"the property's {name}"))
    return f"the property's {name}"
