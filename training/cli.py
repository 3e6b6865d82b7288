"""`verifier train`: a command of the verifier's, by an entry point (see verifier/commands/plugins.py)."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.commands.shared import arrays_of, examples, number, part_of, say, user_errors, valid_range
from verifier.errors import InputError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from training.history import History
    from training.method import TrainingMethod


def _list(asked: bool) -> None:
    """Prints the methods and architectures, and ends."""
    if not asked:
        return
    from training.architectures import ARCHITECTURES
    from training.methods import load_all
    from training.settings import summary

    print("methods (--method; --describe NAME lists the settings of one):")
    for name, method in sorted(load_all().items()):
        print(f"  {name:12} {summary(method)}")
    print("architectures (--arch):")
    for name, factory in ARCHITECTURES.items():
        print(f"  {name:12} {summary(factory)}")
    raise typer.Exit


def _describe(name: str | None) -> None:
    """Prints what a method is, and its settings, and ends."""
    if name is None:
        return
    with user_errors(), _bad_values():
        from training.methods import method_named
        from training.settings import summary, table

        method = method_named(name)
        print(f"{name}: {summary(method)}\nsettings (--set name=value):\n{table(method)}")
    raise typer.Exit


def train(
    method: Annotated[str, typer.Option(help="How to train, such as layerwise or ibp; --list shows all.")],
    data: Annotated[Path, typer.Option(help="npz file with the training set: images [N, ...] and labels [N].")],
    eps: Annotated[
        float,
        typer.Option(
            parser=number, metavar="NUMBER", help="Radius, in the units of the (scaled) images, such as 8/255."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="safetensors file to write, the weights of the best epoch; a folder with --cascade.")
    ],
    arch: Annotated[
        str | None, typer.Option(help="Architecture by name, such as small or wide:4; --list shows all.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead of --arch: package.module:factory, as in `certify`.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="With --model: safetensors file with weights to start from.")
    ] = None,
    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels",
    scale: Annotated[
        float | None, typer.Option(help="Divide the images by this; by default uint8 images by 255, others not.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Reshape each image, such as 1,28,28.")] = None,
    first: Annotated[int | None, typer.Option(help="Only the first N examples.")] = None,
    classes: Annotated[
        int | None, typer.Option(help="With --arch: how many; by default the largest label + 1.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="npz file with a test set, measured at the end by attack and quick stages.")
    ] = None,
    threat: Annotated[str, typer.Option(help="Kind of set, as in `certify`.")] = "linf",
    clip: Annotated[str, typer.Option(help="Valid range of inputs, or none.")] = "0,1",
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 60,
    batch: Annotated[int | None, typer.Option(help="Examples per step; by default the method's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by default the method's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights, the order of the images, and all else.")] = 0,
    validation: Annotated[
        int | None, typer.Option(help="Images held out, to choose the best epoch; by default a tenth, at most 1000.")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many measurements without a better one.")] = None,
    measure_every: Annotated[int, typer.Option(help="Epochs between measurements.")] = 1,
    stages: Annotated[
        str | None,
        typer.Option(help="Stages that measure, comma-separated; none for attacks only; default the method's."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; may be repeated.")
    ] = None,
    cascade: Annotated[
        int | None,
        typer.Option(help="Train up to N networks, each on what those before it do not certify: a robust cascade."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:0; by default the CPU.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder for checkpoint, log, curves; by default --out with .run behind it.")
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="At most so long between checkpoints.")] = 60.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run; start it if there is none.")
    ] = False,
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
    with user_errors(), _bad_values():
        folder = (out if cascade is not None else Path(f"{out}.run")) if run is None else run
        if cascade is not None and (run is not None or test is not None or weights is not None):
            raise InputError("--run, --test and --weights go with one network, not with --cascade")
        _check_out(out, folder, resume, cascade is not None)  # known now rather than in hours
        from training.run import train as run_training
        from training.watcher import ProgressBar, Watcher

        chosen = _method(method, set_ or [], eps, threat, valid_range(None if clip == "none" else clip), batch, lr)
        options = _Files(images_key, labels_key, scale, shape, clip, quiet)
        if arch is not None:
            options = options.with_channel(data)
        x, labels = options.read(data, first)
        network, factory = _network(arch, model, weights, tuple(x.shape[1:]), _classes(labels, classes), seed)
        x = _as_weights(x, network)
        tested = None if test is None else options.read(test, None)
        plan: dict[str, Any] = {
            "epochs": epochs, "device": device, "resume": resume, "seed": seed, "validation": validation,
            "measure_every": measure_every, "patience": patience, "stages": _stages(stages),
            "checkpoint_seconds": checkpoint_seconds, "watcher": Watcher() if quiet else ProgressBar(),
        }  # fmt: skip
        if cascade is not None:
            source = (arch, model, None, tuple(x.shape[1:]), _classes(labels, classes))
            _train_cascade(lambda: _network(*source, None)[0], (x, labels), chosen, cascade, out, plan)
            return
        with _how_to_resume(folder):
            trained = run_training(network, (x, labels), chosen, out=folder, **plan)
        _keep(trained.model, out)
        _say_result(trained.history, out, folder)
        if tested is not None:
            _measure(trained.model, chosen, _stages(stages), *tested)
        print("certify it with:\n  " + options.command(factory, out, test, eps, threat))


@dataclass(frozen=True)
class _Files:
    """How the npz files are read."""

    images_key: str
    labels_key: str
    scale: float | None
    shape: str | None
    clip: str
    quiet: bool

    def read(self, path: Path, first: int | None) -> tuple[Tensor, np.ndarray]:
        """Images [N, *input] and labels [N]."""
        arrays = arrays_of(path, self.images_key, self.labels_key)
        part = part_of(first, None, len(arrays[0]))
        return examples(arrays, part, self.scale, self.shape, None if self.clip == "none" else self.clip, self.quiet)

    def with_channel(self, path: Path) -> _Files:
        """The same, but images [N, H, W] get a channel axis: what the architectures take."""
        size = arrays_of(path, self.images_key, self.labels_key)[0].shape[1:]
        if self.shape is not None or len(size) != 2:
            return self
        if not self.quiet:
            say(f"note: images are [N, H, W]: taken as --shape 1,{size[0]},{size[1]}")
        return replace(self, shape=f"1,{size[0]},{size[1]}")

    def command(self, factory: str, out: Path, test: Path | None, eps: float, threat: str) -> str:
        """The command that certifies what was trained; the shape is in the factory's arguments or in the data."""
        parts = ["verifier", "certify", "--model", factory, "--weights", str(out), "--data", str(test or "TEST.npz")]
        parts += ["--eps", f"{eps:.17g}" if float(f"{eps:g}") != eps else f"{eps:g}", "--out", f"{out}.sqlite"]
        for option, value, default in (
            ("--images-key", self.images_key, "images"), ("--labels-key", self.labels_key, "labels"),
            ("--scale", None if self.scale is None else f"{self.scale:g}", None), ("--shape", self.shape, None),
            ("--threat", threat, "linf"), ("--clip", self.clip, "none"),
        ):  # fmt: skip
            if value is not None and value != default:
                parts += [option, value]
        return shlex.join(parts)


def _method(
    name: str, texts: list[str], eps: float, threat: str, clip: tuple[float, float] | None, batch: int | None,
    lr: float | None,
) -> TrainingMethod:  # fmt: skip
    from training.methods import method_named
    from training.settings import parsed

    kind = method_named(name)
    values = parsed(kind, texts)
    if batch is not None:
        values["batch"] = batch
    made = kind(eps=eps, threat=threat, clip=clip, **values)
    return made if lr is None else replace(made, optimiser=replace(made.optimiser, rate=lr))


def _network(
    arch: str | None, source: str | None, weights: Path | None, shape: tuple[int, ...], classes: int, seed: int | None
) -> tuple[nn.Module, str]:
    """A network, and the factory that makes it for `certify`; without a seed, from torch's global generator."""
    import torch

    from training.architectures import architecture
    from verifier.loading import load_model

    if (arch is None) == (source is None):
        raise InputError("give --arch or --model: one of the two")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        if arch is not None:
            if weights is not None:
                raise InputError("--weights goes with --model, such as --model training.architectures:small")
            return architecture(arch, shape, classes), _factory(arch, shape, classes)
        assert source is not None
        loaded = load_model(source, weights)
    if not isinstance(loaded, torch.nn.Module):
        raise InputError(f"{source} is an exported program, which cannot be trained: give package.module:factory")
    return loaded, source


def _factory(arch: str, shape: tuple[int, ...], classes: int) -> str:
    """The factory that makes what `architecture` makes, as `verifier certify --model` takes it."""
    from training.architectures import ARCHITECTURES

    name, _, given = arch.partition(":")
    factory = f"training.architectures:{name}"
    defaults = [p.default for p in inspect.signature(ARCHITECTURES[name]).parameters.values()]
    if not given and [shape, classes] == defaults[:2]:
        return factory
    return f"{factory}({', '.join([repr(shape), str(classes), *([given] if given else [])])})"


def _train_cascade(
    make: Callable[[], nn.Module], data: tuple[Tensor, np.ndarray], method: TrainingMethod, count: int, out: Path,
    plan: dict[str, Any],
) -> None:  # fmt: skip
    """Trains up to `count` networks into the folder `out`, and prints what became of the images."""
    from training.cascade import train_cascade

    try:
        trained = train_cascade(make, data, method, count=count, out=out, **plan)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what is kept is in {out}: go on by the same command with --resume"
        ) from None
    for k, left in enumerate(trained.images[1:]):
        print(f"network {k}: trained on {trained.images[k]} images, of which it does not certify {left}")
    print(f"cascade: {out} (verifier.network_cascade.load_cascade reads it, and verify and certify take it)")


def _as_weights(x: Tensor, network: nn.Module) -> Tensor:  # [N, *input]
    """The images in the precision of the weights."""
    return next((x.to(p.dtype) for p in network.parameters() if p.is_floating_point()), x)


def _classes(labels: np.ndarray, classes: int | None) -> int:
    if classes is not None:
        return classes
    if labels.dtype.kind not in "iu" or labels.size == 0:
        return 2  # `train` says what is wrong with them
    return max(2, int(labels.max()) + 1)


def _stages(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text == "none" else tuple(name.strip() for name in text.split(","))


def _check_out(out: Path, folder: Path, resume: bool, cascade: bool) -> None:
    """Raises InputError, StoreError where the weights cannot be written at the end."""
    if not out.parent.is_dir():
        raise InputError(f"the directory of {out} does not exist")
    if cascade and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: with --cascade, --out is a folder")
    if not cascade and out.is_dir():
        raise InputError(f"{out} is a directory: --out is the file of weights")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write in the directory of {out}")
    if resume:
        return
    if folder.is_dir() and (folder / "checkpoint.pt").exists():
        raise StoreError(f"{folder} holds a run already: go on with it by --resume, or give another --out or --run")
    if out.exists() and not (cascade and not any(out.iterdir())):
        raise InputError(f"{out} exists already: give another --out, or remove it")


@contextmanager
def _bad_values() -> Iterator[None]:
    """Plain ValueErrors of settings and names are bad input. (A factory's own errors carry a note, and pass.)"""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        if type(error) is not ValueError or getattr(error, "__notes__", None):
            raise
        raise InputError(str(error)) from error


@contextmanager
def _how_to_resume(folder: Path) -> Iterator[None]:
    """Ctrl-C leaves with what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (folder / "checkpoint.pt").exists()
        said = (
            f"the checkpoint is in {folder}: go on by the same command with --resume"
            if kept
            else "nothing was kept yet"
        )
        raise KeyboardInterrupt(f"interrupted; {said}") from None


def _keep(model: nn.Module, out: Path) -> None:
    from safetensors.torch import save

    from training.checkpoint import replaced

    content = save({name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()})
    replaced(out, lambda beside: beside.write_bytes(content))


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
) -> None:
    """Prints clean, attacked and verified accuracy on the test set."""
    from training.evaluation import Measurement
    from training.network import NetworkInTraining
    from verifier.certification.dataset import dataset

    test = dataset(_as_weights(images, model), labels)
    device = next(model.parameters()).device
    measurement = Measurement(
        eps=method.eps, threat=method.threat, clip=method.clip, stages=method.stages if stages is None else stages
    )
    found = measurement.of(NetworkInTraining(model, test.example_input().to(device)), test.images, test.labels)
    shares = "  ".join(f"{name} {found.of(name):.2%}" for name in ("clean", "attacked", "verified"))
    print(f"on the {len(test)} test images: {shares}")
