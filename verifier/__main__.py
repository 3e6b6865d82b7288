"""`python -m verifier`, which is the `verifier` command: `vnnlib` without loading what only other commands need."""

from __future__ import annotations

import sys

from verifier.commands.allocator import keep_freed_memory
from verifier.commands.stdout import own_stdout
from verifier.commands.whole import loaded_whole


def main() -> None:
    own_stdout()
    loaded_whole()
    keep_freed_memory()
    if sys.argv[1:2] == ["vnnlib"]:
        from verifier.commands.vnnlib import main as decide_one

        decide_one(sys.argv[2:])
    from verifier.commands.app import main as others

    others()


if __name__ == "__main__":
    main()
