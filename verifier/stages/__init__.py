"""One file per stage; the register of stages imports them on first use."""

from verifier.budget import Budget
from verifier.stages.base import REGISTRY, Stage, StageReport, canonical, register, stage

__all__ = ["REGISTRY", "Budget", "Stage", "StageReport", "canonical", "register", "stage"]
