"""`train`: the loop that every method shares."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training import checkpoint
from training.evaluation import Accuracy, Measurement
from training.history import History
from training.method import Course, Method, Moment, Phase
from training.network import Network
from training.watcher import Watcher
from verifier.api import input_errors
from verifier.certification.dataset import Dataset, check_clip, check_labels, dataset
from verifier.certification.lock import RunLock
from verifier.device import checked_device
from verifier.errors import InputError, StoreError, VerifierError

#: the files of a run's folder
CHECKPOINT, WEIGHTS, LOG_CSV, LOG_JSON = "checkpoint.pt", "best.safetensors", "log.csv", "log.json"

#: random changes of a training batch [B, *input], all that is random drawn from the generator
Augment = Callable[[Tensor, torch.Generator], Tensor]


class Trained(NamedTuple):
    """What `train` returns: the model with the weights of the best epoch, in eval mode, and the log."""

    model: nn.Module
    history: History


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run is run, whatever the method; see `train`."""

    epochs: int
    seed: int = 0
    validation: int | None = None
    measure_every: int = 1
    patience: int | None = None
    stages: tuple[str, ...] | None = None
    augment: Augment | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "measure_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.validation is not None and self.validation < 0:
            raise ValueError(f"validation must be a number of images >= 0, got {self.validation}")


def train(
    model: nn.Module,
    data: Dataset | tuple[Any, Any],
    method: Method,
    *,
    epochs: int,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    validation: int | None = None,
    measure_every: int = 1,
    patience: int | None = None,
    stages: tuple[str, ...] | None = None,
    augment: Augment | None = None,
    checkpoint_seconds: float = 60.0,
    watcher: Watcher | None = None,
) -> Trained:
    """Train a network by a method, and keep the weights of its best epoch.

    Args:
        model: trained in place, on `device`; ends in eval mode.
        data: images [N, *input] in the units of the network's input, and labels [N]: the training set.
        method: such as `LayerwiseAdversarial(eps=0.1)`; its settings include optimiser and batch.
        epochs: passes over the training images.
        device: "cpu", "cuda" or "cuda:0"; default where the model is.
        out: folder for checkpoint, log and best weights; default none are written.
        resume: go on from the checkpoint in `out`, if there is one: the result is that of an uninterrupted run (to
            the bit on a CPU with as many threads).
        seed: of the order of the images, of the split, and of all else that is random.
        validation: images held out of `data`, by which the best epoch is chosen; default a tenth, at most 1000.
        measure_every: epochs between measurements; the last epoch is always measured.
        patience: stop when so many measurements in a row were not the best so far; default never.
        stages: names of stages that measure verified accuracy; default the method's.
        augment: random changes of each training batch.
        checkpoint_seconds: at most so long between two checkpoints within an epoch.
        watcher: is told how it goes.

    Raises:
        InputError: unusable data or settings. ModelError, UnsupportedError: the model cannot be trained this way.
        StoreError: `out` holds another run, or cannot be written.
        VerifierError: the loss is no number any more.
    """
    with input_errors():
        plan = Plan(
            epochs=epochs, seed=seed, validation=validation, measure_every=measure_every, patience=patience,
            stages=stages, augment=augment, checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
    chosen = checked_device(device)
    if chosen is not None:
        model.to(chosen)
    examples = data if isinstance(data, Dataset) else dataset(*data)
    if resume and out is None:
        raise InputError("resume needs `out`, the folder of the run to go on with")
    with ExitStack() as stack:
        folder = None if out is None else _folder(Path(out), resume, stack)
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(plan.seed)
        history = _Run(model, examples, method, plan, folder, watcher or Watcher()).go()
    return Trained(model.eval(), history)


def _folder(out: Path, resume: bool, stack: ExitStack) -> Path:
    """The run's folder, made and locked; refused where it holds a run that is not to be resumed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {out}: {error.strerror}") from error
    stack.callback(RunLock(out / CHECKPOINT).release)
    if not resume and (out / CHECKPOINT).exists():
        raise StoreError(f"{out} holds a run already: resume it, or give another folder")
    return out


class _Run:
    """One call of `train`."""

    def __init__(
        self, model: nn.Module, data: Dataset, method: Method, plan: Plan, folder: Path | None, watcher: Watcher
    ) -> None:
        self.method, self.plan, self.folder, self.watcher = method, plan, folder, watcher
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.network = Network(model, data.example_input().to(device))
        check_labels(data.labels, self.network.classes)
        if not bool(data.images.isfinite().all()):
            raise InputError("the training images hold NaN or infinite values: remove those images")
        if method.clip is not None:
            check_clip(data.images, method.clip)
        self.identity = {
            **method.settings(),
            **{k: str(v) for k, v in dataclasses.asdict(plan).items() if k != "checkpoint_seconds"},
            "data": data.digest(),
            "model": hashlib.sha256(f"{model} {[tuple(p.shape) for p in model.parameters()]}".encode()).hexdigest(),
        }
        self._split(data, device)
        self.generator = torch.Generator().manual_seed(plan.seed)
        with input_errors():
            self.course: Course = method.begin(self.network, self.generator)
            self.measurement = Measurement(
                eps=method.eps, threat=method.threat, clip=method.clip,
                stages=method.stages if plan.stages is None else tuple(plan.stages),
            )  # fmt: skip
        self.history = History(dict(self.identity))
        self.epoch = self.step = self.misses = 0
        self.sums: dict[str, Tensor] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()

    def _split(self, data: Dataset, device: torch.device) -> None:
        """Training and validation images, on the device."""
        held = min(1000, len(data) // 10) if self.plan.validation is None else self.plan.validation
        if held >= len(data):
            raise InputError(f"{held} images cannot be held out of {len(data)}: none would be left to train on")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.plan.seed))
        held_out, used = order[:held].sort().values, order[held:].sort().values
        self.images, self.labels = data.images[used].to(device), data.labels[used].to(device)
        self.validation = data.images[held_out].to(device), data.labels[held_out].to(device)
        self.steps = -(-len(used) // self.method.batch)

    @property
    def moment(self) -> Moment:
        return Moment(self.epoch, self.step, self.steps, self.plan.epochs)

    # --- the loop

    def go(self) -> History:
        self.optimiser, self.phase = self._optimiser(), self._phase()
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            self._restore(checkpoint.load(self.folder / CHECKPOINT))
        self.watcher.began(self.history, self.plan.epochs, self.steps)
        try:
            while self.epoch < self.plan.epochs and not self.history.stopped:
                self._run_epoch()
        finally:
            self.watcher.ended(self.history)
        if self.best_weights:
            self.network.model.load_state_dict(self.best_weights)
        return self.history

    def _phase(self) -> Phase:
        return self.course.phase(self.epoch, self.plan.epochs)

    def _optimiser(self) -> torch.optim.Optimizer:
        return self.method.optimiser.over(self.course.parameters(self.moment))

    def _run_epoch(self) -> None:
        began = time.monotonic()
        phase = self._phase()
        if phase.index != self.phase.index:
            self.phase, self.optimiser = phase, self._optimiser()
        self.network.model.train()
        order = torch.randperm(
            len(self.labels), generator=torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.epoch)
        ).split(self.method.batch)
        while self.step < self.steps:
            self._run_step(order[self.step].to(self.labels.device))
        last = Moment(self.epoch, self.steps - 1, self.steps, self.plan.epochs)
        stopped = self.course.epoch_ended(last)
        self._finish_epoch(began, stopped)

    def _run_step(self, index: Tensor) -> None:
        x, label = self.images[index], self.labels[index]
        if self.plan.augment is not None:
            x = self.plan.augment(x, self.generator)
        moment = self.moment
        self._set_rate(moment)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.course.loss(x, label, moment)
        loss.value.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.course.stepped(moment)
            for name, value in {"loss": loss.value, **loss.figures}.items():
                self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach() * len(label)
        self.step += 1
        self.watcher.stepped(moment, loss.value.detach())
        if self.folder is not None and time.monotonic() - self.saved_at > self.plan.checkpoint_seconds:
            self._save()

    def _set_rate(self, moment: Moment) -> None:
        done = moment.done - self.phase.first
        for group in self.optimiser.param_groups:
            group["lr"] = self.method.optimiser.rate * self.method.rate.at(done, self.phase.epochs)

    def _finish_epoch(self, began: float, stopped: str | None) -> None:
        figures = {name: float(total) / len(self.labels) for name, total in self.sums.items()}
        self._check_numbers()
        last = self.epoch + 1 == self.plan.epochs or bool(stopped)
        measured = last or (self.epoch + 1) % self.plan.measure_every == 0
        accuracy = self._measure() if measured and len(self.validation[1]) else None
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "rate": self.optimiser.param_groups[0]["lr"],
            "seconds": time.monotonic() - began,
            "loss": figures.pop("loss"),
            **({"clean": None, "attacked": None, "verified": None} if accuracy is None else vars(accuracy)),
            "best": self._is_best(accuracy, last),
            **{f"train_{name}": value for name, value in figures.items()},
        }
        self.history.rows.append(row)
        if row["best"]:
            self.best_weights = copy.deepcopy(self.network.model.state_dict())
        self.history.stopped = stopped or self._out_of_patience(accuracy, row["best"])
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        if self.folder is not None:
            self._save()
            self._write_results(self.folder)
        self.watcher.epoch_ended(self.history)

    def _measure(self) -> Accuracy:
        return self.measurement.of(self.network, *self.validation)

    def _is_best(self, accuracy: Accuracy | None, last: bool) -> bool:
        """Better than all before by the method's goal, or as good and more often right; without a split, the last."""
        if not len(self.validation[1]):
            return last
        if accuracy is None:
            return False
        best, goal = self.history.best, self.method.goal
        return best is None or (accuracy.of(goal), accuracy.clean) > (best[goal], best["clean"])

    def _out_of_patience(self, accuracy: Accuracy | None, best: bool) -> str:
        if accuracy is not None:
            self.misses = 0 if best else self.misses + 1
        if self.plan.patience is None or self.misses < self.plan.patience:
            return ""
        return f"no better {self.method.goal} accuracy in {self.misses} measurements"

    def _check_numbers(self) -> None:
        bad = [name for name, total in self.sums.items() if not bool(total.isfinite())]
        if bad:
            raise VerifierError(
                f"{bad[0]} is no finite number in epoch {self.epoch + 1}: the run went astray. Lower the learning "
                "rate, or let the radius grow more slowly. The last checkpoint is from before"
            )

    # --- what is kept

    def _write_results(self, folder: Path) -> None:
        from safetensors.torch import save_file

        self.history.to_csv(folder / LOG_CSV)
        self.history.to_json(folder / LOG_JSON)
        if self.best_weights:
            weights = {k: v.contiguous().cpu() for k, v in self.best_weights.items()}
            checkpoint.replaced(folder / WEIGHTS, lambda beside: save_file(weights, beside))

    def _save(self) -> None:
        assert self.folder is not None
        self._check_numbers()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        content = {
            "identity": self.identity, "epoch": self.epoch, "step": self.step, "misses": self.misses,
            "sums": self.sums, "rows": self.history.rows, "stopped": self.history.stopped, "phase": self.phase.index,
            "weights": self.network.model.state_dict(), "best": self.best_weights,
            "optimiser": self.optimiser.state_dict(), "course": self.course.state(),
            "generator": self.generator.get_state(), "torch": torch.get_rng_state(), "cuda": cuda,
        }  # fmt: skip
        checkpoint.save(self.folder / CHECKPOINT, content)
        self.saved_at = time.monotonic()

    def _restore(self, content: dict[str, Any]) -> None:
        there = content["identity"]
        for key in sorted({*there, *self.identity}):
            if there.get(key) != self.identity.get(key):
                raise StoreError(
                    f"{self.folder} holds another run: {key} was {there.get(key)!r}, "
                    f"and is {self.identity.get(key)!r}. Resume with the same settings, or give another folder"
                )
        self.epoch, self.step, self.misses = content["epoch"], content["step"], content["misses"]
        self.history.rows, self.history.stopped = content["rows"], content["stopped"]
        device = self.network.device
        self.sums = {name: value.to(device) for name, value in content["sums"].items()}
        self.network.model.load_state_dict(content["weights"])
        self.best_weights = {name: value.to(device) for name, value in content["best"].items()}
        self.course.restore(content["course"])
        # at the end of a phase the checkpoint still holds the old phase's optimiser, which the next epoch replaces
        before = self.epoch
        if self.step == 0 and self.epoch > 0:
            self.epoch -= 1
        self.phase, self.optimiser = self._phase(), self._optimiser()
        self.epoch = before
        self.optimiser.load_state_dict(content["optimiser"])
        self.generator.set_state(content["generator"])
        torch.set_rng_state(content["torch"])
        if content["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["cuda"])
