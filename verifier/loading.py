"""Models, weights and test sets from files, as the command line takes them; every failure is one clear line."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import shlex
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.export import ExportedProgram

from verifier.checker.memory import machine
from verifier.errors import InputError, ModelError
from verifier.files import check_file
from verifier.graph.tracing import tracing
from verifier.layout import arranged, scrambled
from verifier.normalisation import restored
from verifier.user_code import user_code

if TYPE_CHECKING:
    from verifier.graph.onnx_model import OnnxModel

#: the factories of this program
_ARCHITECTURES = "training.architectures"


def load_model(
    source: str, weights: str | os.PathLike[str] | None = None, output: str | None = None
) -> nn.Module | ExportedProgram | OnnxModel:
    """A model, in eval mode where that is not fixed in it.

    A `.pt2` file and a factory can run any code: `check_safe` refuses them.

    Args:
        source: path of a `.pt2` file (torch.export.save), of an `.onnx` or `.onnx.gz` file, or
            `package.module:factory`, where factory takes no arguments and returns a module, or literal ones that are
            written behind it, such as `package.module:factory(4, bias=False)`; the current directory is importable.
        weights: safetensors file whose keys are exactly those of the factory's module; of that behind a normalisation
            where the file names one (verifier.normalisation).
        output: which of an ONNX file's outputs: its name, or its place 0, 1, ...; None: it has one.

    Raises:
        InputError: no such output, a file or name that is not there, or not what it should be.
        ModelError: the weights do not fit, an ONNX model cannot be verified (`OnnxModel.load`), or the factory's own
            code raised something (`verifier.user_code`).
    """
    if source.endswith((".onnx", ".onnx.gz")):
        if weights is not None:
            raise InputError("an ONNX file holds its own weights: drop --weights, or give the model as module:factory")
        from verifier.graph.onnx_model import OnnxModel

        return OnnxModel.load(source, output)
    if source.endswith(".pt2"):
        if weights is not None:
            raise InputError("a .pt2 file holds its own weights: drop --weights, or give the model as module:factory")
        return _exported(Path(source))
    if ":" not in source:
        raise InputError(f"model {source!r} is neither a .pt2 or .onnx file nor package.module:factory")
    model = _from_factory(source)
    if weights is not None:
        model = load_weights(model, Path(weights))
    return model.eval()


def check_safe(source: str) -> None:
    """Refuses models that can run code of their own when they are loaded.

    A .pt2 file holds pickled objects and formulas that torch evaluates: who wrote it decides what runs here, and torch
    has no way to read it without. A factory is code by itself, but for the architectures that come with this program.
    What is left are ONNX files, and those architectures with the weights of a safetensors file.

    Args:
        source: as of `load_model`.

    Raises:
        InputError: it is another kind of model.
    """
    if source.endswith((".onnx", ".onnx.gz")):
        return
    module, _, call = source.partition(":")
    if not source.endswith(".pt2") and module == _ARCHITECTURES and _is_ours(_call(source, call)[0]):
        return
    raise InputError(
        f"--safe refuses {source!r}: to load it may run code of whoever made it. Give an .onnx file, or "
        f"{_ARCHITECTURES}:NAME with the weights of a safetensors file; without --safe give what you trust"
    )


def _is_ours(name: str) -> bool:
    """Whether that factory is one of this program's architectures, and not of another package of that name."""
    package = _ARCHITECTURES.partition(".")[0]
    found = importlib.util.find_spec(package)  # nothing of it is run yet
    own = Path(__file__).resolve().parents[1] / package / "__init__.py"
    if found is None or found.origin is None or Path(found.origin).resolve() != own:
        return False
    return name in importlib.import_module(_ARCHITECTURES).ARCHITECTURES


def _exported(path: Path) -> ExportedProgram:
    check_file(path, "model file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a .pt2 file (or a damaged one): write it with torch.export.save")
    kind = _other_archive(path)
    if kind is not None:
        raise InputError(f"{path} is {kind}, not an exported program: write it with torch.export.save")
    try:
        with tracing():
            return torch.export.load(path)
    except Exception as error:  # torch documents no exceptions here, and raises many kinds
        raise InputError(f"{path} cannot be loaded by torch {torch.__version__}: {_one_line(error)}") from error


def _other_archive(path: Path) -> str | None:
    """What a zip file of torch's holds where that is no exported program; None where it is no such file."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "TorchScript (torch.jit.save)"
    return "a checkpoint (torch.save)" if "data.pkl" in names else None


def _from_factory(source: str) -> nn.Module:
    module_name, _, call = source.partition(":")
    factory_name, arguments, options = _call(source, call)
    if not factory_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(f"model {source!r} is not of the form package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with user_code(f"the module {module_name}, while it was imported,", f'python -c "import {module_name}"'):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports something that is not
            raise InputError(
                f"there is no module {module_name!r}: run from its directory, or set PYTHONPATH"
            ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"module {module_name} ({module.__file__}) has no callable {factory_name!r}")
    called = call if call.endswith(")") else f"{call}()"
    alone = shlex.join(["python", "-c", f"import {module_name}; {module_name}.{called}"])
    with user_code(f"the factory {source}", alone):
        model = factory(*arguments, **options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{source} must return a torch.nn.Module, and returned a {type(model).__name__}")
    return model


def _call(source: str, call: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name and the literal arguments of `factory` or `factory(4, bias=False)`."""
    if not call.endswith(")"):
        return call, [], {}
    try:
        tree = ast.parse(call, mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            options = {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords if word.arg is not None}
            if len(options) == len(tree.keywords):
                return tree.func.id, [ast.literal_eval(value) for value in tree.args], options
    except (SyntaxError, ValueError):
        pass
    raise InputError(
        f"model {source!r} is not of the form package.module:factory or package.module:factory(arguments), "
        "with numbers, texts and tuples as arguments"
    )


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Put the weights of a safetensors file into a module, whose keys they must be.

    Returns:
        The module, behind a normalisation where the file names one.

    Raises:
        InputError, ModelError.
    """
    check_file(path, "weights file")
    try:
        state = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            model = restored(model, file.metadata(), state)
    except (SafetensorError, OSError) as error:
        hint = "; write the weights with safetensors.torch.save_file(model.state_dict(), path)"
        kind = _other_archive(path)
        cause = _one_line(error) if kind is None else f"it is {kind}"
        raise InputError(f"{path} is not a readable safetensors file: {cause}{hint}") from error
    expected = model.state_dict()
    problems = [
        f"{kind}: {', '.join(sorted(keys))}"
        for kind, keys in (("missing", expected.keys() - state.keys()), ("unexpected", state.keys() - expected.keys()))
        if keys
    ] or [
        f"{key} has shape {list(state[key].shape)}, the model wants {list(value.shape)}"
        for key, value in expected.items()
        if state[key].shape != value.shape
    ]
    if problems:
        raise ModelError(f"the weights in {path} do not fit the model: {'; '.join(problems)}")
    model.load_state_dict(state)
    return model


def load_arrays(path: str | os.PathLike[str], images_key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """The images [N, ...] and labels [N] of an npz file, as they are in it. Raises InputError."""
    where = Path(path)
    check_file(where, "data file")
    try:
        with where.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{where} is not an npz archive, or a damaged one: "
                    "write it with numpy.savez(path, images=..., labels=...)"
                )
        with np.load(where, allow_pickle=False) as archive:
            for key in (images_key, labels_key):
                if key not in archive:
                    raise InputError(
                        f"{where} has no array {key!r}; it has: {', '.join(archive.files) or 'none'}. "
                        "Name them with --images-key and --labels-key"
                    )
            _check_size(where, archive.zip, {images_key, labels_key})
            return archive[images_key], archive[labels_key]
    except InputError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{where} is not a readable npz file: {_one_line(error)}") from error


def _check_size(path: Path, archive: zipfile.ZipFile, keys: set[str]) -> None:
    """Refuses arrays that fill the memory when unpacked. No more of one is read than the archive says it has."""
    size = sum(info.file_size for info in archive.infolist() if info.filename.removesuffix(".npy") in keys)
    most = machine()
    if size > most:
        raise InputError(
            f"{path} unpacks to {size / 1e9:.1f} GB, and this machine has {most / 1e9:.1f} GB: store a part of it"
        )


def prepare_images(
    images: np.ndarray, scale: float | None, shape: tuple[int, ...] | None, layout: str | None = None
) -> tuple[Tensor, str | None]:
    """Images [N, *input] as a network takes them, and a note where they were scaled unasked.

    Args:
        images: [N, ...], of any numbers.
        scale: what to divide them by; None: 255 for uint8, and nothing for the rest.
        shape: reshape each image to it.
        layout: of the images, in that shape; they are turned to the network's (`verifier.layout.arranged`).

    Raises:
        InputError: images that are not numbers, a scale of zero, a shape of another size, or one that moves channels.
    """
    if images.dtype.kind not in "uif" or images.dtype.itemsize > 8:
        raise InputError(f"images must be numbers of at most 64 bits, got {images.dtype}")
    if images.ndim < 2:
        raise InputError(f"images must be [N, ...], with the examples along the first axis; got {list(images.shape)}")
    note = None
    if scale is None and images.dtype == np.uint8:
        scale, note = 255.0, "images are uint8: divided by 255 (--scale sets another divisor; eps is in these units)"
    if scale is not None and (not np.isfinite(scale) or scale <= 0):
        raise InputError(f"--scale must be a number > 0, got {scale}")
    if shape is not None:
        _check_shape(images, shape)
    return _in_parts(images, scale, shape, layout), note


#: images that are turned into floating point at once: a large set is never there twice
_AT_ONCE = 2048


def _in_parts(images: np.ndarray, scale: float | None, shape: tuple[int, ...] | None, layout: str | None) -> Tensor:
    """Images [N, ...] as floating point [N, *input]: divided, reshaped, turned."""
    dtype = np.float64 if images.dtype == np.float64 else np.float32

    def taken(part: np.ndarray) -> Tensor:  # [n, ...] -> [n, *input]
        x = torch.from_numpy(part.astype(dtype))
        x = x if scale is None else x / scale
        return arranged(x if shape is None else x.reshape(len(x), *shape), layout)

    if len(images) <= _AT_ONCE:
        return taken(images)
    whole = taken(images[:1]).new_empty((len(images), *taken(images[:1]).shape[1:]))
    for first in range(0, len(images), _AT_ONCE):
        whole[first : first + _AT_ONCE] = taken(images[first : first + _AT_ONCE])
    return whole


def _check_shape(images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises InputError where images [N, ...] cannot be reshaped, or would be scrambled by it."""
    if int(np.prod(shape)) != int(np.prod(images.shape[1:])) or any(size < 1 for size in shape):
        raise InputError(f"images of shape {list(images.shape[1:])} cannot be reshaped to {list(shape)}")
    moved = scrambled(images.shape[1:], shape)
    if moved:
        raise InputError(
            f"--shape {','.join(map(str, shape))} would scramble images {list(images.shape[1:])}: it keeps the numbers "
            f"in their order, and moves no axis. --layout {moved} turns the axes; leave --shape out"
        )


def range_note(images: np.ndarray, scale: float | None, clipped: bool) -> str | None:
    """A note where the range of the images suggests another scale than they got; None where it does not.

    Args:
        images: as given to `prepare_images`, with the same `scale`.
        clipped: a valid range of inputs was given, so that images in other units become errors anyway.
    """
    if scale is not None or images.size == 0:
        return None
    low, high = np.fmin.reduce(images, axis=None), np.fmax.reduce(images, axis=None)  # these pass over NaN
    if images.dtype == np.uint8:
        few = f"note: images range from {low} to {high} only, and were divided by 255: does --scale {high or 1} fit?"
        return few if high <= 16 else None
    if clipped or not high > 10:
        return None
    return (
        f"note: images range from {low:g} to {high:g} and were not scaled (--scale divides them; eps is in these units)"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
