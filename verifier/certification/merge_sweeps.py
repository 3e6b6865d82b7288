"""Folders of sweeps over radii, made by several machines, become one: a store for each radius that any of them has."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from verifier.certification.curve import Sweep, opened, store_of
from verifier.certification.join import Joined
from verifier.certification.merge import write_merged
from verifier.certification.report import same_file
from verifier.checker.audit import NETWORK
from verifier.errors import InputError, StoreError

Folder = str | os.PathLike[str]


def merge_sweeps(
    folders: Sequence[Folder],
    out: Folder,
    *,
    certificates: Sequence[Folder] = (),
    certificates_out: Folder | None = None,
) -> Sweep:
    """One sweep of what several have, such as those of `certify(eps=[...], shard=...)`.

    They need not have the same radii: each that any of them has is in the new one, merged as `verifier.merge` does it.
    `certify(eps=[...], resume=True)` goes on with it.

    Args:
        folders: two or more, as `certify` made them (`store`). out: the new one, which must not exist; it is written
            whole or not at all.
        certificates: folders that the sweeps wrote their certificates to. certificates_out: the one to make of them.

    Raises:
        InputError: fewer than two folders, or one named twice; folders of certificates that cannot be read or written.
        StoreError: as `verifier.merge`; a folder is no sweep, or two radii are about different things.
    """
    places = [Path(folder).expanduser() for folder in folders]
    if len(places) < 2:
        raise InputError("merge takes the folders of two sweeps or more")
    for k, place in enumerate(places):
        if any(same_file(place, other) for other in places[:k]):
            raise InputError(f"{place} is named twice: name each folder once")
        Sweep.open(place)  # one by one, so that what is wrong with one of them is said of it
    if bool(certificates) != (certificates_out is not None):
        raise InputError("certificates and certificates_out go together: the folders, and the one to make of them")
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(whole_folder(Path(out).expanduser()))
        sources = [opened(place) for place in places]
        for eps in sorted({eps for source in sources for eps in source}):
            paths = [source[eps].path for source in sources if eps in source]
            write_merged([path for path in paths if path is not None], store_of(made, eps))
        _check_agree(made, places)
        if certificates_out is not None:
            _join([Path(one) for one in certificates], stack.enter_context(whole_folder(Path(certificates_out))))
    return Sweep.open(out)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside it, to fill; it takes the name on leaving, unless that is by an error.

    Raises:
        InputError: it is there already, or cannot be made.
    """
    if out.exists():
        raise InputError(f"{out} exists already: give a folder that does not")
    if not out.absolute().parent.is_dir():
        raise InputError(f"the directory of {out} does not exist; create it first")
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir()
        yield beside
        os.rename(beside, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_agree(made: Path, places: Sequence[Path]) -> None:
    """Raises StoreError where radii of different folders are about different things."""
    try:
        Sweep.open(made)
    except StoreError as error:
        said = str(error).replace(f"{made}{os.sep}", "")
        names = " and ".join(map(str, places))
        raise StoreError(f"{names} are not of one sweep, and cannot be merged: {said}") from error


def _join(folders: Sequence[Path], out: Path) -> None:
    """The certificates of each radius. Raises as `Joined.of`."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder of certificates at {folder}")
    for name in sorted({place.parent.name for folder in folders for place in folder.glob(f"eps-*/{NETWORK}")}):
        Joined.of([folder / name for folder in folders if (folder / name / NETWORK).is_file()], out / name).write()
