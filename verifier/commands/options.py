"""The options that commands share, each described once. Light: torch is loaded where it is used.

Capitals are descriptions; classes are groups of options that a command takes as one parameter (command.py), and that
know how to read what the options name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import typer

from verifier.commands.shared import image_shape, say, slice_of, valid_range
from verifier.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from properties import Perturbation, Question
    from verifier.data_files import Sources
    from verifier.graph.onnx_model import OnnxModel


def number(text: str) -> float:
    """A number, or a fraction of two such as 8/255."""
    from properties.numbers import number_of

    try:
        return number_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def seconds(text: str) -> float:
    """Seconds, written as 60, 10s, 2min or inf."""
    from verifier.budget import seconds_of

    try:
        found = seconds_of(str(text), "it")
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    return float("inf") if found is None else found


def limit_of(what: str, endless: bool = True) -> Any:
    """An option that takes seconds in any form, and says so.

    Args:
        what: is limited by it, such as "Seconds for everything". endless: there may be no limit.
    """
    said = f"{what}, such as 60, 10s or 2min{'; inf for no limit' if endless else ''}."
    return typer.Option(parser=seconds, metavar="SECONDS", help=said)


MODEL = typer.Option(
    help="net.pt2 (torch.export.save), net.onnx or net.onnx.gz, or package.module:factory: a callable without "
    "arguments that returns a torch.nn.Module. The current directory is importable. The model is put in eval mode. "
    "A .pt2 file and a factory can run any code: see --safe."
)
SAFE = typer.Option(
    "--safe",
    help="Refuse models that can run code of their own: take ONNX files, and training.architectures:NAME "
    "with --weights.",
)
WEIGHTS = typer.Option(help="safetensors file with all of the factory's weights.")
OUTPUT = typer.Option(metavar="NAME|PLACE", help="Which of the network's outputs, where it has several.")
QUESTION = typer.Option(
    metavar="NAME[:NUMBERS]",
    help="What is asked of the outputs by name, in place of whether the label stays: same_classes[:DIM[,MAY_CHANGE]], "
    "output_range:LOW,HIGH, near:DISTANCE, threshold:T, targeted:CLASS, one_of:CLASS,..., top_k:K.",
)
THRESHOLD = typer.Option(
    parser=number, metavar="NUMBER", help="The only output stays on the side of this number that it is on."
)
AGAINST = typer.Option(
    metavar="MODEL",
    help="Compare with this network, given as --model is: do outputs differ by no more than --distance?",
)
DISTANCE = typer.Option(parser=number, metavar="NUMBER", help="How far each output may be from that of --against.")
DATA = typer.Option(
    metavar="FILE",
    help="npz file with images [N, ...] and labels [N]. Several, a folder of them, or a pattern in quotes are joined.",
)
EPS = typer.Option(
    parser=number, metavar="NUMBER",
    help="Radius, in the units of the (scaled) images; a number, or a fraction such as 8/255.",
)  # fmt: skip
THREAT = typer.Option(help="Kind of set: linf, l2, l1, wasserstein, ..., or a union such as linf+5*l2.")
CLIP = typer.Option(help="Valid range of inputs, such as 0,1, or none.")
FIRST = "Only the first N examples."
STAGES = typer.Option(help="Names of the stages to use, comma-separated, in order.")
DEVICE = typer.Option(help="cpu, cuda or cuda:0; by default where the model is.")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network."""

    model: Annotated[str, MODEL]
    weights: Annotated[Path | None, WEIGHTS] = None
    output: Annotated[str | None, OUTPUT] = None
    safe: Annotated[bool, SAFE] = False

    def load(self) -> nn.Module | ExportedProgram | OnnxModel:
        """The model, in eval mode where that is not fixed in it. Raises as `verifier.several.loaded`."""
        from verifier.loading import check_safe
        from verifier.several import loaded

        if self.safe:
            check_safe(self.model)
        return loaded(self.model, self.weights, self.output)


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """What is asked about the outputs; without any of these, whether the label stays."""

    question: Annotated[str | None, QUESTION] = None
    threshold: Annotated[float | None, THRESHOLD] = None
    against: Annotated[str | None, AGAINST] = None
    distance: Annotated[float | None, DISTANCE] = None

    def asked(self) -> Question | None:
        """The question by name; None: the label stays. Raises InputError."""
        if (self.against is None) != (self.distance is None):
            raise InputError("--against and --distance go together: the other network, and how far outputs may differ")
        if self.against is not None and (self.question is not None or self.threshold is not None):
            raise InputError("--against is a question by itself: leave --question and --threshold out")
        if self.distance is not None and not 0 < self.distance < float("inf"):
            raise InputError(f"--distance must be a number > 0, got {self.distance}")
        if self.question is not None and self.threshold is not None:
            raise InputError("give --question or --threshold, not both: --threshold T is --question threshold:T")
        if self.question is None and self.threshold is None and self.distance is None:
            return None
        from properties import Question
        from verifier.arguments import input_errors

        if self.distance is not None:
            return Question("output_range", (-self.distance, self.distance))
        with input_errors():
            return Question.parse(self.question or f"threshold:{self.threshold!r}")

    def network(self, network: ModelOptions) -> Any:
        """The network that the question is about: with --against its difference to another one, in the same form."""
        model = network.load()
        if self.against is None:
            return model
        from verifier.questions import ImportedDifference

        return ImportedDifference(
            model, ModelOptions(model=self.against, output=network.output, safe=network.safe).load()
        )

    @staticmethod
    def labelled(asked: Question | None) -> bool:
        """Whether the examples need labels."""
        return asked is None or asked.labelled


class Examples(NamedTuple):
    """Some examples of a file, as a network takes them."""

    images: Tensor  # [n, *input]
    labels: np.ndarray  # [n]
    first_index: int  # of the first of them in the file
    said: str  # what was read, in a line


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which of a file's examples."""

    name: ClassVar[str] = "--first"  #: of the first option, as messages call it

    first: Annotated[int | None, typer.Option(help=FIRST)] = None
    indices: Annotated[str | None, typer.Option(help="Only the examples a:b (b excluded), under their numbers.")] = None

    def of(self, total: int, most: int | None = None) -> range:
        """The examples asked for, of so many; where nothing is asked for, the first `most`. Raises InputError."""
        if total == 0:
            raise InputError("the data have no examples: nothing to do")
        if self.first is not None and self.indices is not None:
            raise InputError(f"give {self.name} or --indices, not both")
        if self.indices is not None:
            return slice_of(self.indices, total)
        first = self.first if self.first is not None or most is None else min(most, total)
        if first is not None and not 1 <= first <= total:
            raise InputError(f"{self.name} must be 1 to {total}, the number of examples; got {first}")
        return range(total if first is None else first)


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """How the examples of an npz file are read."""

    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images"
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels"
    scale: Annotated[
        float | None, typer.Option(help="Divide the images by this; by default uint8 images by 255, others not.")
    ] = None
    shape: Annotated[
        str | None, typer.Option(help="Reshape each image, such as 1,28,28 for greyscale images [N, 28, 28].")
    ] = None

    layout: Annotated[
        str | None,
        typer.Option(
            help="Where the file's images have their channels: nhwc (last) turns them to channels first; nchw (first) "
            "leaves them; nchw:nhwc turns them for a network that takes channels last."
        ),
    ] = None

    def arrays(self, path: Sources, labelled: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, ...] and labels [N] as they are in the file, or in several; -1 where nothing is asked of labels.

        Raises:
            InputError: arrays that are not there, or of other shapes; files that cannot be joined.
        """
        import numpy as np

        from verifier.data_files import load_joined

        if not labelled:
            images, _ = load_joined(path, self.images_key, self.images_key)
            if images.ndim == 0:
                raise InputError("images must be [N, ...], got one number")
            return images, np.full(len(images), -1)
        images, labels = load_joined(path, self.images_key, self.labels_key)
        if images.ndim == 0 or labels.ndim == 0:
            raise InputError(f"images {list(images.shape)} and labels {list(labels.shape)} must be [N, ...] and [N]")
        if len(images) != len(labels):
            where = path if isinstance(path, Path) else ", ".join(map(str, path))
            raise InputError(f"{where} has {len(images)} images but {len(labels)} labels")
        return images, labels

    def examples(
        self, path: Sources, part: PartOptions, clipped: bool, quiet: bool, most: int | None = None,
        labelled: bool = True,
    ) -> Examples:  # fmt: skip
        """Some examples of a file; says on stderr how they were scaled, and what is doubtful about their range.

        Args:
            path: a file, or several (`verifier.data_files.files_of`).
            part, most: which (`PartOptions.of`). clipped: whether a valid range is given.
            labelled: whether labels are needed.

        Raises:
            InputError: a file or a part of it that cannot be used.
        """
        from verifier.data_files import files_of, said

        arrays = self.arrays(path, labelled)
        chosen = part.of(len(arrays[0]), most)
        images, labels = (array[chosen.start : chosen.stop] for array in arrays)
        x = self.prepared(images, clipped, quiet)
        return Examples(x, labels, chosen.start, said(images, labels, len(files_of(path)), self.layout, x.shape[1:]))

    def prepared(self, images: np.ndarray, clipped: bool, quiet: bool) -> Tensor:
        """Images [n, *input] of a file as a network takes them; says on stderr what `examples` says.

        Args:
            images: [n, ...]. clipped: whether a valid range is given.

        Raises:
            InputError: images that cannot be used.
        """
        from verifier.loading import prepare_images, range_note

        x, note = prepare_images(images, self.scale, image_shape(self.shape), self.layout)
        if note and not quiet:
            say(note)
        doubt = range_note(images, self.scale, clipped)
        if doubt:  # also when quiet: the answers would mean little
            say(doubt)
        return x


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Files of examples, and how they are read."""

    data: Annotated[list[Path], DATA]
    form: FormatOptions

    def examples(
        self, part: PartOptions, clipped: bool, quiet: bool = False, most: int | None = None, labelled: bool = True
    ) -> Examples:
        """As `FormatOptions.examples`, of these files."""
        return self.form.examples(self.data, part, clipped, quiet, most, labelled)

    def names(self) -> list[str]:
        """Of the files, without their folders."""
        from verifier.data_files import files_of

        return [file.name for file in files_of(self.data)]


@dataclass(frozen=True, kw_only=True)
class OptionalPerturbation:
    """How far and within which range inputs may move, where that may be left out."""

    eps: Annotated[float | None, EPS] = None
    threat: Annotated[str, THREAT] = "linf"
    clip: Annotated[str, CLIP] = "none"

    @property
    def limits(self) -> tuple[float, float] | None:
        """The valid range of inputs. Raises InputError."""
        return valid_range(self.clip)

    def of(self, eps: float) -> Perturbation:
        """The record, with this radius. Raises InputError."""
        from properties import Perturbation
        from verifier.arguments import input_errors

        with input_errors():
            return Perturbation(eps, self.threat, self.limits)


@dataclass(frozen=True, kw_only=True)
class PerturbationOptions(OptionalPerturbation):
    """How far and within which range inputs may move."""

    eps: Annotated[float, EPS] = field()  # without a default, not the base's
