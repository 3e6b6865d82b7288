"""The documentation is true: its code runs, prints what it shows, and its commands work.

Blocks of a file run in order, in one process, one namespace and one temporary directory:

- ```python runs; a ```text right after it is what it prints (`...` matches anything, white space does not count);
- ```console and ```bash: lines (after "$ ", in a console) that start with `verifier` or `python` run and must exit with
  0; other lines of a console are what the command above them prints;
- `make TARGET` anywhere in the file must name a target of the Makefile; set-up commands are left to the Makefile.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SET_UP = ("make ", "pip install", "git clone", "cd ")
PROGRAMS = {"verifier": ["-m", "verifier"], "python": []}


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line of its first line of text."""

    language: str
    text: str
    line: int
    straight_after: bool  #: nothing but blank lines since the block before


def blocks(markdown: str) -> Iterator[Block]:
    inside: str | None = None
    lines: list[str] = []
    start, straight = 0, False
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = re.match(r"^```(\w*)\s*$", line)
        if fence and inside is None:
            inside, lines, start = fence[1], [], number + 1
        elif fence and inside is not None:
            yield Block(inside, "\n".join(lines) + "\n", start, straight)
            inside, straight = None, True
        elif inside is not None:
            lines.append(line)
        elif line.strip():
            straight = False
    assert inside is None, f"the block at line {start} does not end"


def check_output(shown: str, printed: str, where: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(shown, printed, flags):
        raise AssertionError(f"{where}: shown\n{shown}\nprinted\n{printed}")


def run_python(block: Block, namespace: dict[str, object], where: str) -> str:
    code = compile("\n" * (block.line - 1) + block.text, where, "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, namespace)
    return out.getvalue()


def run_command(command: str, where: str) -> str:
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *PROGRAMS[program], *arguments],
        capture_output=True, text=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{where}: {command}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_shell(block: Block, where: str) -> None:
    """Runs each command of a console or bash block and compares what a console shows of its output."""
    console = block.language == "console"
    commands: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if not console or line.startswith("$ "):
            commands.append((line.removeprefix("$ ").strip(), []))
        elif commands:
            commands[-1][1].append(line)
    for command, shown in commands:
        if not command or command.startswith(("#", *SET_UP)):
            continue
        assert command.split()[0] in PROGRAMS, f"{where}: no test runs {command!r}"
        printed = run_command(command, where)
        if shown:
            check_output("\n".join(shown) + "\n", printed, where)


def run_file(path: Path) -> None:
    """All blocks of one file; raises on the first that is not as it says."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{name_of(path)}:{block.line}"
        if block.language == "python":
            printed = run_python(block, namespace, where)
            continue
        if block.language == "text" and block.straight_after and printed is not None:
            check_output(block.text, printed, where)
        elif block.language in ("console", "bash"):
            run_shell(block, where)
        else:
            assert block.language == "text", f"{where}: a block of language {block.language!r}"
        printed = None


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    fixed = {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    return {**os.environ, **fixed}


def in_process(arguments: list[str], folder: Path) -> None:
    """Runs this file in a process of its own: the blocks register operators, and change the current directory."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], cwd=folder, env=environment(),
        capture_output=True, text=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def name_of(path: Path) -> str:
    """docs/guide/train.md: files of several folders may share a name."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_blocks_run_and_print_what_they_show(path: Path, tmp_path: Path) -> None:
    """And the operators of how-to-add.md keep the laws that every operator of the package keeps."""
    pytest.importorskip("sklearn")
    in_process([str(path), *(["--conformance"] if path.name == "how-to-add.md" else [])], tmp_path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_named_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`|\$ )\s*make ([a-z][a-z-]*)", text, re.MULTILINE)
    assert set(named) <= targets, f"not in the Makefile: {set(named) - targets}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """Headings that a link names are looked at when the site is built (test_site.py)."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{name_of(path)} links to {target}"


def test_the_readme_is_a_door() -> None:
    """What it is, how to start, where to go on; the rest is in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_block_and_command_of_the_guide_runs() -> None:
    """Files in folders are among those that are executed, and pages with examples have some."""
    guide = {path.name: path for path in FILES if path.parent.name == "guide"}
    assert len(guide) >= 8
    for path in guide.values():
        assert any(block.language == "python" for block in blocks(path.read_text(encoding="utf-8"))), path


def test_lines_are_short() -> None:
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 140 or line.startswith("$ "), f"{name_of(path)}:{number} is {len(line)} characters long"


def test_blocks_are_found() -> None:
    found = list(blocks("a\n```python\nprint(1)\n```\n\n```text\n1\n```\nb\n```text\n2\n```\n"))
    assert [(b.language, b.text, b.line, b.straight_after) for b in found] == [
        ("python", "print(1)\n", 3, False),
        ("text", "1\n", 7, True),
        ("text", "2\n", 11, False),
    ]


def test_a_wrong_output_is_noticed() -> None:
    check_output("1 of ... s\n", "1 of 2.5 s\n", "here")
    with pytest.raises(AssertionError, match="shown"):
        check_output("1\n", "2\n", "here")


def conformance() -> int:
    """The tests of every registered operator, on those that were registered by blocks only."""
    from verifier.ops.base import REGISTRY

    own = [name for name, kind in REGISTRY.items() if kind.__module__ == "__main__"]
    assert len(own) >= 2, f"only {own} were added"
    selected = " or ".join(f"{name}-" for name in own)
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    return int(pytest.main([*options, "-k", selected, str(ROOT / "tests" / "ops" / "test_operators.py")]))


if __name__ == "__main__":
    run_file(Path(sys.argv[1]))
    sys.exit(conformance() if "--conformance" in sys.argv[2:] else 0)
