"""Code of the user's that is run here: what it raises is the user's error, shown with the user's own traceback."""

from __future__ import annotations

import contextlib
import importlib
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from verifier.errors import ModelError, VerifierError

_HERE = str(Path(__file__).parent) + os.sep


@contextlib.contextmanager
def user_code(what: str, alone: str) -> Iterator[None]:
    """Turns what is raised inside into a ModelError that shows where: the frames of this program are left out.

    Args:
        what: runs, such as "the factory nets:net". alone: a command that runs it without this program.

    Raises:
        ModelError: it raised something, or ended the program. Errors of this package pass.
    """
    try:
        yield
    except VerifierError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(_told(what, alone, error)) from error


def _told(what: str, alone: str, error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        did = f"ended the program (sys.exit({text})): code that is for a script belongs under if __name__ == '__main__'"
    else:
        did = f"raised {type(error).__name__}{': ' * bool(text)}{text}"
    own = "".join(traceback.format_exception(type(error), error, _of_the_user(error.__traceback__))).rstrip()
    return f"{what} {did}\n{own}\nIt is code of yours, or of its author; to see it alone: {alone}"


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """The frames below those of this package and of Python's imports, with which it begins."""
    while trace is not None and _is_on_the_way(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_on_the_way(file: str) -> bool:
    return file.startswith(("<frozen importlib", _HERE)) or file == importlib.__file__
