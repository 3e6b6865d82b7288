"""The answers of another tool, or of another run, to the instances of a list."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.errors import InputError

#: what tools call their answers
_WORDS = {
    "sat": "sat", "violated": "sat", "falsified": "sat", "unsafe": "sat",
    "unsat": "unsat", "holds": "unsat", "verified": "unsat", "safe": "unsat",
    "timeout": "timeout", "unknown": "unknown", "error": "error",
}  # fmt: skip
#: columns of a table with a head, by what they hold: the first that is there
_HEADS = {
    "name": ("name", "instance"),
    "onnx": ("onnx", "network", "model"),
    "vnnlib": ("vnnlib", "property", "spec"),
    "status": ("status", "result", "verdict", "answer"),
    "seconds": ("seconds", "time", "run_time", "runtime", "verification_time"),
}
#: the competition's tables have no head: category, onnx, vnnlib, time to prepare, answer, time
_COMPETITION = {"onnx": 1, "vnnlib": 2, "status": 4, "seconds": 5}


@dataclass(frozen=True)
class PeerAnswer:
    """What the other one said: sat, unsat, unknown, timeout or error."""

    status: str
    seconds: float

    @property
    def solved(self) -> bool:
        return self.status in ("sat", "unsat")


def answers_of(path: Path) -> Mapping[str, PeerAnswer]:
    """Answers by the names that `verifier bench` gives instances: network, a space, property.

    The file is a results.csv of `verifier bench`, a table of the competition (no head: category, onnx, vnnlib, seconds
    to prepare, answer, seconds), or any with a head that has onnx and vnnlib (or name), result (or status) and seconds
    (or time).

    Raises:
        InputError: it cannot be read, or is none of these; with the number of the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(n, [part.strip() for part in line]) for n, line in enumerate(csv.reader(file), 1) if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the answers {path}: {error}") from error
    if not lines:
        raise InputError(f"{path} has no answers: it is empty")
    places = _places([text.lower() for text in lines[0][1]])
    if places is None:
        if len(lines[0][1]) != 6:
            raise InputError(
                f"{path}, line 1: neither a head with onnx, vnnlib, result and seconds (or name, status, seconds), nor "
                "a line of the competition: category,onnx,vnnlib,seconds to prepare,answer,seconds"
            )
        return dict(_answer(path, n, line, _COMPETITION) for n, line in lines)
    return dict(_answer(path, n, line, places) for n, line in lines[1:])


def _places(head: Sequence[str]) -> dict[str, int] | None:
    """What is in which column; None where the line is no head."""
    found = {
        what: next(head.index(name) for name in names if name in head)
        for what, names in _HEADS.items()
        if any(name in head for name in names)
    }
    told = "name" in found or {"onnx", "vnnlib"} <= found.keys()
    return found if told and {"status", "seconds"} <= found.keys() else None


def _answer(path: Path, number: int, line: Sequence[str], places: Mapping[str, int]) -> tuple[str, PeerAnswer]:
    try:
        entry = {what: line[at] for what, at in places.items()}
        word, taken = entry["status"].lower(), float(entry["seconds"])
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}, line {number}: {error}") from error
    status = next((ours for theirs, ours in _WORDS.items() if word.startswith(theirs)), "error")
    if not math.isfinite(taken) or taken < 0:
        raise InputError(f"{path}, line {number}: {entry['seconds']!r} is not a number of seconds")
    name = entry.get("name") or f"{_stem(entry['onnx'])} {_stem(entry['vnnlib'])}"
    return name, PeerAnswer(status, taken)


def _stem(text: str) -> str:
    """The name of a file without its folders and endings."""
    name = text.replace("\\", "/").rpartition("/")[2].removesuffix(".gz")
    return name.rpartition(".")[0] or name
