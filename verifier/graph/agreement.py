"""The graph against the model that it was imported from: refused where they differ."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.ir import Graph
from verifier.graph.runner import ModelRunner


def compare(graph: Graph, runner: ModelRunner, example: Tensor, loosely: bool) -> None:  # [B, *input]
    """Refuse a graph that does not compute what the model computes.

    At the example the outputs must be finite. Random inputs may be outside of a function's domain, as the negative ones
    of a logarithm's are: those say nothing.
    """
    wide = graph.to(dtype=torch.float64)
    inputs = _probes(example)
    try:
        runner.run(inputs[0], torch.float64)
        precise = True
    except ModelError:
        precise = False  # a model that fixes its precision: then its own precision is all there is to compare
    for k, x in enumerate(inputs):
        if precise:
            _agree(wide, runner, x, torch.float64, 1e-4 if loosely else 1e-9, own=k == 0)
        _agree(graph, runner, x, None, 1e-4 if example.dtype == torch.float32 else 1e-9, own=k == 0)


def _probes(example: Tensor) -> list[Tensor]:  # [b, *input] each
    """The example, and random inputs of several scales, in batches of three and of one."""
    generator = torch.Generator().manual_seed(0)
    shape = tuple(example.shape[1:])
    normal = torch.randn(4, 3, *shape, generator=generator, dtype=torch.float64).to(example)
    unit = torch.rand(3, *shape, generator=generator, dtype=torch.float64).to(example)
    own = example.detach()[:3]
    return [own, unit, normal[0], normal[1] * 10, normal[2] * 0.1, normal[3, :1]]


def _agree(
    graph: Graph, runner: ModelRunner, x: Tensor, dtype: torch.dtype | None, tolerance: float, *, own: bool
) -> None:
    """Refuse a graph that does not return what the model does at x [b, *input], the user's `own` inputs or random ones.

    Raises:
        ModelError: they differ by more than `tolerance`, as `judge` has it.
    """
    theirs = runner.run(x, dtype)
    with torch.no_grad():
        values = graph.values(x if dtype is None else x.to(dtype))
    if not own:
        finite = theirs.flatten(1).isfinite().all(1)
        if not finite.any():
            return
        theirs, values = theirs[finite], [v[finite] for v in values]
    judge(values, theirs, tolerance, f"with the model on a batch of shape {list(x.shape)} in {values[-1].dtype}")


def judge(values: list[Tensor], theirs: Tensor, tolerance: float, where: str) -> None:
    """Refuse the values of a graph's nodes where the last is not what the model returned, [B, outputs].

    Raises:
        ModelError: they differ by more than `tolerance`, relative to the outputs and, less, to what is inside.
    """
    ours = values[-1].flatten(1) if values[-1].dim() > 1 else values[-1].unsqueeze(1)
    if ours.shape != theirs.shape:
        raise ModelError(f"the graph disagrees {where}: {list(ours.shape)} and {list(theirs.shape)} outputs")
    if not theirs.isfinite().all():
        raise ModelError(f"the model's outputs are not finite {where}")
    gap = float((ours.to(theirs) - theirs).abs().max())
    finite = (v[v.isfinite()] for v in values)
    inner = max(float(v.abs().max()) for v in finite if v.numel())
    allowed = tolerance * (float(theirs.abs().max()) + 1e-2 * inner)
    if not gap <= allowed:
        raise ModelError(
            f"the graph disagrees {where}: outputs differ by {gap:.3g}, {allowed:.3g} is allowed. Does the model "
            "depend on the batch size, on random numbers or on global state?"
        )
