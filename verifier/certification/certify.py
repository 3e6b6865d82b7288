"""Certify a test set, example by example, into a store that survives interruption."""

from __future__ import annotations

import enum
import logging
import numbers
import os
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from properties import Perturbation, Question, Threat
from verifier.api import DEFAULT_EXAMPLE_BUDGET, Verifiable
from verifier.arguments import check_classifier, checked_semantics, input_errors
from verifier.budget import some_seconds
from verifier.certification.certificates import CertificateFolder
from verifier.certification.curve import Sweep
from verifier.certification.dataset import Dataset, Images, Labels, TorchData, check_clip, check_labels, dataset
from verifier.certification.doubts import doubts, order_doubts
from verifier.certification.example import ExampleOutcome
from verifier.certification.executor import Executor
from verifier.certification.identity import RunIdentity
from verifier.certification.progress import Listener, Tally
from verifier.certification.report import Report
from verifier.certification.retry import retried, to_retry
from verifier.certification.shard import Shard
from verifier.certification.sharing import Known
from verifier.certification.store import Store, StorePath
from verifier.certification.sweep import Radii, over_radii
from verifier.certification.work import Job, units
from verifier.certification.workshop import Workshop
from verifier.certification.writer import Writer
from verifier.device import checked_device
from verifier.errors import InputError
from verifier.graph.runner import ImportedModel
from verifier.graph.torch_import import check_model
from verifier.progress import check_progress, listening
from verifier.stages import Stage
from verifier.verdict import Semantics
from verifier.workers.place import Place

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: examples per batch: enough to fill two CPU cores with the papers' networks, and little to lose when killed
DEFAULT_BATCH_SIZE = 256


_log = logging.getLogger(__name__)

#: attributes of stages that change no answer
_NO_OPTIONS = frozenset(("aliases", "cost_rank", "memory", "name", "source"))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; the message says what is kept and how to continue."""


@overload
def certify(model: Any, images: Any, labels: Any = None, *, eps: float | str, **options: Any) -> Report: ...
@overload
def certify(model: Any, images: Any, labels: Any, eps: float | str, **options: Any) -> Report: ...
@overload
def certify(model: Any, images: Any, labels: Any = None, *, eps: Radii, **options: Any) -> Sweep: ...
@overload
def certify(model: Any, images: Any, labels: Any, eps: Radii, **options: Any) -> Sweep: ...
@over_radii
def certify(
    model: nn.Module | ExportedProgram | ImportedModel | Verifiable,
    images: Images | TorchData,
    labels: Labels | None = None,
    eps: float | str | None = None,
    *,
    threat: str | Threat = "linf",
    clip: tuple[float, float] | None = None,
    question: str | Question | None = None,
    store: StorePath | None = None,
    resume: bool = False,
    retry: str | Sequence[str] = (),
    stages: Sequence[str | Stage] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    budget: float | str | None = None,
    example_budget: float | str | None = DEFAULT_EXAMPLE_BUDGET,
    first_index: int = 0,
    shard: str | tuple[int, int] | Shard | None = None,
    certificates: str | os.PathLike[str] | None = None,
    semantics: str | Semantics = Semantics.REAL,
    jobs: int | None = None,
    executor: str | None = None,
    progress: bool | Listener = True,
    known: Known | None = None,
    workshop: Workshop | None = None,
) -> Report:
    """Decides for each image whether any input within `eps` of it changes the model's label.

    What is decided is committed to the store every few seconds, example by example: Ctrl-C loses none of it, and
    kill -9 at most these seconds. An example that raises (a NaN pixel, say) becomes a row with outcome ERROR and its
    message, and the run goes on.

    A run can be continued, by `resume`: with what is missing of it, and with examples that it did not have. What is
    UNKNOWN or an ERROR is tried again by `retry`, with whatever `stages`, `device`, `dtype`, `batch_size` and budgets
    are given now. What is proved or falsified stays. A row is replaced by a better answer alone: of an example that
    stays UNKNOWN it has the best bounds of all attempts. Seconds add up over attempts, and `ExampleRow.attempts` counts
    them.

    Args:
        model: a module in eval mode, what torch.export made of one, an `OnnxModel`, or a `NetworkCascade`.
        images: [N, *input] floating point tensor or array, in the units that the model sees at its input; or a torch
            Dataset or DataLoader (in order) of pairs of an image and its label, which is read once, at the start.
        labels: [N] integers, 0 .. classes - 1; None of a Dataset or DataLoader.
        eps: radius >= 0, in the units of the images unless the threat model says otherwise; "8/255" is a number, too. A
            list of radii is a sweep: a run for each, that takes over what those at other radii have decided
            (verifier.certification.sweep); `store` and `certificates` are then folders, and a `Sweep` is returned.
        threat: what "within" means, such as "linf", "l2" or "linf+5*l2" (properties.Threat).
        clip: (low, high), the valid range of inputs; None: all numbers are.
        question: what is asked in place of whether the label changes, by name, such as "near:8" or "threshold:0.5"
            (`properties.Question`); labels that it is not about are only recorded.
        store: path of an SQLite file to make; None keeps the rows in memory, with the report.
        resume: continue the run in `store` where there is one (it must have the same model, data and settings), and
            start it where there is none. Examples that it does not know are added to it; refused where an example
            that it knows has changed.
        retry: "unknown", "error", or both ("unknown,error" or a list): examples with such rows are tried again, in the
            run in `store`, which is resumed. What is UNKNOWN after an attempt with the same settings by the same
            release is not tried again, so that a retry that was cut short goes on where it was.
        stages: names of the stages to use, or Stage objects, in order; None: `verifier.api.DEFAULT_STAGES`.
        device: where to compute, "cpu" or a CUDA device; None: where the model is.
        dtype: precision of the bounds; None: the model's.
        batch_size: examples that are worked on together at most, default DEFAULT_BATCH_SIZE.
        budget: seconds per batch, also written as "60", "10s" or "2 min"; None: no limit.
        example_budget: seconds per example; None: no limit.
        first_index: index of the first image, where the images are a slice of a larger set.
        shard: only the examples of part k of n, such as "3/8" or (3, 8): those whose index leaves the remainder k - 1
            when divided by n. Stores of several parts become one by `verifier.merge`, and a store goes on under another
            shard, or none.
        certificates: folder to write a certificate to for every VERIFIED (or a text that says why it has none), with
            the network that they are about; `verifier check` reads them. Examples that a resumed run finds in its store
            get none anew.
        semantics: what a verdict is about, "real" or "float32" (verifier.result.Semantics).
        jobs: processes of this machine that work side by side and share its cores; None: this one alone. The store is
            written by this one. One that ends before its work is done is replaced, and its work done again.
        executor: "ray": the workers of a Ray cluster (extra `ray`), each on one core: that of RAY_ADDRESS, or this
            machine alone; "ray:auto", "ray:HOST:PORT": of the one that runs here, or there. Answers and their order do
            not depend on where they come from.
        progress: whether to show progress on stderr, or a function to call with the counts (a `Tally`): at the start,
            after every example, and where a stage begins.
        known: gives rows that follow from other runs (verifier.certification.sharing); they are recorded as they are.
        workshop: has the model and its workers, for several runs that differ in `eps` alone.

    Raises:
        InputError: unusable arguments or images that do not fit the model.
        ModelError, UnsupportedError: the model cannot be verified.
        StoreError: the store exists, is of another run, is corrupt, cannot be written, or its disk is full.
        Interrupted: (a KeyboardInterrupt) on Ctrl-C.
    """
    data = dataset(images, labels)
    if eps is None:
        raise InputError("give eps, the radius of the sets around the images, such as eps=8/255")
    check_progress(progress)
    again = retried(retry)
    resume = resume or bool(again)
    if resume and store is None:
        raise InputError(f"{'retry=' if again else 'resume=True'} needs store=, the path of the run to continue")
    with input_errors():
        asked = Perturbation(eps if isinstance(eps, str) else _number(eps, "eps"), threat, clip)
        wanted = Question.parse(question) if isinstance(question, str) else question
    settings = _settings(asked, batch_size, budget, example_budget)
    first_index = _first(first_index)
    part, place = Shard.parse(shard), Place.of(jobs, executor)
    device = checked_device(device)
    if isinstance(model, Verifiable):
        model.check_question(asked)
    elif not isinstance(model, ImportedModel):
        check_model(model)
    example = data.example_input().to(input_precision(model))
    certified = certificates is not None
    job = Job(model, example, data.labels[:1], wanted, stages, device, dtype, semantics, certified)
    shop = Workshop() if workshop is None else workshop
    verifier = shop.verifier(job)
    if wanted is None or wanted.labelled:
        check_classifier(verifier.output_shape)
        check_labels(data.labels, verifier.classes)
    if asked.clip is not None:
        check_clip(data.images, asked.clip)
    for doubt in (*doubts(data.images, asked), *order_doubts(model, data.images)):
        warnings.warn(doubt, stacklevel=2)
    settings |= {
        "stages": [_describe(stage) for stage in verifier.stages],
        "device": verifier.device.type,
        "dtype": str(verifier.dtype).removeprefix("torch."),
        "semantics": checked_semantics(semantics).value,
    }
    if wanted is not None:
        settings["question"] = str(wanted)
    if isinstance(model, Verifiable):
        settings |= model.settings
    runner = shop.runner(job)
    identity = RunIdentity(verifier.graph_digest(), settings, dict(enumerate(data.digests(), first_index)))
    folder = None
    if certificates is not None and runner.builder is not None:
        folder = CertificateFolder.open(certificates, runner.builder)
    if resume and store is not None:
        opened = Store.resume(store, identity, again=bool(again))
    else:
        opened = Store.create(store, identity)
    try:
        if known is not None:
            opened.write(known(identity, opened.finished(), example.dtype, opened.session), 0.0)
        _run(shop.executor(place, runner), opened, folder, data, asked, first_index, part, settings, again, progress)
        return Report.of(opened)
    except InputError:
        if not resume and not opened.finished():  # there was nobody to do the work, so that the next try may begin
            opened.discard()
        raise
    finally:
        if store is not None:  # rows in memory live as long as the report does
            opened.close()


def _run(
    executor: Executor,
    store: Store,
    folder: CertificateFolder | None,
    data: Dataset,
    perturbation: Perturbation,
    first_index: int,
    shard: Shard,
    settings: Mapping[str, Any],
    again: frozenset[ExampleOutcome],
    progress: bool | Listener,
) -> None:
    """Has every example that the store has no row of, or one to try again, worked on, and writes what comes."""
    asked = {index for index in range(first_index, first_index + len(data)) if shard.has(index)}
    state = store.snapshot()
    retry = to_retry(state, asked, again)
    rows = {e.index: e for e in state.examples if e.index in asked}
    known = rows.keys() - retry.keys()
    tally = Tally(len(asked)).plus(rows[index] for index in known)
    _log.info("%d of %d examples are to be decided", tally.total - tally.done, tally.total)
    left = [index - first_index for index in sorted(asked) if index not in known]
    size = settings["batch_size"] * shard.of  # of positions that hold a batch's examples of this shard
    work = units(data, perturbation, first_index, left, size, settings["budget"], settings["example_budget"])
    try:
        with listening(progress, tally.total) as listen:
            listen(tally)
            with Writer(store, folder, known, retry, tally, listen) as write:
                executor.run(work, write)
        _log.info("%d examples are done: %s", write.tally.done, write.tally.text())
    except KeyboardInterrupt:
        raise Interrupted(_interrupted_message(store, asked)) from None


def _interrupted_message(store: Store, asked: Set[int]) -> str:
    if store.path is None:
        return "interrupted; the run had no store, so nothing is kept"
    done = len(store.finished().intersection(asked))
    return f"interrupted: {done} of {len(asked)} examples are in {store.path}; resume=True (--resume) continues the run"


def _settings(
    asked: Perturbation, batch_size: int | None, budget: float | str | None, example_budget: float | str | None
) -> dict[str, Any]:
    """The settings that an answer depends on, checked, as JSON values. Raises InputError."""
    size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    if not isinstance(size, numbers.Integral) or size < 1:
        raise InputError(f"batch_size must be an integer >= 1, got {size}")
    return {
        **asked.describe(),
        "batch_size": int(size),
        "budget": some_seconds(budget, "budget"),
        "example_budget": some_seconds(example_budget, "example_budget"),
    }


def _first(first_index: Any) -> int:
    if not isinstance(first_index, numbers.Integral) or first_index < 0:
        raise InputError(f"first_index must be an integer >= 0, got {first_index}")
    return int(first_index)


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
