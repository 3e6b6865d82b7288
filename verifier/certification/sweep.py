"""Certifying a test set at several radii: a run for each, and nothing decided twice."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from properties import Perturbation
from verifier.arguments import input_errors
from verifier.certification.certificates import MISSING
from verifier.certification.curve import Sweep, opened, store_of
from verifier.certification.dataset import dataset
from verifier.certification.example import ExampleOutcome
from verifier.certification.report import Report
from verifier.certification.sharing import Sharing, Source, shared
from verifier.certification.store import StorePath
from verifier.certification.workshop import Workshop
from verifier.checker.audit import SUFFIX
from verifier.errors import InputError, StoreError
from verifier.files import bytes_replaced, text_replaced

Radii = Sequence[float] | Tensor | np.ndarray


def over_radii(one: Callable[..., Report]) -> Callable[..., Any]:
    """Makes a function that certifies at one radius one that takes several as well."""

    @functools.wraps(one)
    def certify(model: Any, images: Any, labels: Any = None, eps: Any = None, **options: Any) -> Report | Sweep:
        if not _several(eps):
            return one(model, images, labels, eps, **options)
        return _swept(one, model, images, labels, checked_radii(eps), **options)

    return certify


def _several(eps: object) -> bool:
    return isinstance(eps, list | tuple | range) or (isinstance(eps, Tensor | np.ndarray) and eps.ndim > 0)


def checked_radii(eps: Any) -> tuple[float, ...]:
    """Radii in ascending order. Raises InputError where there are none, one comes twice, or one is no radius."""
    given = eps.tolist() if isinstance(eps, Tensor | np.ndarray) else eps
    with input_errors():
        each = [Perturbation(value).eps for value in given]
    if not each:
        raise InputError("eps has no radius: give one number or several, such as [0.02, 0.05]")
    wrong = next((value for value, one in zip(given, each, strict=True) if not isinstance(one, float)), None)
    if wrong is not None:
        raise InputError(f"each eps of a sweep is one number for all examples, got {wrong!r}")
    radii = tuple(sorted(map(float, each)))
    twice = next((a for a, b in itertools.pairwise(radii) if a == b), None)
    if twice is not None:
        raise InputError(f"eps has {twice:g} twice: give each radius once")
    return radii


def _swept(
    one: Callable[..., Report],
    model: Any,
    images: Any,
    labels: Any,
    radii: tuple[float, ...],
    *,
    store: StorePath | None = None,
    resume: bool = False,
    certificates: str | os.PathLike[str] | None = None,
    progress: Any = True,
    **options: Any,
) -> Sweep:
    """The runs, each told what those before it and those in its folder know."""
    data, resume = dataset(images, labels), resume or bool(options.get("retry"))
    folder = None if store is None else _folder(store, radii, resume)
    sources = {} if folder is None else opened(folder)
    sharing = Sharing(data, sources, dict(enumerate(data.digests(), options.get("first_index", 0))))
    with Workshop() as workshop:
        for done, eps in enumerate(bisecting(radii)):
            if progress is True:
                print(f"eps {eps:g} ({done + 1} of {len(radii)} radii)", file=sys.stderr, flush=True)
            proofs = None if certificates is None else _made(Path(certificates)) / f"eps-{eps!r}"
            path = None if folder is None else store_of(folder, eps)
            where = {
                "store": path,
                "resume": resume,
                "certificates": proofs,
                "known": sharing.known,
                "workshop": workshop,
            }
            with _told_where(folder, f"eps {eps:g}; {done} of {len(radii)} radii are done"):
                report = one(model, data.images, data.labels, eps, progress=progress, **where, **options)
            sources[eps] = Source(report, sharing.examples, path)
    for eps in radii:  # what a radius left open, one that came after it may have decided
        sources[eps] = sharing.settled(sources[eps])
        if certificates is not None:
            _hand_down_proofs(Path(certificates), sources, eps)
    return Sweep(tuple(sources[eps].report for eps in radii))


@contextlib.contextmanager
def _told_where(folder: Path | None, where: str) -> Iterator[None]:
    """An interruption says how far the sweep was; one that could not start leaves no empty folder."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"{interrupt} ({where})") from None
    except Exception:
        if folder is not None and not any(folder.iterdir()):
            folder.rmdir()
        raise


def bisecting(radii: Sequence[float]) -> Iterator[float]:
    """The radii from the middle outward, halving what is left: most is then settled by what is known on either side."""
    waiting = [radii]
    while waiting:
        part = waiting.pop(0)
        if part:
            middle = len(part) // 2
            yield part[middle]
            waiting += [part[:middle], part[middle + 1 :]]


def _folder(store: StorePath, radii: Sequence[float], resume: bool) -> Path:
    """The folder of the stores, made where there is none. Raises StoreError where that cannot be."""
    folder = Path(store).expanduser()
    if folder.is_file():
        raise StoreError(f"{folder} is a file: a sweep over several radii has a folder, with a store for each radius")
    if not folder.parent.is_dir():
        raise StoreError(f"the directory of the folder {folder} does not exist; create it first")
    there = [path for path in (store_of(folder, eps) for eps in radii) if path.exists()]
    if there and not resume:
        raise StoreError(
            f"the store {there[0]} exists already; continue that sweep with resume=True (--resume), "
            "or use another folder"
        )
    return _made(folder)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _hand_down_proofs(certificates: Path, sources: Mapping[float, Source], eps: float) -> None:
    """Puts the larger radius' certificate of what was taken over into a radius' folder, or why there is none."""
    folder = certificates / f"eps-{eps!r}"
    taken = [r for r in sources[eps].report.rows() if r.outcome is ExampleOutcome.VERIFIED and shared(r)]
    larger = {radius: _own_proofs(sources[radius]) for radius in sorted(sources) if radius > eps}
    for row in taken:
        target = folder / f"{row.index:06d}{SUFFIX}"
        places = [certificates / f"eps-{radius!r}" / target.name for radius, own in larger.items() if row.index in own]
        there = next((place for place in places if place.is_file()), None)
        text = target.with_suffix(MISSING)
        target.unlink(missing_ok=True)
        if there is not None:
            _linked(there, target)
            text.unlink(missing_ok=True)
            continue
        said = next((p.with_suffix(MISSING) for p in places if p.with_suffix(MISSING).is_file()), None)
        why = "that run wrote no certificate" if said is None else said.read_text(encoding="utf-8").strip()
        text_replaced(text, f"proved at a larger radius ({row.stage}): {why}\n")


def _own_proofs(source: Source) -> set[int]:
    """The examples that a run has proved at its own radius."""
    rows = source.report.rows()
    return {row.index for row in rows if row.outcome is ExampleOutcome.VERIFIED and not shared(row)}


def _linked(source: Path, target: Path) -> None:
    """One file under two names, as nothing writes into a certificate that is there; a copy where a disk has no links.

    Raises StoreError where the disk is full.
    """
    try:
        os.link(source, target)
    except OSError:
        try:
            bytes_replaced(target, source.read_bytes())
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror}") from error
