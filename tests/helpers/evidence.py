"""What a stage's evidence holds, or a failed test where it is of another kind."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verifier.branching.evidence import BoxEvidence, SubdomainEvidence
from verifier.branching.inputs_tree import BoxTree
from verifier.branching.tree import SplitTree
from verifier.evidence import Evidence
from verifier.relaxation.evidence import MultiplierEvidence


def multipliers_of(evidence: Evidence) -> Mapping[int, Tensor]:
    assert isinstance(evidence, MultiplierEvidence)
    return evidence.multipliers


def tree_of(evidence: Evidence, example: int = 0) -> SplitTree:
    assert isinstance(evidence, SubdomainEvidence)
    tree = evidence.trees[example]
    assert tree is not None
    return tree


def boxes_of(evidence: Evidence, example: int = 0) -> BoxTree:
    assert isinstance(evidence, BoxEvidence)
    tree = evidence.trees[example]
    assert tree is not None
    return tree
