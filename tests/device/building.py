"""The part below Python (hooks.cpp), compiled once and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hooks.cpp")
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300


class Missing(Exception):
    """No device can be pretended here. The message is the reason for skipping."""


def torch_folder() -> Path:
    """Where torch is installed, found without importing it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise Missing("torch is not installed")
    return Path(found.origin).parent


def built() -> Path:
    """The library, compiled where the cache has none of this source and this torch.

    Raises:
        Missing: there is no compiler, there are no headers, or it cannot be compiled.
    """
    if not sys.platform.startswith("linux"):
        raise Missing(f"a CUDA device is pretended on Linux only, not on {sys.platform}")
    torch = torch_folder()
    headers = torch / "include"
    if not (headers / "ATen" / "detail" / "CUDAHooksInterface.h").exists():
        raise Missing(f"torch came without its C++ headers: {headers} lacks them")
    version = (torch / "version.py").read_bytes()
    digest = hashlib.sha256(SOURCE.read_bytes() + version + os.fsencode(torch)).hexdigest()[:16]
    library = _cache() / f"hooks-{digest}.so"
    if not library.exists():
        _compile(library, headers)
    return library


def _cache() -> Path:
    """A folder that this user can write to."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "rampart-tests", Path(tempfile.gettempdir()) / f"rampart-tests-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():  # nobody else's code is loaded
            return folder
    raise Missing(f"neither {home} nor {tempfile.gettempdir()} can be written to, where a compiled file is to be kept")


def _compile(library: Path, headers: Path) -> None:
    """Under a name of its own first: another process may be doing the same."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise Missing(f"there is no C++ compiler: none of {', '.join(COMPILERS)} is on PATH, and CXX is not set")
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        options = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC", "-isystem", str(headers)]
        try:
            subprocess.run(
                [*compiler.split(), *options, str(SOURCE), "-o", str(made)],
                check=True, capture_output=True, text=True, timeout=SECONDS,
            )  # fmt: skip
        except OSError as error:
            raise Missing(f"the C++ compiler {compiler} cannot be started: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise Missing(f"{compiler} was not done with {SOURCE.name} after {SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip()[:300])
            raise Missing(f"{compiler} cannot compile {SOURCE.name} against this torch: {first}") from error
        os.replace(made, library)
