"""What a run over a list was made with, kept beside its table: versions and settings, an entry for each session."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from verifier.errors import StoreError
from verifier.files import json_text, text_replaced
from verifier.version import __version__

#: in the folder of a run, beside results.csv
ABOUT = "run.json"
#: packages whose versions may change what is found
_PACKAGES = ("torch", "numpy", "scipy", "onnx", "onnxruntime", "highspy")


def session_begins(folder: Path, settings: Mapping[str, Any]) -> None:
    """Adds an entry for this session. Raises StoreError where the file cannot be read or written.

    Args:
        settings: under the names of the options; paths are kept as texts, and not where the folder itself is.
    """
    kept = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if name != "out"}
    entry = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"rampart": __version__, "python": platform.python_version(), **_versions()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **kept,
    }
    _write(folder, [*sessions_in(folder), entry])


def join_sessions(folders: Iterable[Path], made: Path) -> None:
    """Those of several runs in the order in which they began, each once. Raises StoreError."""
    every = [session for folder in folders for session in sessions_in(folder)]
    each = {json.dumps(session, sort_keys=True): session for session in every}
    if each:
        _write(made, sorted(each.values(), key=lambda session: str(session.get("started"))))


def _write(folder: Path, sessions: list[dict[str, Any]]) -> None:
    path = folder / ABOUT
    try:
        text_replaced(path, json_text({"sessions": sessions}))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def sessions_in(folder: Path) -> list[dict[str, Any]]:
    """The sessions of a run; none where they were not kept, by earlier releases. Raises StoreError."""
    path = folder / ABOUT
    if not path.exists():
        return []
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
            raise TypeError("sessions is no list of them")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is not what `bench` writes beside its table: {error}; remove it to go on") from error
    return sessions


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
