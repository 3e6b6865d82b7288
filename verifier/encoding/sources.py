"""Where programs of the final layers start: at the input set, or at a zonotope around a later node."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array

from properties import InputSet
from verifier.bound_map import Bounds
from verifier.encoding.encoder import ProgramSource
from verifier.encoding.value import ColumnForm, Vector, numbers
from verifier.graph import Graph
from verifier.relaxation.ranges import middle_and_radius
from verifier.zonotope import bands, region


@dataclass(frozen=True)
class ProgramStart:
    """A source, and its columns where the network's input is the clean one."""

    source: ProgramSource
    clean: Vector  # [n]


def at_input(inputs: InputSet) -> ProgramStart:
    """The set of one example, every member of it: where it is lifted; else its box."""
    lifted = inputs.lifted()
    if lifted is not None:
        source = ProgramSource.of_lifted(lifted)
        return ProgramStart(source, np.concatenate([lifted.clean, np.zeros(len(source.lower) - len(lifted.clean))]))
    low, high = (numbers(b) for b in inputs.box(torch.float64))
    return ProgramStart(ProgramSource.of_inputs(inputs), numbers(inputs.center())[low < high])


def at_zonotope(graph: Graph, inputs: InputSet, bounds: Bounds, node: int) -> ProgramStart:
    """The zonotope of a cut node: columns are error terms in [-1, 1] (Balunovic & Vechev 2020, section 6).

    The input is known on the columns as well: it has error terms of its own.

    Args:
        graph: float64. bounds: of the pre-activations before the node, a batch of 1.
    """
    with torch.no_grad():
        zone = region(graph, inputs, bounds, node)
        source = ProgramSource.of_region(node, zone.center[0], zone.generators[0].flatten(1))
        values = graph.values(inputs.center().to(torch.float64))
        middle, _ = middle_and_radius(*inputs.box(torch.float64))
        of_node = bands(graph, bounds, node)
        on_input, clean, first = csr_array((middle.numel(), len(source.lower))), [np.zeros(0)], 0
        for group in zone.groups:
            neurons = group.neurons[0].numpy()  # no padding: one example
            radius = group.radius.flatten()[group.terms[0][0]].numpy()
            if group.origin == 0:
                moved = values[0] - middle
                entries = (radius, (neurons, first + np.arange(len(neurons))))
                on_input = csr_array(entries, shape=on_input.shape)
            else:
                band, z = of_node[group.origin], values[graph.nodes[group.origin].parents[0]]
                moved = values[group.origin] - band.at(z)
            clean.append(numbers(moved)[neurons] / radius)
            first += len(neurons)
    known = {**source.values, 0: ColumnForm(on_input, numbers(middle))}
    return ProgramStart(replace(source, values=known), np.clip(np.concatenate(clean), -1.0, 1.0))
