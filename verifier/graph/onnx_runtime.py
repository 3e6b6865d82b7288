"""onnxruntime on the CPU, one thread, silent."""

from __future__ import annotations

from typing import Any

from verifier.errors import ModelError


def session(model: bytes, trouble: str, as_written: bool = False) -> Any:
    """An `onnxruntime.InferenceSession`. Raises ModelError, which begins with `trouble`, where the model is refused.

    Args:
        as_written: without the optimisations that compute something else, such as products of whole numbers in place of
            those with weights of one byte that the model turns into floats first.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guessed from the bytes
    onnxruntime.set_default_logger_severity(4)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime documents no exceptions of its own
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{trouble}: onnxruntime {onnxruntime.__version__} says: {text}") from error
