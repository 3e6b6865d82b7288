"""One input on the command line, or some: examples of a data file, or a file of its own. Light: no torch."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from verifier.commands.options import DATA, FormatOptions, PartOptions
from verifier.errors import InputError
from verifier.files import check_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

INPUT = typer.Option(
    help="A file with one input, without a batch dimension: .npy, .npz with one array, or a picture (.png, .jpg)."
)
LABEL = typer.Option(help="The label of --input; by default the network's own answer.")


class Given(NamedTuple):
    """Some inputs, as a network takes them."""

    x: Tensor  # [n, *input]
    labels: list[int] | None  #: None: they have none
    first_index: int  #: of the first in its file


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Which inputs, and how they are read."""

    form: FormatOptions
    data: Annotated[list[Path] | None, DATA] = None
    input: Annotated[Path | None, INPUT] = None
    label: Annotated[int | None, LABEL] = None

    def given(self, part: PartOptions, clipped: bool, quiet: bool = False) -> Given:
        """The inputs; says on stderr how they were scaled, and what is doubtful about their range.

        Args:
            part: which of --data. clipped: whether a valid range is given.

        Raises:
            InputError: no file, both, or one that cannot be used.
        """
        from verifier.data_files import files_of

        if (not self.data) == (self.input is None):
            raise InputError("give the inputs as --data FILE.npz, or one as --input FILE.npy, .npz or .png")
        if self.data:
            if self.label is not None:
                raise InputError("--label goes with --input: those of --data are in the file")
            labelled = self.form.labels_key in _names(files_of(self.data)[0])
            examples = self.form.examples(self.data, part, clipped, quiet, labelled=labelled)
            return Given(examples.images, examples.labels.tolist() if labelled else None, examples.first_index)
        assert self.input is not None
        if part.first is not None or part.indices is not None:
            raise InputError(f"{part.name} and --indices choose examples of --data: --input is one input")
        x = self.form.prepared(_one(self.input, self.form.images_key)[None], clipped, quiet)
        return Given(x, None if self.label is None else [self.label], 0)


@dataclass(frozen=True, kw_only=True)
class _One(PartOptions):
    """One example of a file."""

    index: int

    def of(self, total: int, most: int | None = None) -> range:
        """As of any part."""
        if total > 0 and self.index >= total:
            raise InputError(f"--index must be 0 to {total - 1}: there are {total} examples; got {self.index}")
        return PartOptions(indices=f"{self.index}:{self.index + 1}").of(total, most)


@dataclass(frozen=True, kw_only=True)
class OneInputOptions(InputOptions):
    """Which input."""

    index: Annotated[int, typer.Option(help="Which example of --data, counted from 0.")] = 0

    def one(self, clipped: bool, quiet: bool = False) -> Given:
        """As `given`, of one. Raises InputError."""
        if self.index < 0:
            raise InputError(f"--index must be 0 or more, got {self.index}")
        if self.input is not None and self.index:
            raise InputError("--index chooses an example of --data: --input is one input")
        return self.given(PartOptions() if not self.data else _One(index=self.index), clipped, quiet)


def _names(path: Path) -> tuple[str, ...]:
    """The arrays of an npz file; none where it is no such file, of which reading it says more."""
    from verifier.data_files import array_names

    try:
        return tuple(array_names(path))
    except (OSError, zipfile.BadZipFile):
        return ("labels",)


def _one(path: Path, key: str) -> np.ndarray:
    """The array [*input] of a file with one input. Raises InputError."""
    check_file(path, "input file")
    if path.suffix.lower() in PICTURES:
        return _picture(path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path} is neither a .npy or .npz file nor a picture ({', '.join(PICTURES)})")
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if key not in found and len(found.files) != 1:
                raise InputError(f"{path} has the arrays {', '.join(found.files)}: name the input with --images-key")
            one = np.asarray(found[key if key in found else found.files[0]])
            if "labels" in found and found["labels"].shape == one.shape[:1]:
                raise InputError(f"{path} has {len(one)} examples with labels: give it as --data, and --index for one")
            return one
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable array: {' '.join(str(error).split())}") from error


def _picture(path: Path) -> np.ndarray:
    """A picture [C, H, W], grey or in red, green and blue, as bytes. Raises InputError."""
    import numpy as np

    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError("a picture needs Pillow, which comes with pip install 'rampart-verifier[plot]'") from None
    try:
        with Image.open(path) as picture:
            mode = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}.get(picture.mode)
            if mode is None:
                raise InputError(
                    f"{path} is a picture of kind {picture.mode}: give it in 8-bit grey or RGB, or as a .npy file"
                )
            pixels = np.asarray(picture.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is not a readable picture: {' '.join(str(error).split())}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
