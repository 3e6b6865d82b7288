"""The protocol of a training method: how a batch becomes a loss, and what a run of it remembers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from properties import InputSet, Perturbation
from properties.numbers import number_of
from training.network import NetworkInTraining
from training.schedule import Constant, Optimiser, Rate
from verifier.registry import Registry

#: methods by the name that users give them
METHODS: Registry[type[TrainingMethod]] = Registry("training method", "training.methods", "verifier.trainers")
register = METHODS.register


@dataclass(frozen=True)
class Progress:
    """How far a run is: `step` of `steps` in `epoch` of `epochs`, all counted from 0."""

    epoch: int
    step: int
    steps: int
    epochs: int

    @property
    def done(self) -> float:
        """Epochs behind us, with the fraction of this one."""
        return self.epoch + self.step / self.steps

    @property
    def share(self) -> float:
        """The same as a share of the run, 0 <= share < 1."""
        return self.done / self.epochs


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with an optimiser and a learning-rate schedule of its own.

    Args:
        index: a new optimiser is made where it changes.
        first, epochs: where the stretch begins, and how long it is.
        rate: factor of the learning rate, beside that of its schedule.
    """

    index: int
    first: int
    epochs: int
    rate: float = 1.0


@dataclass(frozen=True)
class BatchLoss:
    """What one batch gives: a scalar to descend on, and figures (means over the batch) for the log."""

    value: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingMethod(ABC):
    """Settings of a training method, and nothing else: what changes during a run lives in its `TrainingRun`.

    Args:
        eps: radius of the sets that the network is trained for, in the units of its input (but see the threat model);
            also written as "8/255".
        threat: kind of set (properties.Threat), such as "linf", "l2" or "linf+5*l2".
        clip: valid range of inputs; None: none.
        optimiser, rate: what takes the steps, and the schedule of its learning rate.
        batch: examples in a step.

    `register` makes a subclass known under its `name`. Adding a method is adding one file to training/methods.
    """

    name: ClassVar[str] = ""
    #: what the best epoch is chosen by: "verified", "attacked" or "clean" accuracy on the validation split
    goal: ClassVar[str] = "verified"
    #: whether its losses call the module at points: what `training.passes` has settings for
    calls_module: ClassVar[bool] = True
    #: stages that measure verified accuracy during training
    stages: ClassVar[tuple[str, ...]] = ("interval", "dual")

    eps: float
    threat: str = "linf"
    clip: tuple[float, float] | None = (0.0, 1.0)
    optimiser: Optimiser = Optimiser()
    rate: Rate = Constant()
    batch: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for settings that make no sense; subclasses check their own after these."""
        if isinstance(self.eps, str):
            object.__setattr__(self, "eps", number_of(self.eps))
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"eps must be a number >= 0, got {self.eps}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        _ = self.perturbation  # checks

    @classmethod
    def example(cls) -> tuple[TrainingMethod, nn.Module]:
        """For the conformance tests: small settings, and a network on inputs [1, 8, 8] in [0, 1] that it can train.

        Returns:
            A method, and a module of 3 classes; override it where the method asks for a network of its own kind.
        """
        layers = [nn.Conv2d(1, 2, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6), nn.ReLU()]
        return cls(eps=0.05, batch=4), nn.Sequential(*layers, nn.Linear(6, 3))

    @abstractmethod
    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        """Start a run. Called once, before the first epoch, also where a run is resumed (`restore` then follows).

        Args:
            network: the model on the run's device, with the graph that bounds are computed on.
            generator: on the CPU; of all that is random in the run (its state is in the checkpoints).

        Returns:
            The run, which may keep state; the method may not.

        Raises:
            InputError, ModelError, UnsupportedError, ValueError: the network or the threat model is none for this
            method.
        """

    @property
    def perturbation(self) -> Perturbation:
        """What the network is trained against."""
        return Perturbation(self.eps, self.threat, self.clip)

    def sets(self, x: Tensor, eps: float | None = None) -> InputSet:
        """The input sets around some inputs, of the method's threat model and valid range.

        Args:
            x: [B, *input].
            eps: the radius; default the method's own.
        """
        asked = self.perturbation if eps is None else dataclasses.replace(self.perturbation, eps=eps)
        return asked.around(x)

    def settings(self) -> dict[str, Any]:
        """Everything that says which run this is, as JSON values: a run with others may not resume it."""
        return {"method": self.name, **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}}


class TrainingRun(ABC):
    """One run of a method: its loss, and whatever it keeps from batch to batch.

    Args:
        method, network, generator: as given to `TrainingMethod.begin`.
    """

    def __init__(self, method: TrainingMethod, network: NetworkInTraining, generator: torch.Generator) -> None:
        self.method, self.network, self.generator = method, network, generator

    @abstractmethod
    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B] int64
        """The loss of a batch. The loop calls it once a step, in train mode, and descends on it.

        Args:
            x: [B, *input], on the network's device, augmented where the run does so.
            label: [B] int64.
            progress: how far the run is, for schedules of radii and weights.

        Returns:
            `value`, a scalar whose gradient reaches what `parameters` lists, and `figures`, scalars that the log
            averages over the epoch, weighted by the batch.
        """

    def parameters(self, progress: Progress) -> list[Tensor]:  # [...] each
        """What the optimiser of the present phase moves; default: the model's parameters that need a gradient.

        Asked when a phase begins and after a restart. Tensors of the run's own may be among them.
        """
        return [p for p in self.network.model.parameters() if p.requires_grad]

    def phase(self, epoch: int, epochs: int) -> Phase:
        """The phase that an epoch belongs to; default: one phase for the whole run.

        Args:
            epoch: counted from 0.
            epochs: of the run.

        Returns:
            A phase that holds this epoch. Where its index changes, a new optimiser is made, and the learning rate's
            schedule begins anew.
        """
        return Phase(0, 0, epochs)

    def doubts(self, epochs: int) -> Iterator[str]:
        """What the settings will not do well in a run of so many epochs, and what to change; told before the first.

        Yields:
            Texts for people; default none.
        """
        yield from ()

    def stepped(self, progress: Progress) -> None:  # noqa: B027 - nothing, as a rule
        """Called after every step of the optimiser, without gradients, before the next batch: to project or to average.

        Args:
            progress: of the step that was taken.
        """

    def epoch_ended(self, progress: Progress) -> str | None:
        """Called after the last step of an epoch, before the measurement of accuracies.

        Args:
            progress: of the epoch's last step.

        Returns:
            None to go on. A text stops the run after this epoch; it is written to the log as the reason.
        """
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside weights, optimiser and generator.

        Returns:
            Tensors, numbers, texts, lists and dicts of those, which torch.load reads back. Tensors by reference: they
            are written at once.
        """
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - nothing, as a rule
        """Take over what `state` returned in an earlier process, so that the run goes on as if it had not stopped.

        Args:
            state: of a run with the same settings, after the same step.
        """


def _plain(value: Any) -> Any:
    """A setting as a JSON value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **{("of" if k == "kind" else k): v for k, v in parts.items()}}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)
