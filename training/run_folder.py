"""The folder that a run leaves behind: checkpoint, best weights, log and curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from training import checkpoint
from training.history import History
from verifier.certification.lock import RunLock
from verifier.errors import StoreError

#: the files of a run's folder
CHECKPOINT, WEIGHTS, LOG_CSV, LOG_JSON = "checkpoint.pt", "best.safetensors", "log.csv", "log.json"
CURVES = "curves.png"


class RunFolder:
    """A run's folder, made and locked until `stack` is closed.

    Raises:
        StoreError: it holds a run that is not to be resumed, another process has it, or it cannot be made.
    """

    def __init__(self, path: Path, resume: bool, stack: ExitStack) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {path}: {error.strerror}") from error
        stack.callback(RunLock(path / CHECKPOINT).release)
        for left in path.glob("*.tmp"):  # of a process that was killed while it wrote: we hold the lock
            if left.name.startswith((CHECKPOINT, WEIGHTS, LOG_CSV, LOG_JSON, CURVES)):
                left.unlink(missing_ok=True)
        if not resume and (path / CHECKPOINT).exists():
            raise StoreError(f"{path} holds a run already: resume it, or give another folder")

    def checkpoint(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was saved last; None where nothing was.

        Raises:
            StoreError: it is of another run than that of `identity`, or no checkpoint.
        """
        if not (self.path / CHECKPOINT).exists():
            return None
        content = checkpoint.load(self.path / CHECKPOINT)
        self._check_identity(content["identity"], identity)
        return content

    def save(self, content: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        checkpoint.save(self.path / CHECKPOINT, content)

    def write_log(self, history: History) -> None:
        """Replace both forms of the log."""
        history.to_csv(self.path / LOG_CSV)
        history.to_json(self.path / LOG_JSON)

    def write_weights(self, weights: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
        """Replace the weights of the best epoch."""
        checkpoint.save_weights(self.path / WEIGHTS, weights, metadata)

    def draw(self, history: History) -> None:
        """The curves, where matplotlib is installed."""
        if importlib.util.find_spec("matplotlib") is not None:
            history.plot(self.path / CURVES)

    def _check_identity(self, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        """Raises StoreError where the checkpoint is of another run."""
        for key in sorted({*there, *here}):
            was, now = there.get(key), here.get(key)
            if was == now:
                continue
            said = {
                "data": "it was of other training data", "model": "it was of another architecture",
                "held_out": "it chose its best epoch by other images",
            }  # fmt: skip
            raise StoreError(
                f"{self.path} holds another run: {said.get(key) or f'{key} was {was!r}, and is {now!r}'}. "
                "Resume with what it was begun with, or give another folder"
            )
