"""What goes to other processes and comes back, as bytes: who works on units, units, and what is found of them.

Light: torch is loaded where what is packed is torch's.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

import cloudpickle

from verifier.errors import InputError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class _Pickler(cloudpickle.CloudPickler):
    def reducer_override(self, obj: Any) -> Any:
        """An exported program is only whole in torch's own format."""
        export = sys.modules.get("torch.export")
        if export is not None and isinstance(obj, export.ExportedProgram):
            file = io.BytesIO()
            export.save(obj, file)
            return _exported, (file.getvalue(),)
        return super().reducer_override(obj)


def _exported(content: bytes) -> ExportedProgram:
    import torch

    return torch.export.load(io.BytesIO(content))


def packed(thing: object) -> bytes:
    """As bytes. Classes and functions that are defined in a script or a notebook go with it.

    Raises:
        InputError: something in it does not travel, such as an open file in a model.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)
    except Exception as error:  # of whatever a model is made of
        raise InputError(
            f"the model, or a stage, cannot be sent to other processes: {type(error).__name__}: {error}; "
            "leave out jobs and executor (--jobs, --ray), or give the model as an ONNX file"
        ) from error
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """What was packed. Raises InputError where what it is made of cannot be imported here."""
    try:
        return pickle.loads(content)
    except ImportError as error:
        raise InputError(
            f"a worker cannot import what the model is made of: {error}; it must be importable on every machine"
        ) from error
