"""The documentation is true: its code runs, prints what it shows, and its commands work.

Blocks of a file run in order, in one process, one namespace and one temporary directory:

- ```python runs; a ```text right after it is what it prints (`...` matches anything, white space does not count);
- ```console and ```bash: lines (after "$ ", in a console) that start with `verifier` or `python` run and must exit with
  0; other lines of a console are what the command above them prints;
- a python block that starts with the name of a file of a package, on a page about adding parts, is saved as that file
  in a copy of the packages, before the other blocks run in that copy; the file is then imported alone in a process of
  its own, and the parts that it registers are held to the conformance checks of their kinds;
- `make TARGET` anywhere in the file must name a target of the Makefile; set-up commands are left to the Makefile.

Processes of pages and of their commands begin with torch imported, and nothing of this tree (helpers.preloaded).
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the processes of pages, which run this file

from helpers import preloaded

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [path for path in FILES if path.parent.name == "how-to-add"]  #: about adding parts, each one a file
#: pages with many runs, whose commands have tests of their own
_LONG = (
    "cascades",
    "certify",
    "crosscheck",
    "in-ci",
    "many-machines",
    "questions",
    "report",
    "sweeps-and-radii",
    "threat-models",
    "train",
)
LONG = {f"docs/guide/{page}.md" for page in _LONG}
PACKAGES = ("properties", "solvers", "training", "verifier")
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


def saved_files(path: Path) -> dict[str, str]:
    """The files that blocks of a page are, by their paths."""
    found = {}
    for block in blocks(path.read_text(encoding="utf-8")):
        named = re.match(rf"# ((?:{'|'.join(PACKAGES)})/[\w/]+\.py)\n", block.text)
        if block.language == "python" and named:
            found[named[1]] = block.text
    return found


def run_python(block: Block, namespace: dict[str, object], where: str) -> str:
    code = compile("\n" * (block.line - 1) + block.text, where, "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, namespace)
    return out.getvalue()


def run_command(command: str, where: str) -> str:
    program, *arguments = shlex.split(command)
    done = preloaded.run([*PROGRAMS[program], *arguments], Path.cwd(), dict(os.environ), timeout=300)
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
    saved = saved_files(path).values() if path in PAGES else ()
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{name_of(path)}:{block.line}"
        if block.text in saved:
            printed = None
            continue
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


def environment(root: Path = ROOT) -> dict[str, str]:
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    fixed = {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    return {**os.environ, **fixed}


def in_process(arguments: list[str], folder: Path, root: Path = ROOT) -> None:
    """Runs this file in a process of its own: the blocks register parts, and change the current directory."""
    done = preloaded.run(["-P", __file__, *arguments], folder, environment(root), timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module", autouse=True)
def packages_of_others() -> Iterator[None]:
    with preloaded.preloaded("torch", "scipy.optimize", "onnx", "sklearn.datasets", "pytest"):
        yield


def name_of(path: Path) -> str:
    """docs/guide/train.md: files of several folders may share a name."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if name_of(p) in LONG else ()) for p in FILES if p not in PAGES],
    ids=lambda path: name_of(path),
)
def test_blocks_run_and_print_what_they_show(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    in_process([str(path)], tmp_path)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, with all files that the pages about adding parts show."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for page in PAGES:
        for name, text in saved_files(page).items():
            assert not (root / name).exists(), f"{page.name}: {name} is there already"
            (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_about_adding_parts_run_where_their_files_are_saved(path: Path, copied: Path, tmp_path: Path) -> None:
    in_process([str(path)], tmp_path, copied)


def _parts() -> list[Any]:
    """Files of the pages. Most are slow: pages run by default, and the laws are held to the parts that we ship."""
    names = [name for page in PAGES for name in saved_files(page)]
    return [pytest.param(name, marks=() if name.startswith("verifier/ops/") else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _parts())
def test_a_file_of_the_pages_is_a_part_that_keeps_the_laws(name: str, copied: Path, tmp_path: Path) -> None:
    """Imported first and alone, found by its register without any other line, and conforming."""
    in_process(["--conformance", name], tmp_path, copied)


def test_every_kind_of_part_has_a_page_with_a_file() -> None:
    folders = {str(Path(name).parent) for page in PAGES for name in saved_files(page)}
    assert folders == set(KINDS)


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


#: folder -> where the register of its parts is, and the check of the kind
KINDS = {
    "properties": ("properties.input_set:REGISTRY", "verifier.testing:check_input_set"),
    "solvers": ("solvers.base:REGISTRY", "verifier.testing:check_backend"),
    "training/methods": ("training.method:METHODS", "training.testing:check_method"),
    "verifier/attacks": ("verifier.attacks.base:REGISTRY", "verifier.testing:check_attack"),
    "verifier/comparison/methods": ("verifier.comparison.method:METHODS", "verifier.testing:check_comparison_method"),
    "verifier/ops": ("verifier.ops.base:REGISTRY", "verifier.testing:check_operator"),
    "verifier/stages": ("verifier.stages.base:REGISTRY", "verifier.testing:check_stage"),
}


def conformance(name: str) -> None:
    """The parts of one file, imported before anything else, are in the list of their kind and keep its laws."""
    module = name.removesuffix(".py").replace("/", ".")
    own = vars(importlib.import_module(module))
    (registry, check) = (
        getattr(importlib.import_module(where.partition(":")[0]), where.partition(":")[2])
        for where in KINDS[str(Path(name).parent)]
    )
    assert not registry.failures and len(registry) > 3 and not registry.failures, registry.failures
    added = [part for part in registry.values() if module_of(part) == module]
    classes = [v for v in own.values() if getattr(v, "__module__", "") == module and isinstance(v, type)]
    if not added:  # handlers alone, or functions that make what is there
        assert "\n@register" not in Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8")
        assert not [cls for cls in classes if not cls.__name__.startswith("_")]
    for part in added:
        try:
            check(part)
        except ValueError as error:
            if "is not installed" not in str(error):
                raise


def module_of(part: object) -> str:
    """Where a part is defined: a class, a function's maker, or a method of the cross-check by its function."""
    made = getattr(part, "run", part) if not isinstance(part, type) else part
    return str(getattr(made, "__module__", ""))


if __name__ == "__main__":
    if sys.argv[1] == "--conformance":
        conformance(sys.argv[2])
    else:
        run_file(Path(sys.argv[1]))
