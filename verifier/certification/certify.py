"""Certify a test set batch by batch into a store that survives interruption."""

from __future__ import annotations

import contextlib
import enum
import numbers
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from properties import Perturbation, Question, Specification, Threat, robustness
from verifier.api import DEFAULT_EXAMPLE_BUDGET, Prepared, Verifiable, Verifier, prepared
from verifier.arguments import check_classifier, checked_semantics, input_errors
from verifier.certification.certificates import CertificateFolder
from verifier.certification.dataset import Dataset, Images, Labels, check_clip, check_labels, dataset
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow, records
from verifier.certification.progress import Listener, ProgressDisplay, Tally
from verifier.certification.report import Report
from verifier.certification.store import RunIdentity, Store, StorePath, parts_left
from verifier.device import checked_device
from verifier.errors import InputError
from verifier.graph.runner import ImportedModel
from verifier.graph.torch_import import check_model
from verifier.stages import Stage
from verifier.verdict import Semantics, StageCost

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: examples per batch: enough to fill two CPU cores with the papers' networks, and little to lose when killed
DEFAULT_BATCH_SIZE = 256


#: attributes of stages that change no answer
_NO_OPTIONS = frozenset(("aliases", "cost_rank", "memory", "name", "source"))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; the message says what is kept and how to continue."""


def certify(
    model: nn.Module | ExportedProgram | ImportedModel | Verifiable,
    images: Images,
    labels: Labels,
    eps: float,
    *,
    threat: str | Threat = "linf",
    clip: tuple[float, float] | None = None,
    question: str | Question | None = None,
    store: StorePath | None = None,
    resume: bool = False,
    stages: Sequence[str | Stage] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    budget: float | None = None,
    example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
    first_index: int = 0,
    certificates: str | os.PathLike[str] | None = None,
    semantics: str | Semantics = Semantics.REAL,
    progress: bool | Listener = True,
) -> Report:
    """Decides for each image whether any input within `eps` of it changes the model's label.

    Each batch is committed to the store as a whole, so that Ctrl-C or kill -9 lose at most the batch in hand. An
    example that raises (a NaN pixel, say) becomes a row with outcome ERROR and its message, and the run goes on. Such
    rows are final: resuming a run does not try them again. To do so, certify those examples into another store.

    Args:
        model: a module in eval mode, what torch.export made of one, an `OnnxModel`, or a `NetworkCascade`.
        images: [N, *input] floating point tensor or array, in the units that the model sees at its input.
        labels: [N] integers, 0 .. classes - 1.
        eps: radius >= 0, in the units of the images unless the threat model says otherwise.
        threat: what "within" means, such as "linf", "l2" or "linf+5*l2" (properties.Threat).
        clip: (low, high), the valid range of inputs; None: all numbers are.
        question: what is asked in place of whether the label changes, by name, such as "near:8" or "threshold:0.5"
            (`properties.Question`); labels that it is not about are only recorded.
        store: path of an SQLite file to make; None keeps the rows in memory, with the report.
        resume: continue the run in `store` where there is one (it must have the same model, data and settings), and
            start it where there is none.
        stages: names of the stages to use, or Stage objects, in order; None: `verifier.api.DEFAULT_STAGES`.
        device: where to compute, "cpu" or a CUDA device; None: where the model is.
        dtype: precision of the bounds; None: the model's.
        batch_size: examples per batch and transaction, default DEFAULT_BATCH_SIZE.
        budget: seconds per batch; None: no limit.
        example_budget: seconds per example; None: no limit.
        first_index: index of the first image, where the images are a slice of a larger set.
        certificates: folder to write a certificate to for every VERIFIED (or a text that says why it has none), with
            the network that they are about; `verifier check` reads them. Examples that a resumed run finds in its store
            get none anew.
        semantics: what a verdict is about, "real" or "float32" (verifier.result.Semantics).
        progress: whether to show progress on stderr, or a function to call with the counts (a `Tally`) at the start
            and after each batch.

    Raises:
        InputError: unusable arguments or images that do not fit the model.
        ModelError, UnsupportedError: the model cannot be verified.
        StoreError: the store exists, is of another run, is corrupt, cannot be written, or its disk is full.
        Interrupted: (a KeyboardInterrupt) on Ctrl-C.
    """
    data = dataset(images, labels)
    if resume and store is None:
        raise InputError("resume=True needs store=, the path of the run to continue")
    with input_errors():
        asked = Perturbation(_number(eps, "eps"), threat, clip)
        wanted = Question.parse(question) if isinstance(question, str) else question
    settings = _settings(asked, batch_size, budget, example_budget, first_index)
    device = checked_device(device)
    if isinstance(model, Verifiable):
        model.check_question(asked)
    elif not isinstance(model, ImportedModel):
        check_model(model)
    example = data.example_input().to(input_precision(model))
    verifier = prepared(model, example, stages=stages, device=device, dtype=dtype, semantics=semantics)
    if wanted is None or wanted.labelled:
        check_classifier(verifier.output_shape)
        check_labels(data.labels, verifier.classes)
    if asked.clip is not None:
        check_clip(data.images, asked.clip)
    settings |= {
        "stages": [_describe(stage) for stage in verifier.stages],
        "device": verifier.device.type,
        "dtype": str(verifier.dtype).removeprefix("torch."),
        "semantics": checked_semantics(semantics).value,
    }
    # of one example: what does not fit the network is known now
    spec = _specification(wanted, verifier, example, data.labels[:1])
    if wanted is not None:
        settings["question"] = str(wanted)
    identity = RunIdentity(verifier.graph_digest(), data.digest(), settings, len(data))
    folder = _folder(certificates, verifier, spec)
    run = _BatchLoop(verifier, data, asked, wanted, settings["example_budget"], first_index, folder)
    opened = Store.resume(store, identity) if resume and store is not None else Store.create(store, identity)
    try:
        _all_batches(run, opened, settings["batch_size"], settings["budget"], progress)
        return Report.of(opened)
    finally:
        if store is not None:  # rows in memory live as long as the report does
            opened.close()


@dataclass(frozen=True)
class _BatchLoop:
    """What stays the same over all batches of a run."""

    verifier: Prepared
    data: Dataset
    asked: Perturbation
    question: Question | None  #: None: does the label stay
    example_budget: float | None  #: seconds per example
    first_index: int
    folder: CertificateFolder | None

    def attempt(self, part: range, budget: float | None) -> tuple[list[ExampleRecord], list[StageCost]]:
        """Runs the examples at positions `part` of the data in one call; raises what they raise."""
        x, label = self.data.images[part.start : part.stop], self.data.labels[part.start : part.stop]
        region = self.asked.around(x)
        spec = _specification(self.question, self.verifier, x, label)
        result = self.verifier.run(region, spec, budget, self.example_budget)
        indices = range(self.first_index + part.start, self.first_index + part.stop)
        if self.folder is not None:
            self.folder.write(result, indices)
        return records(result, indices), list(result.stages)

    def evaluate(self, part: range, budget: float | None) -> tuple[list[ExampleRecord], list[StageCost]]:
        """As `attempt`, but where that raises, halves `part` down to the examples that raise: those become errors."""
        started = time.perf_counter()
        try:
            return self.attempt(part, budget)
        except Exception as error:
            if len(part) == 1:
                return [self._error(part.start, error, time.perf_counter() - started)], []
        # Outside the handler, so that what the failed attempt had allocated is free again.
        middle = part.start + len(part) // 2
        halves = [
            self.evaluate(half, None if budget is None else budget * len(half) / len(part))
            for half in (range(part.start, middle), range(middle, part.stop))
        ]
        return halves[0][0] + halves[1][0], total_stages(halves[0][1] + halves[1][1])

    def _error(self, position: int, error: Exception, seconds: float) -> ExampleRecord:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        label = int(self.data.labels[position])
        index = self.first_index + position
        return ExampleRecord(
            ExampleRow(index, label, ExampleOutcome.ERROR, seconds=seconds, error=message, traceback=trace)
        )


def _specification(
    question: Question | None, verifier: Prepared, x: Tensor, label: Tensor
) -> Specification:  # [B, *input], [B]
    """What must hold around x. Raises InputError where the question does not fit the network."""
    if question is None:
        return robustness(label, verifier.classes)
    if not isinstance(verifier, Verifier):
        raise InputError("questions by name are for one network, not for several whose outputs are answers")
    return verifier.specification(question, x, label)


def _folder(
    certificates: str | os.PathLike[str] | None, verifier: Prepared, spec: Specification
) -> CertificateFolder | None:
    if certificates is None:
        return None
    if not isinstance(verifier, Verifier):
        raise InputError("certificates are about one network: certify each network of a cascade by itself")
    return CertificateFolder.open(certificates, verifier.proved_of(spec), verifier.semantics)


def total_stages(costs: Iterable[StageCost]) -> list[StageCost]:
    """One entry per stage, in order of first appearance."""
    totals: dict[str, StageCost] = {}
    for c in costs:
        t = totals.get(c.name, StageCost(c.name, 0, 0, 0.0))
        totals[c.name] = StageCost(c.name, t.decided + c.decided, t.attempted + c.attempted, t.seconds + c.seconds)
    return list(totals.values())


def _all_batches(
    run: _BatchLoop, store: Store, batch_size: int, budget: float | None, progress: bool | Listener
) -> None:
    """Runs and commits every example that the store has no row of, in batches; batch k is k * batch_size onwards."""
    tally = Tally(len(run.data)).plus(store.snapshot().examples)
    try:
        with _listener(progress, tally.total) as listen:
            listen(tally)
            for part in parts_left(store.finished(), run.first_index, len(run.data), batch_size):
                started = time.perf_counter()
                rows, costs = run.evaluate(part, budget)
                store.write_batch(run.first_index + part.start, rows, costs, time.perf_counter() - started)
                tally = tally.plus(row.example for row in rows)
                listen(tally)
    except KeyboardInterrupt:
        raise Interrupted(_interrupted_message(store, tally.total)) from None


def _interrupted_message(store: Store, total: int) -> str:
    if store.path is None:
        return "interrupted; the run had no store, so nothing is kept"
    done = len(store.finished())
    return f"interrupted: {done} of {total} examples are in {store.path}; resume=True (--resume) continues the run"


@contextlib.contextmanager
def _listener(progress: bool | Listener, total: int) -> Iterator[Listener]:
    if callable(progress):
        yield progress
    elif progress:
        with ProgressDisplay(total) as display:
            yield display
    else:
        yield lambda tally: None


def _settings(
    asked: Perturbation, batch_size: int | None, budget: float | None, example_budget: float | None, first_index: int
) -> dict[str, Any]:
    """The settings that an answer depends on, checked, as JSON values. Raises InputError."""
    size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    if not isinstance(size, numbers.Integral) or size < 1:
        raise InputError(f"batch_size must be an integer >= 1, got {size}")
    if not isinstance(first_index, numbers.Integral) or first_index < 0:
        raise InputError(f"first_index must be an integer >= 0, got {first_index}")
    for name, seconds in (("budget", budget), ("example_budget", example_budget)):
        if seconds is not None and not _number(seconds, name) > 0:
            raise InputError(f"{name} must be a number of seconds > 0, got {seconds}")
    return {
        **asked.describe(),
        "batch_size": int(size),
        "budget": None if budget is None else float(budget),
        "example_budget": None if example_budget is None else float(example_budget),
        "first_index": int(first_index),
    }


def _number(value: Any, name: str) -> float:
    try:
        if "bool" in (type(value).__name__, str(getattr(value, "dtype", "")).removeprefix("torch.")):
            raise TypeError("a truth value is no number")
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be one number, got {value!r}") from error


def input_precision(model: nn.Module | ExportedProgram | ImportedModel | Verifiable) -> torch.dtype:
    """Of the model's weights; float32 where it has none."""
    if isinstance(model, Verifiable | ImportedModel):
        return model.precision
    state = model.state_dict() if isinstance(model, nn.Module) else model.state_dict
    found = (t.dtype for t in state.values() if isinstance(t, Tensor) and t.is_floating_point())
    return next(found, torch.float32)


def _describe(stage: Stage) -> str:
    """A stage and the options that its answers depend on, such as "dual(rule=fixed)"."""
    return _with_options(stage.name, stage)


def _with_options(name: str, thing: object) -> str:
    options = {k: v for k, v in sorted(vars(thing).items()) if not k.startswith("_") and k not in _NO_OPTIONS}
    texts = (f"{k}={_option(v)}" for k, v in options.items())
    return f"{name}({', '.join(texts)})" if options else name


def _option(value: object) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_option, value))}]"
    # an object with options of its own, whose repr would be its address
    plain = type(value).__repr__ is not object.__repr__
    return repr(value) if plain else _with_options(type(value).__name__, value)
