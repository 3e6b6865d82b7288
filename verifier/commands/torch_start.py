"""Loading torch without what only few programs need. Light: only the standard library.

`import torch` takes a second. A third of it is for tensors without values, which programs are traced with: the shapes
that every operator gives (`torch._meta_registrations`, with its decompositions and reference operators), and the lines
of source that register such things. A command that only computes can do without, and without some other modules of
torch's. They stay importable: each is loaded when something of it is asked for.
"""

from __future__ import annotations

import importlib.machinery
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from verifier.commands.whole import found_with

#: registers how operators act on tensors without values
_SHAPES = "torch._meta_registrations"
#: what begins to trace a program, when it is called and not before: it needs the shapes without asking for the module
_TRACERS = ("torch.export._trace", "torch._dynamo", "torch._inductor")
#: whatever else `import torch` loads and does not use
_UNUSED = (
    "torch.distributions", "torch.masked", "torch.ao", "torch.quantization", "torch.nn.intrinsic", "torch.nn.qat",
    "torch.nn.quantizable", "torch.nn.quantized",
)  # fmt: skip
#: versions in which all this is so, see `_generators` too; others are loaded whole
_CHECKED = re.compile(r"__version__ = '2\.13\.")


def load_torch() -> None:
    """`import torch`, some of its modules left for later; nothing where torch is loaded already.

    The rules for shapes are loaded when a program is exported or compiled. Tensors of the device "meta" that somebody
    makes without that lack those rules that are written in Python, which is an error of torch's.
    """
    if "torch" in sys.modules or not _checked():
        return
    sys.meta_path.insert(0, _Finder())
    with _known_modules():
        import torch  # noqa: F401
    _generators()


def _checked() -> bool:
    """Whether the torch that will be loaded is of a version that is known to do with less."""
    spec = importlib.machinery.PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        return _CHECKED.search(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")) is not None
    except OSError:
        return False


def _generators() -> None:
    """What is left out does more than register in torch/_prims/rng_prims.py alone: it gives generators their type."""
    import torch
    from torch._opaque_base import OpaqueBaseMeta

    torch._C._set_generator_metaclass(OpaqueBaseMeta)


class _Finder(MetaPathFinder):
    """Finds some modules as ones that are loaded later, and has the shapes loaded before programs are traced."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name in _TRACERS and isinstance(shapes := sys.modules.get(_SHAPES), _Later):
            shapes.load()
        if name != _SHAPES and name not in _UNUSED:
            return None
        return found_with(_LaterLoader, name, path, target)


class _LaterLoader(Loader):
    """Makes a module that its own loader fills on first use."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class _Later(ModuleType):
    """A module without its names, until one of them is asked for."""

    def load(self) -> None:
        loader: Any = self.__spec__ and self.__spec__.loader
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader.own.exec_module(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # asked of every module by those who walk over all
            raise AttributeError(name)
        self.load()
        return getattr(self, name)


@contextmanager
def _known_modules() -> Iterator[None]:
    """The module of a frame is looked up by its name: `inspect` compares the files of all modules that there are."""
    slow = inspect.getmodule

    def getmodule(object: Any, _filename: str | None = None) -> ModuleType | None:
        named = sys.modules.get(object.f_globals.get("__name__", "")) if inspect.isframe(object) else None
        return slow(object, _filename) if named is None else named

    inspect.getmodule = getmodule
    try:
        yield
    finally:
        inspect.getmodule = slow
