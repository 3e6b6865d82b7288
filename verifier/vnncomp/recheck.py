"""What is wrong with an answer, by the files alone: nothing of what decided it is used but the reader of properties."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from verifier.errors import InputError, VerifierError
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.result_file import parsed
from verifier.vnncomp.solve import read_property


def complaint(instance: Instance, status: InstanceStatus, result: Path) -> str:
    """Why an answer is wrong; empty where nothing speaks against it.

    A sat is wrong unless the witness in its result file lies exactly in the property's box and its outputs, computed
    anew by onnxruntime, make it a counterexample.
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
    y = _outputs(instance.network, x)
    if len(y) != prop.outputs:
        return f"the network has {len(y)} outputs, the property is about {prop.outputs}"
    if prop.witness(x, y) is None:
        inside = "is no input of the property" if not prop.admits(x) else "does not replay in onnxruntime"
        return f"the witness {inside}"
    return ""


def _outputs(network: Path, x: list[float]) -> list[float]:
    """The network's outputs by onnxruntime on the CPU, from the file as it is."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("replaying needs onnxruntime: pip install 'rampart-verifier[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        model = gzip.decompress(network.read_bytes()) if network.suffix == ".gz" else str(network)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        first = session.get_inputs()[0]
        shape = [n if isinstance(n, int) and n > 0 else 1 for n in first.shape]
        kind = np.float64 if first.type == "tensor(double)" else np.float32
        (output, *_) = session.run(None, {first.name: np.asarray(x, kind).reshape(shape)})
    except Exception as error:  # onnxruntime documents no exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise InputError(f"the network cannot be run: {text}") from error
    return [float(v) for v in np.asarray(output).reshape(-1)]
