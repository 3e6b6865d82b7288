"""From two files to an answer: reading, importing and deciding, all within one time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from properties.vnnlib import Property, parse
from properties.vnnlib_text import PropertyText, load
from verifier.arguments import input_errors
from verifier.graph.onnx_file import read_model
from verifier.graph.onnx_model import OnnxModel
from verifier.vnncomp.answer import InstanceAnswer
from verifier.vnncomp.decide import decide
from verifier.vnncomp.ladder import LOW_DIMENSIONAL, InstanceLadder, wide
from verifier.vnncomp.networks import network_of


def solve(
    network: Path | Mapping[str, Path],
    property_file: Path,
    timeout: float | None,
    *,
    stages: InstanceLadder | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[InstanceAnswer, Property]:
    """Decide the instance in two files within `timeout` seconds, reading them included.

    Args:
        network: the ONNX file, or those of the networks that the property declares, by name.
        stages, progress: as of `decide`.
        threads: that torch computes with in this process from here on. Default: one for small networks of few inputs,
            whose tensors are too small to be shared out, and torch's choice for all others.

    Raises:
        InputError, ModelError, UnsupportedError: a file cannot be used; the message says which and why.
    """
    began, say = time.monotonic(), progress or (lambda line: None)
    source = property_text(property_file)
    early = early_network(source, network)
    prop = parsed_property(source)
    say(f"property: {prop.inputs} inputs, {prop.outputs} outputs, {len(prop.cases)} cases, {prop.clauses} clauses")
    model = early if early is not None and prop.plain else network_of(prop, network)
    say(f"network: {len(model.graph.nodes)} nodes; read in {time.monotonic() - began:.2f} s")
    if threads is not None or (prop.inputs <= LOW_DIMENSIONAL and not wide(model.graph)):
        torch.set_num_threads(threads or 1)
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
    answer = decide(model, prop, left, stages=stages, progress=progress)
    return answer.after(time.monotonic() - began), prop


def early_network(source: PropertyText, network: Path | Mapping[str, Path]) -> OnnxModel | None:
    """The network, before the property is read: one that cannot be used is refused at once.

    None where the property says how networks are to be read, as one of version 2.0 does: only their files are opened.
    """
    if isinstance(network, Path) and not source.declares_networks:
        return OnnxModel.load(network)
    for path in [network] if isinstance(network, Path) else network.values():
        read_model(path)
    return None


def read_property(path: Path) -> Property:
    """`properties.vnnlib.read`, its errors as InputError."""
    return parsed_property(property_text(path))


def property_text(path: Path) -> PropertyText:
    """The text of a property. Raises InputError where it cannot be read."""
    with input_errors():
        return load(path)


def parsed_property(source: PropertyText) -> Property:
    """`properties.vnnlib.parse`, its errors as InputError."""
    with input_errors():
        return parse(source)
