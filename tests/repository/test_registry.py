"""The register of parts: names, aliases, files of a folder, entry points, and what is said of what goes wrong."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import verifier.registry
from verifier.registry import PartWarning, Registry

HEAD = "from parts_of_tests import REGISTRY, Part\n\n"


class Part:
    """What these tests register."""

    name = ""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Callable[[], Part]]:
    """Of an empty folder: the package `parts_of_tests`, whose files find the register and `Part` in it."""
    folder = tmp_path / "parts_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Parts."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    made: Registry[Callable[[], Part]] = Registry("thing", "parts_of_tests", "verifier.things")
    package = __import__("parts_of_tests")
    package.REGISTRY, package.Part = made, Part  # type: ignore[attr-defined]
    monkeypatch.setattr(verifier.registry, "entry_points", lambda group: [])
    yield made  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "parts_of_tests"]:
        del sys.modules[name]


def save(folder: Path, name: str, text: str) -> None:
    (folder / "parts_of_tests" / f"{name}.py").write_text(text)


def test_saving_a_file_is_all(registry: Registry[Callable[[], Part]], tmp_path: Path) -> None:
    save(tmp_path, "one", HEAD + '@REGISTRY.register\nclass One(Part):\n    name, aliases = "one", ("uno", "eins")\n')
    save(tmp_path, "many", HEAD + 'REGISTRY.register(Part, "second")\nREGISTRY.register(lambda: Part(), "third")\n')
    assert "parts_of_tests.one" not in sys.modules, "imported on first need only"
    assert registry["eins"].__name__ == "One" and "uno" in registry and "zwei" not in registry
    assert sorted(registry) == ["one", "second", "third"] and len(registry) == 3
    assert registry.canonical("uno") == "one" and registry.aliases("one") == ("uno", "eins")
    assert registry.aliases("third") == () and not registry.failures


def test_an_unknown_name(registry: Registry[Callable[[], Part]]) -> None:
    for name in ("linear", "constant"):
        registry.register(Part, name, aliases=[f"{name}-too"])
    with pytest.raises(
        ValueError, match=r"^no thing is called 'linaer'; there are: constant, linear; did you mean 'lin"
    ):
        registry.named_part("linaer")
    with pytest.raises(ValueError, match=r"^no thing is called 'xyz'; there are: constant, linear$"):
        registry.canonical("xyz")
    with pytest.raises(KeyError):
        registry["xyz"]


def test_names_that_are_taken(registry: Registry[Callable[[], Part]]) -> None:
    def other() -> Part:
        return Part()

    registry.register(Part, "one", aliases=["uno"])
    for name, aliases in (("one", []), ("uno", []), ("two", ["one"]), ("two", ["uno"])):
        with pytest.raises(ValueError, match=r"a thing called '(one|uno)' is there already \(.*Part\): not .*other"):
            registry.register(other, name, aliases=aliases)
    assert list(registry) == ["one"] and "two" not in registry
    registry.register(Part, "one", aliases=["uno"])  # the same again: a module that is loaded twice


def test_what_cannot_be_registered(registry: Registry[Callable[[], Part]]) -> None:
    class Unfinished(ABC):
        name = "unfinished"

        @abstractmethod
        def act(self) -> None: ...

    with pytest.raises(TypeError, match=r"Unfinished is no thing yet: it lacks act"):
        registry.register(Unfinished)
    with pytest.raises(ValueError, match="Part has no name"):
        registry.register(Part)


def test_a_file_that_fails_is_a_warning_in_one_line(registry: Registry[Callable[[], Part]], tmp_path: Path) -> None:
    save(tmp_path, "broken", "import no_such_module_at_all\n")
    save(tmp_path, "wrong", "def f(:\n")
    save(tmp_path, "works", HEAD + 'REGISTRY.register(Part, "works")\n')
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert list(registry) == ["works"]
    lines = [str(w.message) for w in told if w.category is PartWarning]
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    assert "parts_of_tests.broken cannot be loaded: ModuleNotFoundError: No module named 'no_such" in lines[0]
    assert "parts_of_tests.wrong cannot be loaded: SyntaxError" in lines[1]
    with pytest.raises(ValueError, match=r"there are: works; .*parts_of_tests\.broken cannot be loaded"):
        registry.named_part("broken")


def test_parts_of_other_distributions(
    registry: Registry[Callable[[], Part]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts_of_others.py").write_text(HEAD + 'REGISTRY.register(Part, "theirs")\n')
    entries = [
        EntryPoint("theirs", "parts_of_others", "verifier.things"),
        EntryPoint("gone", "no_such_distribution.part", "verifier.things"),
    ]
    monkeypatch.setattr(verifier.registry, "entry_points", lambda group: entries if group == "verifier.things" else [])
    with pytest.warns(PartWarning, match=r"the entry point gone = no_such_distribution\.part cannot be loaded"):
        assert "theirs" in registry and list(registry) == ["theirs"]


def test_parts_that_stand_in(registry: Registry[Callable[[], Part]]) -> None:
    registry.register(Part, "one")
    registry.register(Part, "two")
    with registry.standing_in({"one": Part, "two": None, "three": Part}):
        assert sorted(registry) == ["one", "three"] and "two" not in registry
    assert sorted(registry) == ["one", "two"]


@pytest.mark.parametrize(
    "where",
    ["verifier.ops.base", "verifier.stages.base", "properties.input_set", "solvers.base", "verifier.attacks.base",
     "training.method", "verifier.comparison.method", "verifier.attacks.losses", "verifier.attacks.starts"],
)  # fmt: skip
def test_every_kind_of_part_has_one_and_all_of_it_loads(where: str) -> None:
    module = __import__(where, fromlist=["*"])
    (own,) = [
        v
        for k, v in vars(module).items()
        if isinstance(v, Registry) and k in ("REGISTRY", "METHODS", "LOSSES", "STARTS")
    ]
    assert len(own) >= 3 and not own.failures
