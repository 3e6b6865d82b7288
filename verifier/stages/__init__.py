"""One file per stage. Importing this package registers them all."""

import importlib
import pkgutil

from verifier.budget import Budget
from verifier.stages.base import REGISTRY, Stage, StageReport, stage

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["REGISTRY", "Budget", "Stage", "StageReport", "stage"]
