"""One file per stage; the register of stages imports them on first use."""

from verifier.stages.base import REGISTRY, Budget, Stage, StageReport, register, stage

__all__ = ["REGISTRY", "Budget", "Stage", "StageReport", "register", "stage"]
