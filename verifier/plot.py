"""Pictures (extra `plot`: matplotlib)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from verifier.errors import InputError
from verifier.result import Result


def draw_example(model: nn.Module, image: Tensor, result: Result, path: Path, index: int = 0) -> None:
    """Draw a clean image, its counterexample, their difference, and the margins as a PNG.

    Args:
        model: the verified network, for the logits.
        image: [1, H, W] or [H, W]; result: of `verify`; index: of the image in the result.

    Raises:
        InputError: that example has no counterexample.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    adversarial = result.counterexample[index]
    if adversarial is None:
        raise InputError(f"example {index} has no counterexample: its verdict is {result.verdict[index].value}")
    with torch.no_grad():
        logits = model(torch.stack([image, adversarial.to(image)]))
    label, fooled = int(result.label[index]), int(logits[1].argmax())
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.6])
    height, width = image.shape[-2:]
    change = (adversarial - image).reshape(height, width).numpy()
    limit = max(float(np.abs(change).max()), 1e-12)
    axes[0].imshow(image.reshape(height, width).numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(f"input: {label}")
    axes[1].imshow(adversarial.reshape(height, width).numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1].set_title(f"counterexample: {fooled}")
    axes[2].imshow(change, cmap="coolwarm", vmin=-limit, vmax=limit)
    axes[2].set_title(f"difference, at most {limit:.3g}")
    for axis in axes[:3]:
        axis.set_xticks([])
        axis.set_yticks([])
    _draw_margins(axes[3], logits, result, index)
    figure.savefig(path, dpi=120)


def _draw_margins(axis, logits: Tensor, result: Result, index: int) -> None:  # type: ignore[no-untyped-def]
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
