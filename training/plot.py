"""The curves of a run (extra `plot`: matplotlib)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from verifier.errors import InputError

#: as in figure 2 of Wong et al. (2018), which shows robust and clean error per epoch
ERRORS = {"verified": "tab:red", "attacked": "tab:orange", "clean": "tab:blue"}


class Logged(Protocol):
    """What happened in a run, epoch by epoch (training.history says what is in a row)."""

    settings: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row whose weights are kept."""

    def column(self, name: str) -> list[Any]:
        """One entry per epoch."""


def draw_curves(history: Logged, path: Path) -> None:
    """Two panels over the epochs: the training loss, and the errors on the validation images.

    An axis is logarithmic where its values are positive and span more than a factor of ten.

    Raises:
        InputError: matplotlib is not installed. OSError: the file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("a picture needs matplotlib: pip install 'rampart-verifier[plot]'")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_loss(left, history)
    _draw_errors(right, history)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    settings = history.settings
    figure.suptitle(f"{settings.get('method', '')}  {settings.get('threat', '')}  eps {settings.get('eps', '')}")
    figure.savefig(path, dpi=120, format="png")


def _draw_loss(axis: Any, history: Logged) -> None:
    losses = history.column("loss")
    axis.plot(history.column("epoch"), losses, color="black", marker="." if len(losses) < 30 else None)
    axis.set_ylabel("training loss")
    _log_where_wide(axis, losses)


def _draw_errors(axis: Any, history: Logged) -> None:
    rows = [row for row in history.rows if row["clean"] is not None]
    axis.set_ylabel("error on the validation images")
    if not rows:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        return
    epochs = [row["epoch"] for row in rows]
    for width, (name, color) in zip((3.0, 2.0, 1.0), ERRORS.items(), strict=True):  # those below stay visible
        errors = [1 - row[name] for row in rows]
        axis.plot(epochs, errors, color=color, label=name, linewidth=width, marker="." if len(rows) < 30 else None)
    _log_where_wide(axis, [1 - row[name] for row in rows for name in ERRORS])
    if history.best is not None:
        axis.axvline(history.best["epoch"], color="gray", linestyle="--", linewidth=1, label="best epoch")
    axis.legend(fontsize=8)


def _log_where_wide(axis: Any, values: list[float]) -> None:
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
