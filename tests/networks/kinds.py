"""Imports every file of builders, so that `NETWORKS` is full."""

from __future__ import annotations

from importlib import import_module

KINDS = (
    "activations", "control", "dense", "gates", "mobile", "moves", "norms", "quantised", "recurrent", "residual",
    "transformers", "vectors",
)  # fmt: skip

for kind in KINDS:
    import_module(f"networks.{kind}")
