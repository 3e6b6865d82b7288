"""The log of a run: one row per epoch, as CSV, JSON and curves."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.checkpoint import replaced
from training.plot import draw_curves
from verifier.tables import as_frame, as_html

if TYPE_CHECKING:
    import pandas

#: columns that every row has; what a method logs beside them comes after
COLUMNS = ("epoch", "rate", "seconds", "loss", "clean", "attacked", "verified", "best")


@dataclass
class History:
    """What happened, epoch by epoch.

    Args:
        settings: of the method and of the run, as JSON values.
        rows: per epoch: epoch (from 1), rate (learning rate at its end), seconds (of the epoch with its measurement),
            loss and the method's figures `train_*` (means over the epoch's batches), clean / attacked / verified
            accuracy on the validation split (None where it was not measured), and `best`, whether that is the best yet.
        stopped: why the run ended before its last epoch; empty where it did not.
        warnings: what is doubtful about the run (training.doubts), in the order in which it was seen.
        about: of the run, what does not decide its result: versions, threads, minutes of the processor, and what the
            caller of `train` calls network and data.
    """

    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    warnings: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row whose weights are kept; None before the first measurement."""
        return next((row for row in reversed(self.rows) if row["best"]), None)

    def column(self, name: str) -> list[Any]:
        """One entry per epoch; None where the row has none."""
        return [row.get(name) for row in self.rows]

    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        extra = dict.fromkeys(name for row in self.rows for name in row if name not in COLUMNS)
        return [*COLUMNS, *extra]

    def _repr_html_(self) -> str:
        columns = self.columns()
        title = " ".join(str(self.settings[k]) for k in ("method", "threat", "eps") if k in self.settings)
        rows = [[row.get(name) for name in columns] for row in self.rows]
        return as_html(f"{title or 'training'}, {len(rows)} epochs; the latest first", columns, rows[::-1])

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row per epoch (extra `pandas`), by epoch."""
        return as_frame([{name: row.get(name) for name in self.columns()} for row in self.rows], "epoch")

    def to_csv(self, path: str | Path) -> None:
        """One line per epoch."""

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns(), restval="")
                writer.writeheader()
                writer.writerows(self.rows)

        replaced(Path(path), write)

    def to_json(self, path: str | Path) -> None:
        """Settings, what the run was, rows, why it stopped, what is doubtful about it: small enough to keep."""
        content = {
            "settings": self.settings, "about": self.about, "stopped": self.stopped, "warnings": self.warnings,
            "epochs": self.rows,
        }  # fmt: skip
        text = json.dumps(content, indent=1) + "\n"
        replaced(Path(path), lambda beside: beside.write_text(text, encoding="utf-8"))

    def plot(self, path: str | Path) -> None:
        """Draw the curves as a PNG: loss, and clean / attacked / verified error, per epoch.

        Raises:
            InputError: matplotlib is not installed. StoreError: the file cannot be written.
        """
        replaced(Path(path), lambda beside: draw_curves(self, beside))
