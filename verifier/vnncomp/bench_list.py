"""Lists of instances, as the competition's benchmarks have them."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from verifier.errors import InputError
from verifier.files import check_file
from verifier.vnncomp.answer import InstanceStatus


@dataclass(frozen=True)
class Instance:
    """One line of a list."""

    network: Path
    property_file: Path
    timeout: float  #: seconds
    expected: InstanceStatus | None  #: SAT or UNSAT; None where the list does not know
    number: int = 1  #: among the instances of the list with files of these names, in other folders or listed again
    place: int = 0  #: in the list
    named: tuple[tuple[str, Path], ...] = ()  #: the networks by their names in the property, where the list has those

    @property
    def files(self) -> Path | dict[str, Path]:
        """The network, or the networks by name."""
        return dict(self.named) or self.network

    @property
    def name(self) -> str:
        """Within a list, of this instance alone."""
        name = f"{stem(self.network)} {stem(self.property_file)}"
        return name if self.number == 1 else f"{name} ({self.number})"

    @property
    def network_name(self) -> str:
        return stem(self.network)


def instances_of(path: Path, cap: float = math.inf) -> list[Instance]:
    """The instances in a csv file: onnx, vnnlib, timeout and perhaps the expected answer (sat, unsat or ?).

    The networks of a property of several are one column, f=first.onnx;g=second.onnx, by their names in the property.
    Paths are relative to the file; where one is missing but its packed or unpacked twin (.gz) is there, that is meant.
    A first line whose timeout is no number is a header.

    Args:
        cap: seconds, the most that a timeout may be.

    Raises:
        InputError: the file cannot be read, or a line in it; with its number.
    """
    check_file(path, "list of instances")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [(n, [part.strip() for part in line]) for n, line in enumerate(csv.reader(file), 1) if any(line)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no list of instances: it is not a text in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read the list {path}: {error}") from error
    if lines and len(lines[0][1]) >= 3 and _seconds(lines[0][1][2]) is None:
        lines = lines[1:]
    return list(told_apart(_instance(path, number, line, cap) for number, line in lines))


def told_apart(instances: Iterable[Instance]) -> Iterator[Instance]:
    """What became of one is not to be taken for what became of another."""
    seen: Counter[str] = Counter()
    for place, instance in enumerate(instances):
        seen[instance.name] += 1
        yield replace(instance, number=seen[instance.name], place=place)


def _instance(path: Path, number: int, line: list[str], cap: float) -> Instance:
    where = f"{path}, line {number}"
    if len(line) not in (3, 4):
        raise InputError(f"{where}: an instance is onnx,vnnlib,timeout[,expected], not {len(line)} columns")
    timeout = _seconds(line[2])
    if timeout is None:
        raise InputError(f"{where}: the timeout {line[2]!r} is not a number of seconds > 0")
    expected = line[3] if len(line) == 4 else ""
    if expected not in ("sat", "unsat", "?", "", "unknown", "timeout"):
        raise InputError(f"{where}: expected is sat, unsat or ?, not {expected!r}")
    status = InstanceStatus(expected) if expected in ("sat", "unsat") else None
    named = _named(path.parent, line[0], where)
    network = named[0][1] if named else _file(path.parent / line[0], where)
    return Instance(network, _file(path.parent / line[1], where), min(timeout, cap), status, named=named)


def _named(folder: Path, text: str, where: str) -> tuple[tuple[str, Path], ...]:
    """The networks in a text such as f=first.onnx;g=second.onnx; none where it is the path of one."""
    parts = [part.partition("=") for part in text.split(";")]
    if not all(re.fullmatch(r"[A-Za-z_]\w*", name.strip(), re.ASCII) and file for name, _, file in parts):
        return ()
    names = [name.strip() for name, _, _ in parts]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: a network is named twice in {text!r}")
    return tuple((name, _file(folder / file.strip(), where)) for name, (_, _, file) in zip(names, parts, strict=True))


def _file(path: Path, where: str) -> Path:
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    found = next((p for p in (path, twin) if p.is_file()), None)
    if found is None:
        raise InputError(f"{where}: there is no file {path}")
    return found


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 else None


def stem(path: Path) -> str:
    """The name of a file without its endings, .gz and another."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name
