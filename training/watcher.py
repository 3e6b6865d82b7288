"""Who is told how a run goes: nobody, or a progress bar on a terminal."""

from __future__ import annotations

import time
import warnings

from torch import Tensor

from training.doubts import TrainingWarning
from training.history import History
from training.method import Progress


class Watcher:
    """Is told how a run goes; does nothing by itself."""

    def began(self, history: History, epochs: int, steps: int) -> None:
        """Before the first step of this process; `history` has the rows of the epochs behind it."""

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        """After every step; reading the loss waits for the device."""

    def warned(self, text: str) -> None:
        """Something about the run is doubtful (training.doubts); default: a `TrainingWarning`."""
        warnings.warn(text, TrainingWarning, stacklevel=2)

    def epoch_ended(self, history: History) -> None:
        """After the row of an epoch was written."""

    def ended(self, history: History) -> None:
        """After the last step, however the run ends."""


class WarningsOnly(Watcher):
    """Lines on stderr for what is doubtful, and nothing else."""

    def warned(self, text: str) -> None:
        from rich.console import Console

        shown = f"warning: {text}"
        Console(stderr=True).print(shown, highlight=False, markup=False, soft_wrap=True)


class ProgressBar(Watcher):
    """A bar on stderr, with loss and the last measurement; where stderr is no terminal, a line per epoch."""

    def __init__(self, every: float = 0.25) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._every, self._shown = every, 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}", markup=False),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip

    def began(self, history: History, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        done = len(history.rows) * steps
        if history.rows:
            self._say(f"resumed after epoch {len(history.rows)} of {epochs}")
        for task in self._bar.task_ids:  # of the run before, in a cascade
            self._bar.remove_task(task)
        self._task = self._bar.add_task("training", total=epochs * steps, completed=done, accuracy=_accuracies(history))
        self._bar.start()

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        now = time.monotonic()
        if now - self._shown < self._every or not self._console.is_terminal:
            return
        self._shown = now
        text = f"epoch {progress.epoch + 1}/{progress.epochs}  loss {float(loss):.3f}"
        self._bar.update(self._task, completed=progress.epoch * progress.steps + progress.step + 1, description=text)

    def epoch_ended(self, history: History) -> None:
        done = len(history.rows)
        self._bar.update(self._task, completed=done * self._steps, accuracy=_accuracies(history))
        if not self._console.is_terminal:
            row = history.rows[-1]
            shown = f"{_accuracies(history)}  " if row["clean"] is not None else ""
            best = "  best" if row["best"] else ""
            self._say(
                f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.4f}  {shown}{row['seconds']:.1f} s{best}"
            )

    def warned(self, text: str) -> None:
        self._say(f"warning: {text}")

    def ended(self, history: History) -> None:
        self._bar.stop()
        if history.stopped:
            self._say(f"stopped: {history.stopped}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _accuracies(history: History) -> str:
    """The last measurement, in words."""
    row = next((row for row in reversed(history.rows) if row["clean"] is not None), None)
    if row is None:
        return ""
    return "  ".join(f"{name} {row[name]:.2%}" for name in ("clean", "attacked", "verified"))
