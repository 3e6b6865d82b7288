"""Imports every file of builders, so that `NETWORKS` is full."""

from __future__ import annotations

from importlib import import_module

KINDS = ("activations", "gates", "moves", "norms", "recurrent", "residual", "transformers")

for kind in KINDS:
    import_module(f"networks.{kind}")
