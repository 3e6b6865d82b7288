"""What the fuzzer draws: recipes of networks, input sets, specifications and stages."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzz.blocks import BLOCKS, FUNCTIONS
from fuzz.recipe import ACTIVATIONS, OPERATORS, Recipe
from properties.input_set import threats
from verifier.stages import REGISTRY, stage

#: stages that prove something, and None for the whole ladder
STAGES = [None, *sorted(name for name in REGISTRY if stage(name).trust is not None)]
#: kinds of sets that need no image
SETS = ["linf", "box", "l2", "l1", "polytope", "zonotope"]
KINDS = [*SETS, "union", *sorted(set(threats()) - set(SETS))]
SHAPES = [[2], [1], [4], [1, 3, 3], [2, 2, 3], [2, 3]]

seeds = st.integers(0, 2**16)


@st.composite
def nodes(draw: st.DrawFn) -> Recipe:
    """One step: a layer that mixes (mostly), an activation, a product or what is made of it, or any operator at all."""
    kind = draw(st.sampled_from(["dense", "convolution", *["activation"] * 3, "function", "block", "any", "any"]))
    if kind == "activation":
        kind = draw(st.sampled_from(["ReLU", "ReLU", *ACTIVATIONS]))
    elif kind == "function":
        kind = draw(st.sampled_from(FUNCTIONS))
    elif kind == "block":
        kind = draw(st.sampled_from(BLOCKS))
    elif kind == "any":
        kind = draw(st.sampled_from(sorted(OPERATORS)))
    return {
        "op": kind,
        "parents": [-1] if draw(st.integers(0, 3)) else draw(st.lists(st.integers(-3, -1), min_size=1, max_size=3)),
        "seed": draw(seeds),
        "width": draw(st.integers(1, 5)),
        "example": draw(st.integers(0, 7)),
        "spread": draw(st.sampled_from([0, 0, 0, 0, 1, 3, 8])),
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 1)),
    }


@st.composite
def recipes(draw: st.DrawFn, stages: list[str | None] = STAGES) -> Recipe:
    """A whole problem."""
    shape = draw(st.sampled_from(SHAPES))
    kinds = KINDS if len(shape) == 3 else [k for k in KINDS if k not in ("wasserstein", "bias-field")]
    return {
        "input": shape,
        "nodes": draw(st.lists(nodes(), min_size=1, max_size=7)),
        "classes": draw(st.integers(2, 3)),
        "out_seed": draw(seeds),
        "set": {
            "kind": draw(st.sampled_from(kinds)),
            "of": draw(st.lists(st.sampled_from(SETS), min_size=2, max_size=3)),
            "eps": draw(st.sampled_from([0.1, 0.5, 0.0, 1e-7, 0.03, 2.0, 30.0])),
            "clip": draw(st.booleans()),
            "seed": draw(seeds),
        },
        "spec": {
            "kind": draw(st.sampled_from(["rows", "robustness"])),
            "rows": draw(st.integers(1, 4)),
            "clauses": draw(st.integers(1, 4)),
            "seed": draw(seeds),
            "scale": draw(st.sampled_from([1.0, 1.0, 1.0, 1e-6, 1e8])),
            "gap": draw(st.sampled_from([0.1, 1.0, 3.0, 10.0, 0.0, 1e-3, -0.1, 1e-7, 1e-10])),
        },
        "dtype": draw(st.sampled_from(["float64", "float32"])),
        "batch": draw(st.integers(1, 2)),
        "stage": draw(st.sampled_from(stages)),
        "semantics": draw(st.sampled_from(["real", "real", "float32"])),
    }


@st.composite
def tiny_recipes(draw: st.DrawFn, stages: list[str | None] = STAGES) -> Recipe:
    """A tiny network whose truth is known, most often close to zero."""
    return {
        "tiny": {
            "seed": draw(seeds),
            "inputs": draw(st.integers(1, 2)),
            "residual": draw(st.booleans()),
            "power": draw(st.sampled_from([0, 0, 0, 2, 6, 15])),
            "eps": draw(st.sampled_from([0.5, 0.125, 2.0**-20, 0.0, 2.0])),
            "gap": draw(st.sampled_from([1e-3, 0.0, 1e-6, -1e-6, 1e-9, -1e-9, 1e-12, -1e-12, 1e-15, -1e-3, 0.5])),
        },
        "dtype": draw(st.sampled_from(["float64", "float32"])),
        "stage": draw(st.sampled_from(stages)),
    }


def problems(stages: list[str | None] = STAGES) -> st.SearchStrategy[Recipe]:
    """Either kind."""
    return st.one_of(recipes(stages), recipes(stages), tiny_recipes(stages))
