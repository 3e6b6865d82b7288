"""The loop that every method shares: steps, epochs, measurements, and what is kept of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from properties.device import checked_before, sent
from training import doubts
from training.augmentation import apply
from training.batch_norm import batch_norms, batch_sizes
from training.evaluation import Accuracy, Measurement
from training.history import History
from training.interrupt import patient
from training.late import LateChecks
from training.method import Phase, Progress, TrainingMethod, TrainingRun
from training.network import NetworkInTraining
from training.plan import TrainingPlan, described
from training.randomness import stream
from training.run_folder import RunFolder
from training.training_set import Split, check_dtype, check_examples
from training.watcher import Watcher
from verifier.arguments import input_errors
from verifier.certification.dataset import Dataset
from verifier.certification.store import versions
from verifier.errors import InputError, VerifierError
from verifier.normalisation import metadata_of

#: seconds of work that are kept before an epoch ends, which may take long: accuracies are measured there
BEFORE_END = 5.0


class TrainingLoop:
    """One call of `train`."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        method: TrainingMethod,
        plan: TrainingPlan,
        folder: RunFolder | None,
        watcher: Watcher,
        held_out: Dataset | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.plan, self.folder, self.watcher = method, plan, folder, watcher
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        check_dtype(data, model)
        if plan.passes.identity() and not method.calls_module:
            raise InputError(
                f"{', '.join(plan.passes.identity())} would change nothing: {method.name!r} trains by its own passes "
                "through the graph, in the precision of the weights. Leave it out"
            )
        self.network = NetworkInTraining(model, data.example_input().to(device), plan.passes)
        for examples in (data,) if held_out is None else (data, held_out):
            check_examples(examples, model, self.network.classes, method.clip)
        if held_out is not None and held_out.images.shape[1:] != data.images.shape[1:]:
            shapes = [list(examples.images.shape[1:]) for examples in (held_out, data)]
            raise InputError(f"held-out images are {shapes[0]}, and training images {shapes[1]}: give both alike")
        tensors = [(name, list(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
        architecture = hashlib.sha256(f"{described(model)} {tensors}".encode()).hexdigest()
        self.identity = {**method.settings(), **plan.identity(), "data": data.digest(), "model": architecture}
        if held_out is not None:
            self.identity["held_out"] = held_out.digest()
        self.data = Split(data, held_out, plan.validation, plan.seed, device)
        if plan.patience is not None and not self.data.measured:
            raise InputError("patience needs validation images to measure on: hold some out, or train to the end")
        self.sizes = batch_sizes(len(self.data.used), method.batch, 2 if batch_norms(model) else 1)
        self.steps = len(self.sizes)
        self.generator = stream(plan.seed, "method")
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
        self.checks = LateChecks()
        self.best_weights: dict[str, Tensor] = {}
        self.saved_at = self.epoch_began = time.monotonic()

    @property
    def progress(self) -> Progress:
        return Progress(self.epoch, self.step, self.steps, self.plan.epochs)

    # --- the loop

    def go(self) -> History:
        self.phase = self._phase()
        self.optimiser = self._optimiser()
        if self.folder is not None:
            kept = self.folder.checkpoint(self.identity)
            if kept is not None:
                self._restore(kept)
            self._write_log()  # shows at once whether it can be written
            self._write_best()
        self.watcher.began(self.history, self.plan.epochs, self.steps)
        try:
            self._warn(
                doubts.before(self.method, self.method_run, self.plan.epochs, self.data.images, *self.data.classes)
            )
            with patient() as self.interrupt:
                while not self.done:
                    self._run_epoch()
        finally:
            self.watcher.ended(self.history)
        if self.best_weights:
            self.network.model.load_state_dict(self.best_weights)
        self._warn(doubts.after(self.network, self.history, self.method.goal, *self.data.asked))
        if self.folder is not None:
            self.folder.draw(self.history)
        return self.history

    def _warn(self, found: Iterable[str]) -> None:
        """Says what was not said before, and keeps it in the log."""
        for text in doubts.unsaid(list(found), self.history.warnings):
            self.history.warnings.append(text)
            self.watcher.warned(text)
            self._write_log()

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
        order = torch.randperm(len(self.data.used), generator=stream(self.plan.seed, "order", self.epoch))
        batches = self.data.batches(order, self.sizes)
        while self.step < self.steps:
            with checked_before():
                self._run_step(*self.data.batch(batches[self.step]))
            if self._unsaved > self.plan.checkpoint_seconds:
                self._save()
            if self.interrupt.asked:
                self._save()
                raise KeyboardInterrupt(f"after step {self.step} of {self.steps} in epoch {self.epoch + 1}")
        self.interrupt.waits = False  # what comes now may take long, and is done anew by who goes on
        if self._unsaved > min(self.plan.checkpoint_seconds, BEFORE_END):
            self._save()
        with checked_before():
            why = self.method_run.epoch_ended(Progress(self.epoch, self.steps - 1, self.steps, self.plan.epochs))
        self._finish_epoch(why)

    def _run_step(self, x: Tensor, label: Tensor) -> None:  # [b, *input], [b]
        if self.plan.augment is not None:
            x, label = apply(
                self.plan.augment, x, label, self.generator, self.network.classes, self.method.clip, self.checks
            )
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
                weighted = sent(value.detach().double(), x.device) * len(label)
                self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.step += 1
        self.watcher.stepped(progress, loss.value.detach())

    def _set_rate(self, progress: Progress) -> None:
        done = progress.done - self.phase.first
        for group in self.optimiser.param_groups:
            group["lr"] = self.method.optimiser.rate * self.phase.rate * self.method.rate.at(done, self.phase.epochs)

    def _finish_epoch(self, stopped: str | None) -> None:
        self._check_numbers()
        totals = torch.stack(list(self.sums.values())).tolist()  # read once
        figures = {name: total / len(self.data.used) for name, total in zip(self.sums, totals, strict=True)}
        last = self.epoch + 1 == self.plan.epochs or bool(stopped)
        measured = last or (self.epoch + 1) % self.plan.measure_every == 0
        accuracy = self._measure() if measured and self.data.measured else None
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
        self._save()
        self._write_log()
        if row["best"]:
            self._write_best()
        self.watcher.epoch_ended(self.history)

    def _enter_phase(self) -> None:
        """A new optimiser where the epoch begins a phase: before the checkpoint, which holds the present one."""
        phase = self._phase()
        if phase.index != self.phase.index:
            self.phase = phase
            self.optimiser = self._optimiser()

    def _measure(self) -> Accuracy:
        return self.measurement.of(self.network, *self.data.validation)

    def _is_best(self, accuracy: Accuracy | None, last: bool) -> bool:
        """Better than all before by the method's goal, or as good and more often right; without a split, the last."""
        if not self.data.measured:
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
        self.checks.settle()
        weights = [p.isfinite().all() for p in self.network.model.state_dict().values()]
        good = torch.stack([*(total.isfinite() for total in self.sums.values()), *weights]).tolist()
        if all(good):
            return
        bad = [name for name, fine in zip(self.sums, good, strict=False) if not fine]
        what = f"the {bad[0]} is" if bad else "a weight is"
        kept = "" if self.folder is None else f". The checkpoint and the weights in {self.folder.path} are from before"
        raise VerifierError(
            f"{what} no finite number in epoch {self.epoch + 1}, about step {self.step} of {self.steps}: the run went "
            f"astray. Start another with a lower learning rate, or a radius that grows more slowly{kept}"
        )

    # --- what is kept

    def _processor_seconds(self) -> float:
        """Of this process and those before it, of all threads."""
        return self.processor + time.process_time() - self.processor_began

    @property
    def _unsaved(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self.saved_at

    def _write_log(self) -> None:
        if self.folder is not None:
            self.history.about["processor_minutes"] = round(self._processor_seconds() / 60, 3)
            self.folder.write_log(self.history)

    def _write_best(self) -> None:
        if self.folder is not None and self.best_weights:
            self.folder.write_weights(self.best_weights, metadata_of(self.network.model))

    def _save(self) -> None:
        if self.folder is None:
            return
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
        self.folder.save(content)
        self.saved_at = time.monotonic()

    def _restore(self, content: dict[str, Any]) -> None:
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
