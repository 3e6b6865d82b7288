"""`verifier train`: a command of the verifier's, by an entry point (see verifier/commands/plugins.py)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.options import (
    MethodOptions,
    NetworkOptions,
    PlaceOptions,
    PlanOptions,
    TrainedPerturbation,
    bad_values,
)
from training.shell_data import for_architecture, for_network, in_units
from verifier.commands.command import user_errors
from verifier.commands.options import DataOptions, FormatOptions, PartOptions
from verifier.commands.shared import say
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor, nn

    from training.history import History
    from training.method import TrainingMethod


def _list(asked: bool) -> None:
    """Prints the methods and architectures, and ends."""
    if not asked:
        return
    from training.architectures import ARCHITECTURES
    from training.method import METHODS
    from training.settings import summary

    print("methods (--method; --describe NAME lists the settings of one):")
    for name, method in sorted(METHODS.items()):
        print(f"  {name:12} {summary(method)}")
    print("architectures (--arch):")
    for name, factory in ARCHITECTURES.items():
        print(f"  {name:13} {summary(factory)}")
    raise typer.Exit


def _describe(name: str | None) -> None:
    """Prints what a method is, and its settings, and ends."""
    if name is None:
        return
    with user_errors(), bad_values():
        from training.method import METHODS
        from training.settings import summary, table

        method = METHODS.named_part(name)
        print(f"{name}: {summary(method)}\nsettings (--set name=value):\n{table(method)}")
    raise typer.Exit


def train(
    how: MethodOptions,
    data: DataOptions,
    part: PartOptions,
    asked: TrainedPerturbation,
    which: NetworkOptions,
    plan: PlanOptions,
    place: PlaceOptions,
    test: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="npz files with a test set, measured at the end by attack and quick stages."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; the result is still printed.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list, help="List methods and architectures, and end.")
    ] = False,
    describe: Annotated[
        str | None,
        typer.Option(is_eager=True, callback=_describe, metavar="METHOD", help="List a method's settings, and end."),
    ] = None,
) -> None:
    """Train a network that verifies, and keep the weights of its best epoch."""
    with bad_values():
        if place.cascade is not None and (place.run is not None or test or which.weights is not None):
            raise InputError("--run, --test and --weights go with one network, not with --cascade")
        place.check()
        method = how.of(asked)
        made = None
        if which.arch is not None:
            data = for_architecture(data, quiet)
        elif which.model is not None:
            made = which.make(seed=plan.seed)
            data = for_network(data, made[0], quiet)
        data, clipped = in_units(data, asked.limits, quiet), asked.limits is not None
        examples = data.examples(part, clipped, quiet)
        if not quiet:
            say(examples.said)
        shape, labels = tuple(examples.images.shape[1:]), examples.labels
        network, factory = made or which.make(shape, labels, plan.seed)
        network = which.normalised(network, shape)
        x = _as_weights(examples.images, network)
        about = {"network": factory, "data": data.names(), "read": examples.said}
        settings = {**plan.keywords(quiet, shape), "resume": place.resume, "about": about}
        if place.cascade is not None:

            def make() -> nn.Module:
                return which.normalised(which.make(shape, labels)[0], shape)

            _train_cascade(make, (x, labels), method, place, settings)
            print("certify it with:\n  " + _command(factory, place.out, None, data.form, asked))
            return
        tested = None if not test else data.form.examples(test, PartOptions(), clipped, quiet)
        trained = _train_one(network, (x, labels), method, place, settings)
        if tested is not None:
            _measure(trained, method, plan.measured_by, tested.images, tested.labels)
        print("certify it with:\n  " + _command(factory, place.out, test, data.form, asked))


def _train_one(
    network: nn.Module, data: tuple[Tensor, np.ndarray], method: TrainingMethod, place: PlaceOptions,
    settings: dict[str, Any],
) -> nn.Module:  # fmt: skip
    """Trains a network, writes its weights, and says how good they are.

    Args:
        data: images [N, *input] and labels [N].
    """
    from training.checkpoint import save_weights
    from training.run import train as run_training
    from verifier.normalisation import metadata_of

    with _how_to_resume(place.folder):
        trained = run_training(network, data, method, out=place.folder, **settings)
    save_weights(place.out, trained.model.state_dict(), metadata_of(trained.model))
    _say_result(trained.history, place.out, place.folder)
    return trained.model


def _train_cascade(
    make: Callable[[], nn.Module], data: tuple[Tensor, np.ndarray], method: TrainingMethod, place: PlaceOptions,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Trains networks into the folder --out, and prints what became of the images.

    Args:
        data: images [N, *input] and labels [N].
    """
    from training.cascade import train_cascade

    assert place.cascade is not None
    try:
        trained = train_cascade(make, data, method, count=place.cascade, out=place.out, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what is kept is in {place.out}: go on by the same command with --resume"
        ) from None
    for k, left in enumerate(trained.images[1:]):
        print(f"network {k}: trained on {trained.images[k]} images, of which it does not certify {left}")
    print(f"cascade: {place.out} (in Python, verifier.network_cascade.load_cascade reads it)")


def _command(factory: str, out: Path, test: list[Path] | None, form: FormatOptions, asked: TrainedPerturbation) -> str:
    """The command that certifies what was trained; the shape is in the factory's arguments or in the data."""
    eps = f"{asked.eps:.17g}" if float(f"{asked.eps:g}") != asked.eps else f"{asked.eps:g}"
    parts = ["verifier", "certify", "--model", factory, "--weights", str(out)]
    parts += [word for file in test or [Path("TEST.npz")] for word in ("--data", str(file))]
    parts += ["--eps", eps, "--out", f"{out}.sqlite"]
    for option, value, default in (
        ("--images-key", form.images_key, "images"), ("--labels-key", form.labels_key, "labels"),
        ("--scale", None if form.scale is None else f"{form.scale:g}", None), ("--shape", form.shape, None),
        ("--layout", form.layout, None),
        ("--threat", asked.threat, "linf"), ("--clip", asked.clip, "none"),
    ):  # fmt: skip
        if value is not None and value != default:
            parts += [option, value]
    return shlex.join(parts)


def _as_weights(x: Tensor, network: nn.Module) -> Tensor:  # [N, *input]
    """The images in the precision of the weights."""
    return next((x.to(p.dtype) for p in network.parameters() if p.is_floating_point()), x)


@contextmanager
def _how_to_resume(folder: Path) -> Iterator[None]:
    """Ctrl-C leaves with what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = (folder / "checkpoint.pt").exists()
        said = (
            f"the checkpoint is in {folder}: go on by the same command with --resume"
            if kept
            else "nothing was kept yet"
        )
        where = f" {interrupt}" if str(interrupt) else ""
        raise KeyboardInterrupt(f"interrupted{where}; {said}") from None


def _say_result(history: History, out: Path, folder: Path) -> None:
    best = history.best
    if best is not None and best["clean"] is not None:
        shares = "  ".join(f"{name} {best[name]:.2%}" for name in ("clean", "attacked", "verified"))
        print(f"best epoch {best['epoch']} of {len(history.rows)}, on the validation images: {shares}")
    print(f"weights: {out}")
    if (folder / "curves.png").exists():
        print(f"log and curves: {folder}")
    else:
        print(f"log: {folder} (curves need matplotlib: pip install 'rampart-verifier[plot]')")


def _measure(
    model: nn.Module, method: TrainingMethod, stages: tuple[str, ...] | None, images: Tensor, labels: np.ndarray
) -> None:  # [N, *input], [N]
    """Prints clean, attacked and verified accuracy on the test set."""
    from training.evaluation import Measurement
    from training.network import NetworkInTraining
    from verifier.certification.dataset import dataset

    test = dataset(_as_weights(images, model), labels)
    device = next(model.parameters()).device
    measurement = Measurement(perturbation=method.perturbation, stages=method.stages if stages is None else stages)
    found = measurement.of(NetworkInTraining(model, test.example_input().to(device)), test.images, test.labels)
    shares = "  ".join(f"{name} {found.of(name):.2%}" for name in ("clean", "attacked", "verified"))
    print(f"on the {len(test)} test images: {shares}")
