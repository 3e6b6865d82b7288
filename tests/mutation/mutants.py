"""Mutants of the checker: its source with one comparison, sign, bound or payment changed.

Each has a name that survives changes elsewhere in the file: the file, the function, what was changed, and into what.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = "verifier.checker"
#: everything that is mutated; what search.py finds is believed by nobody, so that no mutant of it can do harm
FILES = (
    "rounding.py", "network.py", "lines.py", "backward.py", "subdomains.py",
    "check.py", "sets.py", "sdp.py", "document.py", "enclosures.py", "functions.py", "pieces.py", "products.py",
    "directed.py", "audit.py", "memory.py", "starting.py", "__main__.py",
)  # fmt: skip

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}  # fmt: skip
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NAMES = {
    "fmin": "fmax", "fmax": "fmin", "minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min",
    "down": "up", "up": "down", "logical_or": "logical_and", "any": "all", "all": "any", "floor": "ceil",
}  # fmt: skip
#: calls that may be left out
_DROPPED = ("down", "up", "abs", "clip", "nan_to_num", "largest", "fmin", "fmax", "minimum", "maximum", "forest")


@dataclass(frozen=True)
class Mutant:
    """One change: the `which`th of what the node at a place of its module may become."""

    file: str
    line: int
    name: str
    place: int
    which: int

    @property
    def module(self) -> str:
        return f"{PACKAGE}.{self.file.removesuffix('.py').replace('/', '.')}"

    def tree(self) -> ast.Module:
        """The module with the change; as it is for a negative place."""
        tree = ast.parse((root() / self.file).read_text())
        if self.place >= 0:
            target = next(islice((n for n, _ in _walk(tree)), self.place, None))
            _replace(tree, target, next(islice(_changes(target), self.which, None)))
        return ast.fix_missing_locations(tree)


def root() -> Path:
    return Path(__file__).resolve().parents[2] / "verifier" / "checker"


def mutants(file: str) -> Iterator[Mutant]:
    """All mutants of one file, in order."""
    tree = ast.parse((root() / file).read_text())
    for place, (node, where) in enumerate(_walk(tree)):
        for which, change in enumerate(_changes(node)):
            name = f"{file} {where}: {_text(node)} -> {_text(change)}"
            yield Mutant(file, getattr(node, "lineno", 0), name, place, which)


def _walk(tree: ast.AST, where: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Nodes that run, with the function that they are in."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from ((n, w) for part in child.body for n, w in _one(part, f"{where}.{child.name}".strip(".")))
            for part in child.args.defaults if isinstance(child, ast.FunctionDef) else []:
                yield from _one(part, f"{where}.{child.name}".strip("."))
        elif isinstance(child, ast.arg | ast.ImportFrom | ast.Import):
            continue
        else:
            yield from _one(child, where)


def _one(node: ast.AST, where: str) -> Iterator[tuple[ast.AST, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield from _walk(ast.Module([node], []), where)  # type: ignore[list-item]
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _one(node.value, where)
        return
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    yield node, where
    if isinstance(node, ast.Call):  # what is called changes with the call, which says more of where it is
        for part in [*ast.iter_child_nodes(node.func), *node.args, *(k.value for k in node.keywords)]:
            yield from _one(part, where)
    else:
        yield from _walk(node, where)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 200 else text[:100] + "..." + text[-90:]


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What one node may become."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in _COMPARE[type(op)]:
                yield ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1 :]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY and not _is_type(node):
        yield ast.BinOp(node.left, _BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
        yield ast.AugAssign(node.target, _BINARY[type(node.op)](), node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for i in range(len(node.values)) if isinstance(node.op, ast.And) else []:
            left = [*node.values[:i], *node.values[i + 1 :]]
            yield left[0] if len(left) == 1 else ast.BoolOp(node.op, left)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.If):
        if any(isinstance(n, ast.Raise) for n in node.body):  # without this check
            yield ast.If(ast.Constant(False), [ast.Pass()], [])
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES and isinstance(node.value, ast.Name):
        if node.value.id == "np":
            yield ast.Attribute(node.value, _NAMES[node.attr], node.ctx)
    elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Name(_NAMES[node.id], node.ctx)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "gamma":
        yield ast.Constant(0.0)
        for i, n in enumerate(_summands(node.args[0])):
            left = [m for j, m in enumerate(_summands(node.args[0])) if j != i]
            if left and not isinstance(n, ast.Constant):  # a count without one of its parts
                count = left[0]
                for m in left[1:]:
                    count = ast.BinOp(count, ast.Add(), m)
                yield ast.Call(node.func, [count, *node.args[1:]], node.keywords)
    elif name == "above":
        yield node.args[0]
    if name in _NAMES and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, _NAMES[name], node.func.ctx), node.args, node.keywords)
    elif name in _NAMES:
        yield ast.Call(ast.Name(_NAMES[name], ast.Load()), node.args, node.keywords)
    if name in _DROPPED and node.args:
        yield from node.args[:2] if name in ("fmin", "fmax", "minimum", "maximum") else node.args[:1]


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _is_type(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr) and any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )


def _replace(tree: ast.AST, target: ast.AST, change: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, change)
                return
            if isinstance(value, list):
                for i, item in enumerate(value):
                    if item is target:
                        value[i] = change
                        return
    raise AssertionError("a node without a parent")


class _Loader(importlib.abc.Loader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        self.mutant, self.path = mutant, path

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """As runpy asks of who loads a module that is run as a command."""
        return compile(self.mutant.tree(), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.mutant.module:
            return None
        place = str(root() / self.mutant.file)
        return importlib.util.spec_from_loader(name, _Loader(self.mutant, place), origin=place)


@contextmanager
def in_place(mutant: Mutant, also: Sequence[str] = ()) -> Iterator[None]:
    """With the mutant in place of its module, for what is imported from here on.

    Args:
        also: modules to be imported anew, beside those of certificates.
    """
    before, finder = dict(sys.modules), _Finder(mutant)
    for name in list(sys.modules):
        if name == PACKAGE or name.startswith(f"{PACKAGE}.") or name in also:
            del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - set(before):
            if name.startswith("verifier.") or name in also:
                del sys.modules[name]
        sys.modules.update(before)
        for name, module in before.items():  # a package also knows its parts by name
            parent, _, last = name.rpartition(".")
            if name.startswith(PACKAGE) and parent in before:
                setattr(before[parent], last, module)
