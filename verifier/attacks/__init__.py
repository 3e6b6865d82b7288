"""Attacks: searches for points of an input set at which a network's answer is wrong.

Every attack works on any input set, through its projection, steepest ascent and sampling alone, and on any
differentiable network: a `Problem`. `attack` is the one for users; `make` gives attacks by name to trainers.
"""

from verifier.attacks.base import REGISTRY, Attack, Found, make, register
from verifier.attacks.fgsm import FGSM
from verifier.attacks.losses import LOSSES, CrossEntropy, LogitRatio, Loss, Margin
from verifier.attacks.msd import MSD, OneAfterAnother, WorstMember
from verifier.attacks.pgd import PGD
from verifier.attacks.problem import Problem
from verifier.attacks.run import AttackResult, attack
from verifier.attacks.starts import STARTS, Center, Diversified, Random, Start

__all__ = [
    "FGSM",
    "LOSSES",
    "MSD",
    "PGD",
    "REGISTRY",
    "STARTS",
    "Attack",
    "AttackResult",
    "Center",
    "CrossEntropy",
    "Diversified",
    "Found",
    "LogitRatio",
    "Loss",
    "Margin",
    "OneAfterAnother",
    "Problem",
    "Random",
    "Start",
    "WorstMember",
    "attack",
    "make",
    "register",
]
