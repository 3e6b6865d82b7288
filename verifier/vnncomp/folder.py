"""A folder of properties in place of a list: every property of every network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from verifier.errors import InputError
from verifier.vnncomp.bench_list import Instance, told_apart

NETWORKS, PROPERTIES = (".onnx", ".onnx.gz"), (".vnnlib", ".vnnlib.gz")
#: seconds for each instance, where nothing else is asked for
DEFAULT_TIMEOUT = 120.0


def is_network(path: Path) -> bool:
    """Whether its name is that of a network."""
    return path.name.endswith(NETWORKS)


def is_property(path: Path) -> bool:
    """Whether its name is that of a property."""
    return path.name.endswith(PROPERTIES)


def instances_in(places: Sequence[Path], timeout: float = DEFAULT_TIMEOUT) -> list[Instance]:
    """Every property of every network in some places, by name: what goes together otherwise needs a list.

    Args:
        places: networks, properties, and folders, which are searched with all that they hold. A file that is there
            packed and unpacked is one.
        timeout: seconds for each.

    Raises:
        InputError: a place that is not there or neither, or no network or no property in any of them.
    """
    files = [file for place in places for file in _files(place)]
    networks, properties = (_once(filter(kind, files)) for kind in (is_network, is_property))
    where = ", ".join(map(str, places))
    if not networks:
        raise InputError(f"there is no network (*.onnx, *.onnx.gz) in {where}: name it before the folder")
    if not properties:
        raise InputError(f"there is no property (*.vnnlib, *.vnnlib.gz) in {where}")
    pairs = ((network, asked) for network in networks for asked in properties)
    return list(told_apart(Instance(network, asked, timeout, None) for network, asked in pairs))


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.is_file())
    if not place.is_file():
        raise InputError(f"there is no file or folder {place}")
    if not (is_network(place) or is_property(place)):
        raise InputError(f"{place} is neither a network (.onnx, .onnx.gz) nor a property (.vnnlib, .vnnlib.gz)")
    return [place]


def _once(paths: Iterable[Path]) -> list[Path]:
    """Each file once: of a packed and an unpacked one the unpacked, which comes first."""
    found: dict[Path, Path] = {}
    for path in sorted(paths):
        found.setdefault(path.with_name(path.name.removesuffix(".gz")), path)
    return list(found.values())
