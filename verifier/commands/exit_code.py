"""How commands end: the numbers that a shell sees. Light: only the standard library."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Every command ends with one of these (docs/guide/in-ci.md)."""

    #: the work is done, whatever the answer
    DONE = 0
    #: an internal or unexpected error, with its traceback; a run in which every example raised, or a folder of which
    #: nothing can be used; an invalid certificate; an answer that is known to be wrong; a broken law
    FAILED = 1
    #: an option, a file or a model that cannot be used, with one message; of a folder or a list some of its files, the
    #: others being decided
    USAGE = 2
    #: the work is done, and something is not as --expect, --fail-under or --strict want it
    UNMET = 3
    #: Ctrl-C
    INTERRUPTED = 130
