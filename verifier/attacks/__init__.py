"""Attacks: searches for points of an input set at which a network's answer is wrong.

Every attack works on any input set, through its projection, steepest ascent and sampling alone, and on any
differentiable network: an `AttackProblem`. `make` gives attacks by name; `verifier.attack` is for users, and
replays in the model what they find.
"""

from verifier.attacks.base import REGISTRY, Attack, make, register
from verifier.attacks.carlini_wagner import CarliniWagner
from verifier.attacks.ddn import DDN
from verifier.attacks.fgsm import FGSM
from verifier.attacks.hinges import HingeAttack
from verifier.attacks.leaky import LeakyPGD
from verifier.attacks.losses import LOSSES, AttackLoss, CrossEntropy, LogitRatio, MarginLoss
from verifier.attacks.msd import MSD, OneAfterAnother, WorstMember
from verifier.attacks.nearest import NearestAttack
from verifier.attacks.pgd import PGD
from verifier.attacks.points import AttackPoints
from verifier.attacks.pointwise import Pointwise
from verifier.attacks.problem import AttackProblem
from verifier.attacks.starts import STARTS, Center, Diversified, Random, StartRule

__all__ = [
    "DDN",
    "FGSM",
    "HingeAttack",
    "LOSSES",
    "MSD",
    "PGD",
    "REGISTRY",
    "STARTS",
    "Attack",
    "CarliniWagner",
    "Center",
    "CrossEntropy",
    "Diversified",
    "AttackPoints",
    "LeakyPGD",
    "LogitRatio",
    "AttackLoss",
    "MarginLoss",
    "NearestAttack",
    "OneAfterAnother",
    "AttackProblem",
    "Pointwise",
    "Random",
    "StartRule",
    "WorstMember",
    "make",
    "register",
]
