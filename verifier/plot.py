"""Pictures (extra `plot`: matplotlib). Every function returns its figure for a notebook, and saves it if told."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from verifier.certification.accuracies import draw_accuracies
from verifier.certification.report import Report
from verifier.comparison.plot import needs_matplotlib
from verifier.errors import InputError
from verifier.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: colours of verdicts
COLOURS = {"verified": "tab:green", "unknown": "tab:orange", "falsified": "tab:red"}
#: the least seconds that a logarithmic axis shows
_QUICKEST = 1e-3


def draw_example(
    model: nn.Module, image: Tensor, result: Result, path: str | os.PathLike[str] | None = None, index: int = 0
) -> Figure:
    """Draw a clean image, its counterexample, their difference, and the margins.

    Args:
        model: the verified network, for the logits.
        image: [H, W], [1, H, W], or [3, H, W] in red, green and blue. Where values lie outside of [0, 1], those from
            the smallest to the largest are drawn.
        result: of `verify`; index: of the image in the result.
        path: of a PNG file; None: none is written.

    Raises:
        InputError: that example has no counterexample, or is no image. OSError: the file cannot be written.
    """
    adversarial = result.counterexample[index]
    if adversarial is None:
        raise InputError(f"example {index} has no counterexample: its verdict is {result.verdict[index].value}")
    clean, fooling = _pixels(image), _pixels(adversarial)
    with torch.no_grad():
        logits = model(torch.stack([image, adversarial.to(image)]))
    label, fooled = int(result.label[index]), int(logits[1].argmax())
    figure = _figure((11, 3.4))
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.6])
    low, high = min(0.0, clean.min(), fooling.min()), max(1.0, clean.max(), fooling.max())
    for axis, pixels, title in ((axes[0], clean, f"input: {label}"), (axes[1], fooling, f"counterexample: {fooled}")):
        axis.imshow((pixels - low) / (high - low), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
    _draw_change(axes[2], fooling - clean)
    for axis in axes[:3]:
        axis.set_xticks([])
        axis.set_yticks([])
    _draw_margins(axes[3], logits, result, index)
    return _saved(figure, path)


def draw_margins(result: Result, path: str | os.PathLike[str] | None = None) -> Figure:
    """A histogram of the smallest proven margin of each example, by verdict; the legend counts those without one.

    Args:
        path: of a PNG file; None: none is written.
    """
    figure = _figure((6.4, 4.0))
    axis = figure.subplots()
    margins = {v: [a.margin for a in result if a.verdict.value == v] for v in COLOURS}
    known = {v: [m for m in values if np.isfinite(m)] for v, values in margins.items()}
    every = [m for values in known.values() for m in values] or [0.0]
    edges = np.linspace(min(every), max(every) + 1e-12, 31).tolist()
    for verdict in (v for v in COLOURS if margins[v]):
        unknown = len(margins[verdict]) - len(known[verdict])
        label = f"{verdict}: {len(margins[verdict])}" + (f", {unknown} without a bound" if unknown else "")
        axis.hist(known[verdict], edges, label=label, color=COLOURS[verdict], alpha=0.7)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("smallest proven margin")
    axis.set_ylabel("examples")
    if len(result):
        axis.legend(fontsize=8)
    return _saved(figure, path)


def draw_curve(reports: Sequence[Report], path: str | os.PathLike[str] | None = None) -> Figure:
    """Clean, attacked and verified accuracy over the radius: one run of `certify` for each.

    Args:
        reports: on one question at several radii, in any order.
        path: of a PNG file; None: none is written.

    Raises:
        InputError: there are none, or they differ in more than the radius.
    """
    if not reports:
        raise InputError("a curve needs reports, one for each radius")
    asked = [{k: r.meta["settings"].get(k) for k in ("threat", "clip", "semantics", "question")} for r in reports]
    if any(other != asked[0] for other in asked):
        raise InputError("a curve is about one question at several radii: these differ in threat, clip or question")
    points = sorted(((float(r.meta["settings"]["eps"]), r.summary()) for r in reports), key=lambda point: point[0])
    figure = _figure((6.4, 4.0))
    draw_accuracies(figure.subplots(), points, asked[0]["threat"] or "linf")
    return _saved(figure, path)


def draw_cactus(
    runs: Mapping[str, str | os.PathLike[str] | Sequence[float]], path: str | os.PathLike[str] | None = None
) -> Figure:
    """How many instances each run has solved by the seconds that each takes, on a logarithmic axis.

    Args:
        runs: name -> seconds of the solved instances, or the `results.csv` of `verifier bench --out`, of which right
            answers count.
        path: of a PNG file; None: none is written.

    Raises:
        InputError: a file cannot be read, or is no such table.
    """
    figure = _figure((6.4, 4.4))
    axis = figure.subplots()
    for name, run in runs.items():
        times = sorted(_solved(run) if isinstance(run, str | os.PathLike) else map(float, run))
        shown = [max(t, _QUICKEST) for t in times]
        axis.step([_QUICKEST, *shown], range(len(shown) + 1), where="post", label=f"{name}: {len(shown)}")
    axis.set_xscale("log")
    axis.set_xlabel("seconds per instance")
    axis.set_ylabel("instances solved")
    axis.grid(alpha=0.3)
    if runs:
        axis.legend(fontsize=8, loc="upper left")
    return _saved(figure, path)


def _solved(path: str | os.PathLike[str]) -> list[float]:
    """Seconds of the right answers in a table of `verifier bench`."""
    from verifier.vnncomp.answer import InstanceStatus

    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [float(r["seconds"]) for r in rows if InstanceStatus(r["status"]).solved and not r["wrong"]]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no table of `verifier bench`, with columns status, seconds and wrong") from error


def _figure(size: tuple[float, float]) -> Figure:
    needs_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=120, format="png")
    return figure


def _pixels(image: Tensor) -> NDArray[Any]:
    """[H, W], or [H, W, 3], of an image [H, W], [1, H, W] or [3, H, W]. Raises InputError where it is none."""
    shape = tuple(image.shape)
    if len(shape) == 3 and shape[0] == 3:
        return image.permute(1, 2, 0).cpu().numpy()
    if len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
        return image.reshape(shape[-2:]).cpu().numpy()
    raise InputError(f"an input of shape {list(shape)} is no image: [H, W], [1, H, W] or [3, H, W] are")


def _draw_change(axis: Any, change: NDArray[Any]) -> None:
    """A difference: around white for one channel, around grey for three; what full scale is stands above."""
    limit = max(float(np.abs(change).max()), 1e-12)
    if change.ndim == 2:
        axis.imshow(change, cmap="coolwarm", vmin=-limit, vmax=limit)
    else:
        axis.imshow(0.5 + 0.5 * change / limit)
    axis.set_title(f"difference, at most {limit:.3g}")


def _draw_margins(axis: Any, logits: Tensor, result: Result, index: int) -> None:
    """Per class: margin at the input, at the counterexample (logits [2, classes]), and the proven lower bound."""
    label = int(result.label[index])
    classes = [c for c in range(logits.shape[1]) if c != label]
    margins = (logits[:, label : label + 1] - logits)[:, classes].numpy()
    proven = result.margins[index][classes].numpy()
    positions = np.arange(len(classes))
    axis.bar(positions - 0.2, margins[0], 0.4, label="at the input", color="tab:gray")
    axis.bar(positions + 0.2, margins[1], 0.4, label="at the counterexample", color="tab:red")
    known = np.isfinite(proven)
    axis.scatter(
        positions[known], proven[known], marker="_", s=200, color="black", label="proven lower bound", zorder=3
    )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(positions.tolist(), [str(c) for c in classes])
    axis.set_xlabel("other class")
    axis.set_title(f"margin of class {label}")
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
