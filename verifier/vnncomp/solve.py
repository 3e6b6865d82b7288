"""From two files to an answer: reading, importing and deciding, all within one time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from properties.vnnlib import Property, read
from verifier.errors import InputError
from verifier.vnncomp.answer import InstanceAnswer
from verifier.vnncomp.decide import decide
from verifier.vnncomp.ladder import LOW_DIMENSIONAL, InstanceLadder
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
        threads: that torch computes with in this process from here on. Default: one for networks of few inputs, whose
            tensors are too small to be shared out, and torch's choice for all others.

    Raises:
        InputError, ModelError, UnsupportedError: a file cannot be used; the message says which and why.
    """
    began, say = time.monotonic(), progress or (lambda line: None)
    prop = read_property(property_file)
    clauses = sum(len(case.clauses) for case in prop.cases)
    if threads is not None or prop.inputs <= LOW_DIMENSIONAL:
        torch.set_num_threads(threads or 1)
    say(f"property: {prop.inputs} inputs, {prop.outputs} outputs, {len(prop.cases)} cases, {clauses} clauses")
    model = network_of(prop, network)
    say(f"network: {len(model.graph.nodes)} nodes; read in {time.monotonic() - began:.2f} s")
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
    answer = decide(model, prop, left, stages=stages, progress=progress)
    return answer.after(time.monotonic() - began), prop


def read_property(path: Path) -> Property:
    """`properties.vnnlib.read`, its errors as InputError."""
    try:
        return read(path)
    except ValueError as error:
        raise InputError(str(error)) from error
