"""`train`: the loop that every method shares."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training import checkpoint, doubts
from training.augmentation import Augment, apply
from training.batch_norm import batch_norms, batch_sizes
from training.evaluation import Accuracy, Measurement
from training.history import History
from training.interrupt import patient
from training.method import Phase, Progress, TrainingMethod, TrainingRun
from training.modes import modes_kept
from training.network import NetworkInTraining
from training.watcher import Watcher
from verifier.arguments import input_errors
from verifier.certification.dataset import Dataset, TorchData, check_clip, check_labels, dataset
from verifier.certification.loaders import is_torch_data, read_for_training
from verifier.certification.lock import RunLock
from verifier.certification.store import versions
from verifier.device import checked_device
from verifier.errors import InputError, StoreError, VerifierError
from verifier.normalisation import metadata_of
from verifier.stages import canonical

#: the files of a run's folder
CHECKPOINT, WEIGHTS, LOG_CSV, LOG_JSON = "checkpoint.pt", "best.safetensors", "log.csv", "log.json"
CURVES = "curves.png"
#: seconds of work that are kept before an epoch ends, which may take long: accuracies are measured there
BEFORE_END = 5.0

#: what can be trained on
Data = Dataset | tuple[Any, Any] | TorchData


class Trained(NamedTuple):
    """What `train` returns: the model with the weights of the best epoch, in eval mode, and the log."""

    model: nn.Module
    history: History


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
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
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 to 2**63 - 1, got {self.seed}")
        if isinstance(self.stages, str):
            raise ValueError(f"stages must be a list of names, got the text {self.stages!r}")

    def identity(self) -> dict[str, Any]:
        """What of it decides the result, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "checkpoint_seconds"}
        stages = None if self.stages is None else list(canonical(self.stages))
        return {**values, "stages": stages, "augment": None if self.augment is None else _described(self.augment)}


def train(
    model: nn.Module,
    data: Data,
    method: TrainingMethod,
    *,
    epochs: int,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    validation: int | None = None,
    held_out: Data | None = None,
    measure_every: int = 1,
    patience: int | None = None,
    stages: tuple[str, ...] | None = None,
    augment: Augment | None = None,
    checkpoint_seconds: float = 60.0,
    watcher: Watcher | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a network by a method, and keep the weights of its best epoch.

    Args:
        model: trained in place, on `device`; ends in eval mode.
        data: images [N, *input] in the units of the network's input, and labels [N]: the training set. Or a torch
            Dataset, or a DataLoader, of pairs of them: it is read once, in the dataset's order.
        method: such as `LayerwiseAdversarial(eps=0.1)`; its settings include optimiser and batch.
        epochs: passes over the training images.
        device: "cpu", "cuda" or "cuda:0"; default where the model is.
        out: folder for checkpoint, log, best weights, and curves (with matplotlib); default none are written.
        resume: go on from the checkpoint in `out`, if there is one: the result is that of an uninterrupted run (to
            the bit on a CPU with as many threads). All but `device` and `checkpoint_seconds` must be as before.
        seed: of the order of the images, of the split, and of all else that is random.
        validation: images held out of `data`, by which the best epoch is chosen; default a tenth, at most 1000.
        held_out: images and labels to choose the best epoch by, in place of a part of `data` (`validation` is unused).
        measure_every: epochs between measurements; the last epoch is always measured.
        patience: stop when so many measurements in a row were not the best so far; default never.
        stages: names of stages that measure verified accuracy; default the method's.
        augment: random changes of each training batch, drawn from the generator (on the CPU) it is given:
            (images [B, *input], generator) -> images, or (images, labels [B], generator) -> (images, labels), such as
            `training.augmentation.augmentation("crop=4,flip", (3, 32, 32))`.
        checkpoint_seconds: at most so long between two checkpoints within an epoch.
        watcher: is told how it goes.
        about: what the log is to say beside (JSON values), such as what network and data are called.

    Raises:
        InputError: unusable data or settings. ModelError, UnsupportedError: the model cannot be trained this way.
        StoreError: `out` holds another run, or cannot be written.
        VerifierError: the loss is no number any more.
    """
    with input_errors():
        plan = TrainingPlan(
            epochs=epochs, seed=seed, validation=validation, measure_every=measure_every, patience=patience,
            stages=stages, augment=augment, checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
    chosen = checked_device(device)
    examples = training_set(data)
    if resume and out is None:
        raise InputError("resume needs `out`, the folder of the run to go on with")
    with ExitStack() as stack:
        folder = None if out is None else _folder(Path(out), resume, stack)
        stack.enter_context(modes_kept(model))
        if chosen is not None:
            model.to(chosen)
        device_used = next((p.device for p in model.parameters()), torch.device("cpu"))
        stack.enter_context(_own_randomness(plan.seed, device_used))
        stack.enter_context(torch.enable_grad())
        stack.callback(model.zero_grad, set_to_none=True)
        held = None if held_out is None else training_set(held_out)
        history = _TrainingLoop(model, examples, method, plan, folder, watcher or Watcher(), held, about).go()
    return Trained(model.eval(), history)


def training_set(data: Data) -> Dataset:
    """Images and labels, checked; see `train`. Raises InputError."""
    if isinstance(data, Dataset):
        return data
    if is_torch_data(data):
        return dataset(*read_for_training(data))
    assert isinstance(data, tuple | list)
    return dataset(*data)


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators (dropout draws from them) are the run's own; the caller's are put back."""
    on_device = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_device else []):
        torch.default_generator.manual_seed(_seed(seed, "torch"))
        if on_device:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_seed(seed, "torch"))
        yield


def _seed(seed: int, *purpose: object) -> int:
    """A seed for one purpose: streams for different purposes have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:7], "little")


def _stream(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, *purpose))


def _described(value: object) -> str:
    """A callable or a module in words that are the same in every process: without addresses."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if name else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _folder(out: Path, resume: bool, stack: ExitStack) -> Path:
    """The run's folder, made and locked; refused where it holds a run that is not to be resumed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {out}: {error.strerror}") from error
    stack.callback(RunLock(out / CHECKPOINT).release)
    for left in out.glob("*.tmp"):  # of a process that was killed while it wrote: we hold the lock
        if left.name.startswith((CHECKPOINT, WEIGHTS, LOG_CSV, LOG_JSON, CURVES)):
            left.unlink(missing_ok=True)
    if not resume and (out / CHECKPOINT).exists():
        raise StoreError(f"{out} holds a run already: resume it, or give another folder")
    return out


class _TrainingLoop:
    """One call of `train`."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        method: TrainingMethod,
        plan: TrainingPlan,
        folder: Path | None,
        watcher: Watcher,
        held_out: Dataset | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.plan, self.folder, self.watcher = method, plan, folder, watcher
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        _check_dtype(model, data)
        self.network = NetworkInTraining(model, data.example_input().to(device))
        for examples in (data,) if held_out is None else (data, held_out):
            _check_dtype(model, examples)
            check_labels(examples.labels, self.network.classes)
            if not all(bool(part.isfinite().all()) for part in examples.images.split(4096)):
                raise InputError("the images hold NaN or infinite values: remove those images")
            if method.clip is not None:
                _check_range(examples.images, method.clip)
        tensors = [(name, list(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
        architecture = hashlib.sha256(f"{_described(model)} {tensors}".encode()).hexdigest()
        self.identity = {**method.settings(), **plan.identity(), "data": data.digest(), "model": architecture}
        if held_out is not None:
            self.identity["held_out"] = held_out.digest()
        self._split(data, held_out, device)
        self.generator = _stream(plan.seed, "method")
        with input_errors():
            self.method_run: TrainingRun = method.begin(self.network, self.generator)
            self.measurement = Measurement(
                perturbation=method.perturbation,
                stages=method.stages if plan.stages is None else tuple(plan.stages),
            )
        here = {"versions": versions(), "device": str(device), "threads": torch.get_num_threads()}
        self.history = History(dict(self.identity), about={**(about or {}), **here})
        self.processor, self.processor_began = 0.0, time.process_time()
        self.epoch = self.step = self.misses = 0
        self.sums: dict[str, Tensor] = {}
        self.best_weights: dict[str, Tensor] = {}
        self.saved_at = self.epoch_began = time.monotonic()

    def _split(self, data: Dataset, given: Dataset | None, device: torch.device) -> None:
        """Training and validation images, on the device; `given`: the validation images, where they are given."""
        if given is not None:
            self.images, self.labels = data.images.to(device), data.labels.to(device)
            self.validation = given.images.to(device), given.labels.to(device)
            self.used = torch.arange(len(data))
            self._size_batches()
            return
        held = min(1000, len(data) // 10) if self.plan.validation is None else self.plan.validation
        if held >= len(data):
            raise InputError(f"{held} images cannot be held out of {len(data)}: none would be left to train on")
        if held == 0 and self.plan.patience is not None:
            raise InputError("patience needs validation images to measure on: hold some out, or train to the end")
        order = torch.randperm(len(data), generator=_stream(self.plan.seed, "split"))
        held_out, self.used = order[:held].sort().values, order[held:].sort().values
        self.images, self.labels = data.images.to(device), data.labels.to(device)  # no copy of those that are used
        self.validation = data.images[held_out].to(device), data.labels[held_out].to(device)
        self._size_batches()

    def _size_batches(self) -> None:
        """How many images each step of an epoch takes, and the number of steps."""
        self.sizes = batch_sizes(len(self.used), self.method.batch, 2 if batch_norms(self.network.model) else 1)
        self.steps = len(self.sizes)

    @property
    def progress(self) -> Progress:
        return Progress(self.epoch, self.step, self.steps, self.plan.epochs)

    # --- the loop

    def go(self) -> History:
        self.phase = self._phase()
        self.optimiser = self._optimiser()
        if self.folder is not None:
            if (self.folder / CHECKPOINT).exists():
                self._restore(checkpoint.load(self.folder / CHECKPOINT))
            self._write_log(self.folder)  # shows at once whether it can be written
            self._write_best(self.folder)
        self.watcher.began(self.history, self.plan.epochs, self.steps)
        try:
            self._warn(
                doubts.before(
                    self.method, self.method_run, self.plan.epochs, self.labels[self.used], self.validation[1]
                )
            )
            with patient() as self.interrupt:
                while not self.done:
                    self._run_epoch()
        finally:
            self.watcher.ended(self.history)
        if self.best_weights:
            self.network.model.load_state_dict(self.best_weights)
        asked = self.validation if len(self.validation[1]) else (self.images, self.labels)
        self._warn(doubts.after(self.network, self.history, self.method.goal, *asked))
        if self.folder is not None and importlib.util.find_spec("matplotlib") is not None:
            self.history.plot(self.folder / CURVES)
        return self.history

    def _warn(self, found: Iterable[str]) -> None:
        """Says what was not said before, and keeps it in the log."""
        for text in doubts.unsaid(list(found), self.history.warnings):
            self.history.warnings.append(text)
            self.watcher.warned(text)
            if self.folder is not None:
                self._write_log(self.folder)

    @property
    def done(self) -> bool:
        return self.epoch == self.plan.epochs or bool(self.history.stopped)

    def _phase(self) -> Phase:
        return self.method_run.phase(self.epoch, self.plan.epochs)

    def _optimiser(self) -> torch.optim.Optimizer:
        return self.method.optimiser.over(self.method_run.parameters(self.progress))

    def _run_epoch(self) -> None:
        self.network.model.train()
        self.interrupt.waits = True
        order = torch.randperm(len(self.used), generator=_stream(self.plan.seed, "order", self.epoch))
        batches = order.split(self.sizes)
        while self.step < self.steps:
            self._run_step(self.used[batches[self.step]].to(self.labels.device))
            if self.interrupt.asked:
                if self.folder is not None:
                    self._save()
                raise KeyboardInterrupt(f"after step {self.step} of {self.steps} in epoch {self.epoch + 1}")
        self.interrupt.waits = False  # what comes now may take long, and is done anew by who goes on
        if self.folder is not None and time.monotonic() - self.saved_at > min(self.plan.checkpoint_seconds, BEFORE_END):
            self._save()
        self._finish_epoch(
            self.method_run.epoch_ended(Progress(self.epoch, self.steps - 1, self.steps, self.plan.epochs))
        )

    def _run_step(self, index: Tensor) -> None:  # [b]
        x, label = self.images[index], self.labels[index]
        if self.plan.augment is not None:
            x, label = apply(self.plan.augment, x, label, self.generator)
        progress = self.progress
        self._set_rate(progress)
        self.optimiser.zero_grad(set_to_none=True)
        self.network.model.zero_grad(set_to_none=True)  # also what this phase does not move
        loss = self.method_run.loss(x, label, progress)
        loss.value.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.method_run.stepped(progress)
            for name, value in {**loss.figures, "loss": loss.value}.items():
                weighted = value.detach().double() * len(label)
                self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.step += 1
        self.watcher.stepped(progress, loss.value.detach())
        if self.folder is not None and time.monotonic() - self.saved_at > self.plan.checkpoint_seconds:
            self._save()

    def _set_rate(self, progress: Progress) -> None:
        done = progress.done - self.phase.first
        for group in self.optimiser.param_groups:
            group["lr"] = self.method.optimiser.rate * self.phase.rate * self.method.rate.at(done, self.phase.epochs)

    def _finish_epoch(self, stopped: str | None) -> None:
        self._check_numbers()
        figures = {name: float(total) / len(self.used) for name, total in self.sums.items()}
        last = self.epoch + 1 == self.plan.epochs or bool(stopped)
        measured = last or (self.epoch + 1) % self.plan.measure_every == 0
        accuracy = self._measure() if measured and len(self.validation[1]) else None
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "rate": self.optimiser.param_groups[0]["lr"],
            "seconds": time.monotonic() - self.epoch_began,
            "loss": figures.pop("loss"),
            **({"clean": None, "attacked": None, "verified": None} if accuracy is None else vars(accuracy)),
            "best": self._is_best(accuracy, last),
            **{f"train_{name}": value for name, value in figures.items()},
        }
        self.history.rows.append(row)
        if row["best"]:
            # clones: tied weights share their memory, which the file of weights cannot
            self.best_weights = {k: v.detach().clone() for k, v in self.network.model.state_dict().items()}
        self._warn(doubts.loss_doubt(self.history))
        self.history.stopped = stopped or self._out_of_patience(accuracy, row["best"])
        self.epoch, self.step, self.sums, self.epoch_began = self.epoch + 1, 0, {}, time.monotonic()
        if not self.done:
            self._enter_phase()
        if self.folder is not None:
            self._save()
            self._write_log(self.folder)
            if row["best"]:
                self._write_best(self.folder)
        self.watcher.epoch_ended(self.history)

    def _enter_phase(self) -> None:
        """A new optimiser where the epoch begins a phase: before the checkpoint, which holds the present one."""
        phase = self._phase()
        if phase.index != self.phase.index:
            self.phase = phase
            self.optimiser = self._optimiser()

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
        if self.plan.patience is None or self.misses < self.plan.patience or self.epoch + 1 == self.plan.epochs:
            return ""
        return f"no better {self.method.goal} accuracy in {self.misses} measurements"

    def _check_numbers(self) -> None:
        """Before anything is kept: a loss that is no number, and weights that are none, would spoil the checkpoint."""
        bad = [name for name, total in self.sums.items() if not bool(total.isfinite())]
        if not bad and all(bool(p.isfinite().all()) for p in self.network.model.state_dict().values()):
            return
        what = f"the {bad[0]} is" if bad else "a weight is"
        kept = "" if self.folder is None else f". The checkpoint and the weights in {self.folder} are from before"
        raise VerifierError(
            f"{what} no finite number in epoch {self.epoch + 1}, about step {self.step} of {self.steps}: the run went "
            f"astray. Start another with a lower learning rate, or a radius that grows more slowly{kept}"
        )

    # --- what is kept

    def _processor_seconds(self) -> float:
        """Of this process and those before it, of all threads."""
        return self.processor + time.process_time() - self.processor_began

    def _write_log(self, folder: Path) -> None:
        self.history.about["processor_minutes"] = round(self._processor_seconds() / 60, 3)
        self.history.to_csv(folder / LOG_CSV)
        self.history.to_json(folder / LOG_JSON)

    def _write_best(self, folder: Path) -> None:
        from safetensors.torch import save

        if self.best_weights:
            content = save(
                {k: v.contiguous().cpu() for k, v in self.best_weights.items()},
                metadata_of(self.network.model),
            )
            checkpoint.replaced(folder / WEIGHTS, lambda beside: beside.write_bytes(content))

    def _save(self) -> None:
        assert self.folder is not None
        self._check_numbers()
        device = self.network.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        content = {
            "identity": self.identity, "epoch": self.epoch, "step": self.step, "misses": self.misses,
            "sums": self.sums, "rows": self.history.rows, "stopped": self.history.stopped,
            "warnings": self.history.warnings,
            "seconds": time.monotonic() - self.epoch_began, "processor": self._processor_seconds(),
            "weights": self.network.model.state_dict(), "best": self.best_weights,
            "optimiser": self.optimiser.state_dict(), "course": self.method_run.state(),
            "generator": self.generator.get_state(), "torch": torch.get_rng_state(), "cuda": cuda,
        }  # fmt: skip
        checkpoint.save(self.folder / CHECKPOINT, content)
        self.saved_at = time.monotonic()

    def _restore(self, content: dict[str, Any]) -> None:
        self._check_identity(content["identity"])
        device = self.network.device
        self.epoch, self.step, self.misses = content["epoch"], content["step"], content["misses"]
        self.history.rows, self.history.stopped = content["rows"], content["stopped"]
        self.history.warnings = content.get("warnings", [])  # of earlier versions: none
        self.sums = {name: value.to(device) for name, value in content["sums"].items()}
        self.network.model.load_state_dict(content["weights"])
        self.best_weights = {name: value.to(device) for name, value in content["best"].items()}
        self.method_run.restore(content["course"])
        if not self.done:
            self.phase = self._phase()
            self.optimiser = self._optimiser()
            self.optimiser.load_state_dict(content["optimiser"])
        self.generator.set_state(content["generator"])
        torch.default_generator.set_state(content["torch"])
        if content["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda"], device)
        self.saved_at = time.monotonic()
        self.epoch_began = self.saved_at - content["seconds"]
        self.processor = content.get("processor", 0.0)

    def _check_identity(self, there: dict[str, Any]) -> None:
        """Raises StoreError where the checkpoint is of another run."""
        for key in sorted({*there, *self.identity}):
            was, now = there.get(key), self.identity.get(key)
            if was == now:
                continue
            said = {
                "data": "it was of other training data", "model": "it was of another architecture",
                "held_out": "it chose its best epoch by other images",
            }  # fmt: skip
            raise StoreError(
                f"{self.folder} holds another run: {said.get(key) or f'{key} was {was!r}, and is {now!r}'}. "
                "Resume with what it was begun with, or give another folder"
            )


def _check_dtype(model: nn.Module, data: Dataset) -> None:
    """Raises InputError where images and weights are of different precision."""
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), data.images.dtype)
    if weights != data.images.dtype:
        raise InputError(
            f"the images are {str(data.images.dtype).removeprefix('torch.')} and the model's weights "
            f"{str(weights).removeprefix('torch.')}: convert the images"
        )


def _check_range(images: Tensor, clip: tuple[float, float]) -> None:  # [N, *input]
    """Raises InputError where an image is not in the valid range: there is no set around it."""
    check_clip(images, clip)
    parts = images.flatten(1).split(4096)  # a large set is not there a second time
    outside = torch.cat([((part < clip[0]) | (part > clip[1])).any(1) for part in parts])
    if bool(outside.any()):
        raise InputError(
            f"{int(outside.sum())} images have values outside the valid range [{clip[0]}, {clip[1]}], the "
            f"first at index {int(outside.nonzero()[0])}: clamp them, or give clip in the units of the images, or none"
        )
