"""The options of `verifier train`, in groups that know how to make what they name. Torch is loaded where used."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.commands.options import CLIP, DEVICE, SAFE, WEIGHTS, PerturbationOptions
from verifier.commands.shared import stage_names
from verifier.errors import InputError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from training.method import TrainingMethod


@dataclass(frozen=True, kw_only=True)
class TrainedPerturbation(PerturbationOptions):
    """What the network is trained against."""

    clip: Annotated[str, CLIP] = "0,1"


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How to train."""

    method: Annotated[str, typer.Option(help="How to train, such as layerwise or ibp; --list shows all.")]
    batch: Annotated[int | None, typer.Option(help="Examples per step; by default the method's.")] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate; by default the method's.")] = None
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; may be repeated.")
    ] = None

    def of(self, asked: PerturbationOptions) -> TrainingMethod:
        """The method with its settings. Raises InputError, ValueError."""
        from training.method import METHODS
        from training.settings import parsed

        kind = METHODS.named_part(self.method)
        values = parsed(kind, self.set_ or [])
        if self.batch is not None:
            values["batch"] = self.batch
        made = kind(eps=asked.eps, threat=asked.threat, clip=asked.limits, **values)
        return made if self.lr is None else replace(made, optimiser=replace(made.optimiser, rate=self.lr))


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What is trained."""

    arch: Annotated[
        str | None, typer.Option(help="Architecture by name, such as small or wide:4; --list shows all.")
    ] = None
    model: Annotated[str | None, typer.Option(help="Instead of --arch: package.module:factory, as in `certify`.")] = (
        None
    )
    weights: Annotated[Path | None, WEIGHTS] = None
    safe: Annotated[bool, SAFE] = False
    classes: Annotated[int | None, typer.Option(help="With --arch: how many; by default the largest label + 1.")] = None
    normalise: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MEAN/STD",
            help="Put a normalisation in front, which the weights keep: cifar10, mnist, or numbers such as "
            "0.5,0.5,0.4/0.25,0.25,0.26. Radii stay in the units of the images.",
        ),
    ] = None

    def normalised(self, network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
        """The network behind its normalisation, where one is asked for. Raises InputError."""
        if self.normalise is None:
            return network
        from verifier.normalisation import normalised

        return normalised(network, self.normalise, shape)

    def make(
        self, shape: tuple[int, ...] = (), labels: np.ndarray | None = None, seed: int | None = None
    ) -> tuple[nn.Module, str]:
        """A network, and the factory that makes it for `certify`.

        Args:
            shape: of one input. labels: [N] of the training set. Neither is needed for --model.
            seed: None: torch's global generator as it is.

        Raises:
            InputError: neither or both of --arch and --model, or something that cannot be trained.
        """
        import torch

        if (self.arch is None) == (self.model is None):
            raise InputError("give --arch or --model: one of the two")
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            return self._architecture(shape, self._count(labels)) if self.model is None else self._loaded(self.model)

    def _architecture(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, str]:
        from training.architectures import architecture

        assert self.arch is not None
        if self.weights is not None:
            raise InputError("--weights goes with --model, such as --model training.architectures:small")
        return architecture(self.arch, shape, classes), _factory(self.arch, shape, classes)

    def _loaded(self, source: str) -> tuple[nn.Module, str]:
        import torch

        from verifier.loading import check_safe, load_model

        if self.safe:
            check_safe(source)
        loaded = load_model(source, self.weights)
        if not isinstance(loaded, torch.nn.Module):
            raise InputError(f"{source} is an exported program, which cannot be trained: give package.module:factory")
        return loaded, source

    def _count(self, labels: np.ndarray | None) -> int:
        if self.classes is not None:
            return self.classes
        if labels is None or labels.dtype.kind not in "iu" or labels.size == 0:
            return 2  # `train` says what is wrong with them
        return max(2, int(labels.max()) + 1)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How long, where, and how it is measured."""

    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 60
    seed: Annotated[int, typer.Option(help="Of the first weights, the order of the images, and all else.")] = 0
    validation: Annotated[
        int | None, typer.Option(help="Images held out, to choose the best epoch; by default a tenth, at most 1000.")
    ] = None
    patience: Annotated[int | None, typer.Option(help="Stop after so many measurements without a better one.")] = None
    measure_every: Annotated[int, typer.Option(help="Epochs between measurements.")] = 1
    stages: Annotated[
        str | None,
        typer.Option(help="Stages that measure, comma-separated; none for attacks only; default the method's."),
    ] = None
    device: Annotated[str | None, DEVICE] = None
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="CHANGES",
            help="Change images at random, such as crop=4,flip,cutout=8: a crop from a black margin of 4 pixels, left "
            "and right changed, a black square of 8 pixels.",
        ),
    ] = None
    checkpoint_seconds: Annotated[float, typer.Option(help="At most so long between checkpoints.")] = 60.0
    amp: Annotated[
        str | None,
        typer.Option(metavar="bfloat16", help="Attacks and losses at points by automatic mixed precision; no bounds."),
    ] = None
    compile: Annotated[bool, typer.Option("--compile", help="Attacks and losses at points by torch.compile.")] = False
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Images in memory by places, in attacks and losses at points.")
    ] = False

    @property
    def measured_by(self) -> tuple[str, ...] | None:
        """Names of the stages that measure; None for the method's."""
        return () if self.stages == "none" else stage_names(self.stages)

    def keywords(self, quiet: bool, shape: tuple[int, ...]) -> dict[str, Any]:
        """The same as arguments of `training.run.train`.

        Args:
            shape: of one input.

        Raises:
            InputError: changes of images that there are not, or inputs that are no images.
        """
        from training.augmentation import augmentation
        from training.watcher import ProgressBar, WarningsOnly

        return {
            "epochs": self.epochs, "device": self.device, "seed": self.seed, "validation": self.validation,
            "measure_every": self.measure_every, "patience": self.patience, "stages": self.measured_by,
            "augment": None if self.augment is None else augmentation(self.augment, shape),
            "checkpoint_seconds": self.checkpoint_seconds, "watcher": WarningsOnly() if quiet else ProgressBar(),
            "amp": self.amp, "compile": self.compile, "channels_last": self.channels_last,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """What is written, and where."""

    out: Annotated[
        Path, typer.Option(help="safetensors file to write, the weights of the best epoch; a folder with --cascade.")
    ]
    cascade: Annotated[
        int | None,
        typer.Option(help="Train up to N networks, each on what those before it do not certify: a robust cascade."),
    ] = None
    run: Annotated[
        Path | None, typer.Option(help="Folder for checkpoint, log, curves; by default --out with .run behind it.")
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run; start it if there is none.")
    ] = False

    @property
    def folder(self) -> Path:
        """Of the run."""
        if self.run is not None:
            return self.run
        return Path(f"{self.out}.run") if self.cascade is None else self.out

    def check(self) -> None:
        """Raises InputError, StoreError where the weights cannot be written at the end: known now rather than then."""
        out, cascade = self.out, self.cascade is not None
        if not out.parent.is_dir():
            raise InputError(f"the directory of {out} does not exist")
        if cascade and out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file: with --cascade, --out is a folder")
        if not cascade and out.is_dir():
            raise InputError(f"{out} is a directory: --out is the file of weights")
        if not os.access(out.parent, os.W_OK | os.X_OK):
            raise InputError(f"cannot write in the directory of {out}")
        if self.resume:
            return
        if (self.folder / "checkpoint.pt").exists():
            raise StoreError(
                f"{self.folder} holds a run already: go on with it by --resume, or give another --out or --run"
            )
        if out.exists() and not (cascade and not any(out.iterdir())):
            raise InputError(f"{out} exists already: give another --out, or remove it")


@contextmanager
def bad_values() -> Iterator[None]:
    """Plain ValueErrors of settings and names are bad input."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise InputError(str(error)) from error


def _factory(arch: str, shape: tuple[int, ...], classes: int) -> str:
    """The factory that makes what `architecture` makes, as `verifier certify --model` takes it."""
    from training.architectures import ARCHITECTURES

    name, _, given = arch.partition(":")
    factory = f"training.architectures:{name}"
    defaults = [p.default for p in inspect.signature(ARCHITECTURES[name]).parameters.values()]
    if not given and [shape, classes] == defaults[:2]:
        return factory
    return f"{factory}({', '.join([repr(shape), str(classes), *([given] if given else [])])})"
