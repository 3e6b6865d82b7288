"""A problem as plain data: what the fuzzer draws, shrinks and writes to a file, and how a problem is made of it.

A recipe is a dictionary of JSON values. Structure is spelled out, so that it shrinks; numbers come from seeds.

    {"input": [2, 3, 3], "nodes": [{"op": "Conv2d", ...}, ...], "set": {...}, "spec": {...}, "dtype": "float32",
     "batch": 2, "stage": "dual" or None, "semantics": "real"}

or, for a tiny ReLU network whose least margin over a box is known exactly (helpers.fooling),

    {"tiny": {"seed": 3, "inputs": 2, "residual": True, "eps": 0.5, "gap": 1e-9, ...}, "dtype": "float32",
     "stage": None}
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from helpers.fooling import exact_minimum, random_network, rounded
from helpers.oracle import AffineStep, ReluStep, TinyNetwork
from torch import Tensor

from fuzz.blocks import BLOCKS, FUNCTIONS, block, function
from properties import Box, InputSet, Polytope, Specification, Threat, Union, Zonotope, robustness
from verifier.graph import Graph, GraphBuilder
from verifier.ops.base import REGISTRY, Activation, Affine, OperatorExample
from verifier.ops.conv import Conv2d
from verifier.ops.elementwise import Add
from verifier.ops.linear import Linear
from verifier.ops.relu import ReLU
from verifier.ops.shape import Gather, Reshape
from verifier.verdict import Semantics

Recipe = dict[str, Any]


#: every registered operator that can be made by itself, by name; fuzz.blocks has the others
OPERATORS = {
    name: kind
    for name, kind in sorted(REGISTRY.items())
    if not inspect.isabstract(kind) and issubclass(kind, Activation | Affine) and name not in FUNCTIONS
}
ACTIVATIONS = [name for name, kind in OPERATORS.items() if issubclass(kind, Activation)]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class GraphModel:
    """A graph as a model of its own (verifier.graph.runner.ImportedModel): nothing is imported, everything is run."""

    graph: Graph

    @property
    def precision(self) -> torch.dtype:
        return self.graph.dtype

    def graph_for(self, example: Tensor) -> Graph:
        return self.graph

    def run(self, x: Tensor, dtype: torch.dtype | None = torch.float64) -> Tensor:
        graph = self.graph if dtype is None else self.graph.to(dtype=dtype)
        return graph.forward(x.to(dtype or self.precision)).flatten(1)


@dataclass(frozen=True)
class Problem:
    """What `verify` is asked."""

    graph: Graph  #: in the precision of the recipe
    inputs: InputSet
    spec: Specification
    dtype: torch.dtype
    stage: str | None
    semantics: Semantics


def tiny(recipe: Recipe) -> tuple[Problem, Fraction]:
    """A problem about a tiny network whose output is to be above zero, and its least output over the box."""
    options, dtype = recipe["tiny"], DTYPES[recipe["dtype"]]
    generator = np.random.default_rng(options["seed"])
    exact = rounded(
        scaled_rows(random_network(generator, options["inputs"], options["residual"]), options["power"]), dtype
    )
    center = np.round(generator.normal(size=options["inputs"]) * 16) / 16
    low, high = center - options["eps"], center + options["eps"]
    least = exact_minimum(exact, low, high)[0]
    shift = -float(least) + options["gap"]
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    spec = Specification(ones, shift * ones[0], torch.zeros(1, dtype=torch.int64))
    inputs = Box(torch.from_numpy(low)[None], torch.from_numpy(high)[None])
    return Problem(
        _steps(exact).to(dtype=dtype), inputs, spec, dtype, recipe["stage"], Semantics.REAL
    ), least + Fraction(shift)


def scaled_rows(network: TinyNetwork, power: int) -> TinyNetwork:
    """The same function: every other neuron of the first layer times 10^power, and divided again by who reads it."""
    factor = np.where(np.arange(4) % 2, 10.0**power, 10.0**-power)
    first, relu, second, *rest = network.steps
    assert isinstance(first, AffineStep) and isinstance(second, AffineStep)
    up = AffineStep(tuple((p, factor[:, None] * m) for p, m in first.terms), factor * first.bias)
    down = AffineStep(tuple((p, m / factor) for p, m in second.terms), second.bias)
    return TinyNetwork(network.inputs, (up, relu, down, *rest))


def _steps(network: TinyNetwork) -> Graph:
    """The graph of affine steps and ReLUs."""
    builder = GraphBuilder((network.inputs,))
    made = [0]
    for step in network.steps:
        if isinstance(step, ReluStep):
            made.append(builder.add(ReLU(), (made[step.parent],)))
            continue
        assert isinstance(step, AffineStep)
        bias: Tensor | None = torch.from_numpy(step.bias)
        terms = []
        for parent, matrix in step.terms:
            terms.append(builder.add(Linear(torch.from_numpy(matrix), bias), (made[parent],)))
            bias = None
        made.append(terms[0] if len(terms) == 1 else builder.add(Add(), terms))
    return builder.build(made[-1])


def problem(recipe: Recipe) -> Problem:
    """The problem of a recipe, the same every time."""
    graph = network(recipe)
    center = _numbers(np.random.default_rng(recipe["set"]["seed"]), (recipe["batch"], *recipe["input"]), 8)
    inputs = input_set(recipe["set"], center)
    return Problem(
        graph,
        inputs,
        specification(recipe["spec"], graph, inputs),
        DTYPES[recipe["dtype"]],
        recipe["stage"],
        _semantics(recipe),
    )


def _semantics(recipe: Recipe) -> Semantics:
    """float32 where the network is of that precision; networks of another have no such semantics."""
    return Semantics(recipe["semantics"] if recipe["dtype"] == "float32" else "real")


def _numbers(generator: np.random.Generator, shape: tuple[int, ...], denominator: int) -> Tensor:
    """Multiples of 1 / denominator, about normal: float32 holds them exactly."""
    return torch.from_numpy(np.round(generator.normal(size=shape) * denominator) / denominator)


# -- networks ---------------------------------------------------------------------------------------------------------


def network(recipe: Recipe) -> Graph:
    """The graph of a recipe; operators get inputs of the shapes that they take by gathering entries."""
    builder = GraphBuilder(tuple(recipe["input"]))
    made = [0]  # the node that each of the recipe's steps ended with
    for step in recipe["nodes"]:
        generator = np.random.default_rng(step["seed"])
        parents = [made[p % len(made)] for p in step["parents"]]
        made.append(_add(builder, step, parents, generator))
    if len(builder.nodes[made[-1]].shape) != 1:
        made.append(_flat(builder, made[-1]))
    generator = np.random.default_rng(recipe["out_seed"])
    weight = _numbers(generator, (recipe["classes"], builder.nodes[made[-1]].size), 8)
    last = builder.add(Linear(weight.float(), _numbers(generator, (recipe["classes"],), 8).float()), (made[-1],))
    return builder.build(last).to(dtype=DTYPES[recipe["dtype"]])


def _add(builder: GraphBuilder, step: Recipe, parents: list[int], generator: np.random.Generator) -> int:
    kind = step["op"]
    first = builder.nodes[parents[0]]
    if kind == "dense":
        parent = parents[0] if len(first.shape) == 1 else _flat(builder, parents[0])
        weight = _scaled(
            _numbers(generator, (step["width"], first.size), 16) / max(first.size, 1) ** 0.5, step, generator
        )
        return builder.add(Linear(weight.float(), _numbers(generator, (step["width"],), 16).float()), (parent,))
    if kind == "convolution" and len(first.shape) == 3 and min(first.shape[1:]) >= 2:
        weight = _scaled(_numbers(generator, (step["width"], first.shape[0], 2, 2), 8) / 2, step, generator)
        bias = _numbers(generator, (step["width"],), 16).float()
        return builder.add(Conv2d(weight.float(), bias, (step["stride"],) * 2, (step["padding"],) * 2), (parents[0],))
    if kind == "convolution":
        return _add(builder, {**step, "op": "dense"}, parents, generator)
    if kind in FUNCTIONS:
        return function(builder, kind, step["example"], parents[0], generator)
    if kind in BLOCKS:
        return block(builder, kind, parents, generator)
    if kind in ACTIVATIONS:
        examples = OPERATORS[kind].examples()
        return builder.add(examples[step["example"] % len(examples)].op, (parents[0],))
    examples = OPERATORS[kind].examples()
    return _example(builder, examples[step["example"] % len(examples)], step, parents, generator)


def _example(
    builder: GraphBuilder, example: OperatorExample, step: Recipe, parents: list[int], generator: np.random.Generator
) -> int:
    """The operator of an example, each of its inputs made of entries of a parent."""
    sources = []
    for k, shape in enumerate(example.shapes):
        parent = parents[k % len(parents)]
        if builder.nodes[parent].shape == tuple(shape):
            sources.append(parent)
            continue
        index = generator.integers(builder.nodes[parent].size, size=tuple(shape))
        sources.append(builder.add(Gather(torch.from_numpy(index)), (_flat(builder, parent),)))

    def moved(tensor: Tensor) -> Tensor:  # keeps signs: variances and divisors stay what they have to be
        if not tensor.is_floating_point():
            return tensor
        powers = torch.from_numpy(generator.integers(-2, 2, size=tuple(tensor.shape)))
        return tensor.detach() * 2.0 ** powers.to(tensor)

    return builder.add(example.op.map_tensors(moved), sources)


def _flat(builder: GraphBuilder, node: int) -> int:
    shape = builder.nodes[node].shape
    return node if len(shape) == 1 else builder.add(Reshape((builder.nodes[node].size,)), (node,))


def _scaled(weight: Tensor, step: Recipe, generator: np.random.Generator) -> Tensor:
    """Rows times powers of ten up to 10^|spread|, either way: badly scaled networks."""
    powers = generator.integers(-step["spread"], step["spread"] + 1, size=len(weight))
    return weight * torch.from_numpy(10.0**powers).reshape(-1, *(1,) * (weight.dim() - 1))


# -- input sets -------------------------------------------------------------------------------------------------------


def input_set(recipe: Recipe, x: Tensor) -> InputSet:  # x [B, *input]
    """Sets around x; those that are images of mass, or bounded by a valid range, around x moved there."""
    kind, eps = recipe["kind"], recipe["eps"]
    clip = (0.0, 1.0) if recipe["clip"] or kind == "wasserstein" else None
    if clip is not None:
        x = x.abs() % 1.0
    generator = np.random.default_rng(recipe["seed"] + 1)
    if kind == "union":
        return Union(
            [input_set({**recipe, "kind": k, "seed": recipe["seed"] + i}, x) for i, k in enumerate(recipe["of"])]
        )
    if kind == "box":
        widths = eps * torch.from_numpy(generator.integers(0, 3, size=tuple(x.shape))).double()
        return Box(x - widths, x + 0.5 * widths)
    if kind == "polytope":
        rows = _numbers(generator, (len(x), 2, *x.shape[1:]), 4)
        slack = eps * torch.from_numpy(generator.random((len(x), 2)))
        return Polytope(rows, (rows * x.unsqueeze(1)).flatten(2).sum(2) + slack + 1e-9, x - eps, x + eps, nominal=x)
    if kind == "zonotope":
        return Zonotope(x, eps * _numbers(generator, (len(x), 2, *x.shape[1:]), 4), clip)
    return Threat.of(kind).around(x, eps, clip)


# -- specifications ---------------------------------------------------------------------------------------------------


def specification(recipe: Recipe, graph: Graph, inputs: InputSet) -> Specification:
    """Robustness of the answer at the center, or random rows in clauses whose margins are brought close to zero.

    A row's offset is minus its least value at members of the set, plus `gap` times the spread of those values.
    """
    precise = graph.to(dtype=torch.float64)
    points = [inputs.center().double(), *(inputs.sample(torch.Generator().manual_seed(k)) for k in range(16))]
    y = torch.stack([precise.forward(p.double()).flatten(1) for p in points])  # [P, B, outputs]
    if recipe["kind"] == "robustness":
        return robustness(y[0].argmax(1), y.shape[2])
    generator = np.random.default_rng(recipe["seed"])
    rows = _numbers(generator, (len(y[0]), recipe["rows"], y.shape[2]), 4) * recipe["scale"]
    clause = torch.arange(recipe["rows"]) % min(recipe["clauses"], recipe["rows"])
    # networks that overflow are left alone by who holds them against their members
    values = torch.einsum("bso,pbo->pbs", rows, y).nan_to_num(0.0, 0.0, 0.0)
    low, high = values.amin(0), values.amax(0)
    return Specification(rows, -low + recipe["gap"] * (high - low), clause)
