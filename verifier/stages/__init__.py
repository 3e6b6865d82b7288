"""One file per stage; the register of stages imports them on first use."""

from verifier.stages.base import REGISTRY, Stage, StageReport, canonical, register, stage

__all__ = ["REGISTRY", "Stage", "StageReport", "canonical", "register", "stage"]
