"""Attacks: searches for points of an input set at which a network's answer is wrong.

Every attack works on any input set, through its projection, steepest ascent and sampling alone, and on any
differentiable network: a `AttackProblem`. `attack` is the one for users; `make` gives attacks by name to trainers.
"""

from verifier.attacks.base import REGISTRY, Attack, AttackPoints, make, register
from verifier.attacks.fgsm import FGSM
from verifier.attacks.losses import LOSSES, AttackLoss, CrossEntropy, LogitRatio, MarginLoss
from verifier.attacks.msd import MSD, OneAfterAnother, WorstMember
from verifier.attacks.pgd import PGD
from verifier.attacks.problem import AttackProblem
from verifier.attacks.run import AttackResult, attack
from verifier.attacks.starts import STARTS, Center, Diversified, Random, StartRule

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
    "AttackPoints",
    "LogitRatio",
    "AttackLoss",
    "MarginLoss",
    "OneAfterAnother",
    "AttackProblem",
    "Random",
    "StartRule",
    "WorstMember",
    "attack",
    "make",
    "register",
]
