"""Examples from one npz file or from several, which are joined in order; and what was read, in a line."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from verifier.errors import InputError
from verifier.layout import doubtful
from verifier.loading import load_arrays

Sources = Path | Sequence[Path]


def files_of(sources: Sources) -> list[Path]:
    """The files that are meant, in order.

    Args:
        sources: each a file; a folder, for the npz files in it; or a pattern such as parts/train_*.npz. Those of a
            folder or pattern are ordered by name, numbers by their value.

    Raises:
        InputError: a file that is named twice, a folder or pattern without files, or one of training and test files.
    """
    found: list[Path] = []
    for source in [sources] if isinstance(sources, Path) else sources:
        found += _matches(source)
    for i, file in enumerate(found):
        if file.exists() and any(other.exists() and file.samefile(other) for other in found[:i]):
            raise InputError(f"{file} is given twice: its examples would count twice")
    return found


def load_joined(sources: Sources, images_key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """The images [N, ...] and labels [N] of all files, one after the other, as they are in them.

    Raises:
        InputError: a file that cannot be read, or files that are not parts of one set: of other shapes or kinds of
            numbers, or with other arrays.
    """
    files = files_of(sources)
    parts = [load_arrays(file, images_key, labels_key) for file in files]
    if len(parts) == 1:
        return parts[0]
    for file, (images, labels) in zip(files, parts, strict=True):
        _check_alike(files[0], parts[0], file, (images, labels))
        if images.ndim == 0 or labels.ndim == 0 or len(images) != len(labels):
            raise InputError(f"{file} has images {list(images.shape)} but labels {list(labels.shape)}")
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def kind_of_images(sources: Sources, images_key: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """The shape and the kind of numbers of one image, by the first file's header.

    None where reading the file says what is wrong with it.
    """
    file = files_of(sources)[0]
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{images_key}.npy") as array:
            version = np.lib.format.read_magic(array)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(array)
            return tuple(shape[1:]), kind
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def said(images: np.ndarray, labels: np.ndarray, files: int, layout: str | None, shape: Sequence[int]) -> str:
    """What was read, in a line: "50,000 images 3x32x32, from channels-last uint8 in 5 files, 10 classes".

    Args:
        images, labels: as they are in the files. layout: as of `verifier.layout.arranged`.
        shape: of one image, as the network takes it.
    """
    last = layout == "nhwc" or (layout is None and doubtful(images.shape[1:]))
    order = {True: "channels-last ", False: "channels-first " if layout is not None else ""}[last]
    kind = images.dtype.name + (f" [{', '.join(map(str, images.shape[1:]))}]" if _reshaped(images, shape) else "")
    known = labels[labels >= 0] if labels.dtype.kind in "iu" else labels[:0]
    classes = len(np.unique(known))
    return (
        f"{len(images):,} {'image' if len(images) == 1 else 'images'} {'x'.join(map(str, shape))}, from {order}{kind}"
        + (f" in {files} files" if files > 1 else "")
        + (f", {classes} {'class' if classes == 1 else 'classes'}" if classes else "")
    )


def _reshaped(images: np.ndarray, shape: Sequence[int]) -> bool:
    return sorted(images.shape[1:]) != sorted(shape)


def _matches(source: Path) -> list[Path]:
    if source.is_dir():
        found, what = list(source.glob("*.npz")), f"the folder {source} holds no npz files"
    elif any(sign in str(source) for sign in "*?[") and not source.exists():
        found = [path for path in _glob(source) if path.is_file()]
        what = f"no file is called like {source}"
    else:
        return [source]
    if not found:
        raise InputError(f"{what}: give a file, a folder of npz files, or a pattern such as 'parts/train_*.npz'")
    kinds = {word for path in found for word in ("train", "test") if word in path.stem.lower()}
    if len(kinds) == 2:
        raise InputError(
            f"{source} holds training and test files ({', '.join(p.name for p in sorted(found)[:6])}): "
            "a pattern such as 'train*.npz' chooses one kind"
        )
    return sorted(found, key=_natural)


def _glob(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return root.glob(str(pattern.relative_to(pattern.anchor) if pattern.is_absolute() else pattern))


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """A name as texts and numbers, so that part 10 comes after part 2; 1 and 01 have an order everywhere, too."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece), "") if i % 2 else (-1, piece) for i, piece in enumerate(pieces)], str(path)


def _check_alike(
    first: Path, its: tuple[np.ndarray, np.ndarray], other: Path, others: tuple[np.ndarray, np.ndarray]
) -> None:
    """Raises InputError where two files are not parts of one set."""
    for what, a, b in (("images", its[0], others[0]), ("labels", its[1], others[1])):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise InputError(
                f"{first} and {other} cannot be joined: the {what} are {_kind(a)} in the one, {_kind(b)} in the other"
            )
    names, given = (array_names(path) for path in (first, other))
    if names != given:
        raise InputError(
            f"{first} and {other} cannot be joined: one holds {', '.join(names)}, the other {', '.join(given)}; "
            "are they parts of one set?"
        )


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name} [{', '.join(['N', *map(str, array.shape[1:])])}]"


def array_names(path: Path) -> list[str]:
    """The arrays of an npz file. Raises OSError or zipfile.BadZipFile where it is none."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())
