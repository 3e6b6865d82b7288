"""`train`: one run of a method, from data to the weights of its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from training.augmentation import Augment
from training.history import History
from training.loop import TrainingLoop
from training.method import TrainingMethod
from training.modes import modes_kept
from training.passes import Passes
from training.plan import TrainingPlan
from training.randomness import own_randomness
from training.run_folder import RunFolder
from training.training_set import Data, training_set
from training.watcher import Watcher
from verifier.arguments import input_errors
from verifier.device import checked_device
from verifier.errors import InputError


class Trained(NamedTuple):
    """What `train` returns: the model with the weights of the best epoch, in eval mode, and the log."""

    model: nn.Module
    history: History


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
    amp: str | None = None,
    compile: bool = False,
    channels_last: bool = False,
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
        amp: "bfloat16": attacks, clean outputs and losses at points by automatic mixed precision. Bounds and
            measurements are not touched by this and the next two.
        compile: those passes by torch.compile; not for networks with batch norm.
        channels_last: those passes with images in memory by places, not by channels.
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
            passes=Passes(amp=amp, compile=compile, channels_last=channels_last),
        )  # fmt: skip
    if not isinstance(method, TrainingMethod):
        raise InputError(f"method is one with its settings, such as IntervalTraining(eps=0.1), got {method!r}")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("the model has no parameters to train, or none that ask for a gradient (requires_grad)")
    chosen = checked_device(device)
    examples = training_set(data)
    if resume and out is None:
        raise InputError("resume needs `out`, the folder of the run to go on with")
    with ExitStack() as stack:
        folder = None if out is None else RunFolder(Path(out), resume, stack)
        stack.enter_context(modes_kept(model))
        if chosen is not None:
            model.to(chosen)
        device_used = next((p.device for p in model.parameters()), torch.device("cpu"))
        stack.enter_context(own_randomness(plan.seed, device_used))
        stack.enter_context(torch.enable_grad())
        stack.callback(model.zero_grad, set_to_none=True)
        held = None if held_out is None else training_set(held_out)
        history = TrainingLoop(model, examples, method, plan, folder, watcher or Watcher(), held, about).go()
    return Trained(model.eval(), history)
