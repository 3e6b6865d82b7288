"""What is wrong with an answer, by the files alone: nothing of what decided it is used but the reader of properties."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from properties.vnnlib import Property
from properties.vnnlib_hull import float32_hull
from properties.vnnlib_networks import DeclaredNetwork
from verifier.errors import InputError, VerifierError
from verifier.graph.onnx_file import read_bytes
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.result_file import parsed
from verifier.vnncomp.solve import read_property


def complaint(instance: Instance, status: InstanceStatus, result: Path) -> str:
    """Why an answer is wrong; empty where nothing speaks against it.

    A sat is wrong unless the witness in its result file lies exactly in the property's box, for a network in float32
    in that of properties/vnnlib_hull.py, and its outputs, computed anew by onnxruntime, make it a counterexample.
    """
    if status is InstanceStatus.SAT:
        try:
            bogus = _bogus(instance, result)
        except VerifierError as error:
            bogus = str(error)
        if bogus:
            return f"sat, but {bogus}"
    return contradiction(instance, status)


def contradiction(instance: Instance, status: InstanceStatus) -> str:
    """How an answer contradicts the list; empty where it does not."""
    if instance.expected is not None and status.solved and status is not instance.expected:
        return f"{status.value}, but {instance.expected.value} is expected"
    return ""


def _bogus(instance: Instance, result: Path) -> str:
    prop = read_property(instance.property_file)
    _, witness = parsed(result, prop)
    if witness is None:
        return "there is no witness"
    x = witness[0]
    if [float(np.float32(v)) for v in x] != x:
        return "the witness's inputs are not float32 numbers"
    y, doubles = _outputs(instance, prop, prop.widened(x))
    prop = prop if doubles else float32_hull(prop)
    if len(y) != prop.given:
        return f"the network has {len(y)} outputs, the property is about {prop.given}"
    if prop.witness(x, y) is None:
        inside = "is no input of the property" if not prop.admits(x) else "does not replay in onnxruntime"
        return f"the witness {inside}"
    return ""


def _outputs(instance: Instance, prop: Property, x: list[float]) -> tuple[list[float], bool]:
    """The networks' outputs by onnxruntime on the CPU, from the files as they are; of a 2.0 file, what it declares.

    The second value says whether the networks take float64.
    """
    if not prop.networks:
        return _run(instance.network, None, x)
    same = {n.name: n.equal_to for n in prop.networks}
    every, at, doubles = list[float](), 0, False
    for declared in prop.networks:
        name = declared.name
        while same[name] is not None:
            name = str(same[name])
        count = sum(t.size for t in declared.of("input"))
        own, wide = _run(dict(instance.named).get(name, instance.network), declared, x[at : at + count])
        every, doubles = every + own, doubles or wide
        at += count
    return every, doubles


def _run(network: Path, declared: DeclaredNetwork | None, x: list[float]) -> tuple[list[float], bool]:
    """The outputs, and whether some input is float64."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("replaying needs onnxruntime: pip install 'rampart-verifier[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        called: dict[str, str] = {}
        hidden = [] if declared is None else declared.of("hidden")
        content = read_bytes(network)
        model: bytes | str = content
        if hidden:
            model, called = _showing([str(t.node) for t in hidden], content)
        # weights in files beside it are found from its path alone
        model = model if hidden or network.suffix == ".gz" else str(network)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds, at = dict[str, np.ndarray](), 0
        inputs = session.get_inputs()
        if declared is not None and declared.of("input")[0].node is not None:
            by_name = {given.name: given for given in inputs}
            inputs = [by_name[str(t.node)] for t in declared.of("input")]
        for given in inputs:
            kind = np.float64 if given.type == "tensor(double)" else np.float32
            shape = [n if isinstance(n, int) and n > 0 else 1 for n in given.shape]
            size = math.prod(shape)
            feeds[given.name] = np.asarray(x[at : at + size], kind).reshape(shape)
            at += size
        names = [o.name for o in session.get_outputs()]
        wanted = names[:1] if declared is None else _names(declared, names, called)
        found = session.run(wanted, feeds)
    except Exception as error:  # onnxruntime documents no exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise InputError(f"the network cannot be run: {text}") from error
    doubles = any(fed.dtype == np.float64 for fed in feeds.values())
    return [float(v) for output in found for v in np.asarray(output).reshape(-1)], doubles


def _names(declared: DeclaredNetwork, outputs: list[str], called: dict[str, str]) -> list[str]:
    """What onnxruntime calls the hidden nodes and outputs, in the order of the property."""
    own = iter(outputs)
    tensors = declared.of("hidden", "output")
    return [called[str(t.node)] if t.kind == "hidden" else t.node or next(own) for t in tensors]


def _showing(wanted: list[str], content: bytes) -> tuple[bytes, dict[str, str]]:
    """The model with hidden values among its outputs, behind its own; and the value that each name means."""
    import onnx

    model = onnx.load_from_string(content)
    values = {name: name for node in model.graph.node for name in node.output}
    nodes = {node.name: node.output[0] for node in model.graph.node if node.name}
    called = {name: values.get(name) or nodes[name] for name in wanted}
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(called.values()) - shown)
    return bytes(model.SerializeToString()), called
