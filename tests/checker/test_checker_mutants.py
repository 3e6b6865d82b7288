"""The most dangerous changes of the checker, one at a time: a test must fail for each. `make mutate` tries them all."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from mutation.mutants import FILES, in_place, mutants
from mutation.mutate import allowed

#: tests that are imported anew, so that they see the mutant
TESTS = ("test_checker", "test_checker_coarse", "test_corruptions")
RELU = ("leaky", {"slope": 0.0})
TREES, BOXES = (("test_checker", f"test_random_trees_of_{what}_are_sound", *RELU) for what in ("neurons", "boxes"))
#: how a mutant's name begins and ends, and a test that fails, with its arguments
DANGEROUS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("backward.py NodeRanges._affine:", "spread - roundoff",
     ("test_checker_coarse", "test_long_sums_are_paid_for", "forward", "up")),
    ("backward.py NodeRanges.walk: nu @ nodes[k].bias - _dot(np.abs(nu), roundoff)", "+ _dot(np.abs(nu), roundoff)",
     ("test_checker_coarse", "test_long_sums_are_paid_for", "adjoint", "up")),
    ("backward.py NodeRanges.walk: b - roundoff", "b + roundoff",
     ("test_checker_coarse", "test_long_sums_are_paid_for", "clips", "up")),
    ("backward.py least_over: _dot(c, middle", "+ _dot(np.abs(c), radius[:, None])",
     ("test_checker", "test_no_bound_is_above_an_exact_value", *RELU, "real")),
    ("lines.py intercepts: np.minimum", "np.maximum",
     ("test_checker", "test_no_bound_is_above_an_exact_value", *RELU, "real")),
    ("subdomains.py SplitForest.narrowed: -(g * end)", "(g * end).sum(1)",
     ("test_checker", "test_a_tree_of_neurons_proves_what_its_leaves_prove")),
    ("subdomains.py by_neurons: found + constant", "found - constant",
     ("test_corruptions", "test_offsets_and_weights_of_cases_are_those_of_the_claim", "=split_case")),
    ("subdomains.py SplitForest.narrowed: g > 0", "g <= 0", TREES),
    ("subdomains.py by_boxes: np.minimum(", "np.maximum(least[boxes.below[s]], least[boxes.above[s]])", BOXES),
    ("check.py _checked: np.minimum(", "np.maximum(clauses, part.best())",
     ("test_corruptions", "test_certificates_are_valid_before", "union")),
    ("check.py announced: head['claim'] !=", "== claim_digest(head, document.arrays)",
     ("test_corruptions", "test_other_claims", "fixed")),
    ("sets.py _in_box: np.maximum(c, 0) @ high +", "- np.minimum(c, 0) @ low",
     ("test_corruptions", "test_certificates_are_valid_before", "l2")),
]  # fmt: skip


@pytest.mark.parametrize(("begin", "end", "test"), DANGEROUS, ids=[f"{b} -> {e}" for b, e, _ in DANGEROUS])
def test_a_dangerous_change_is_noticed(begin: str, end: str, test: tuple[Any, ...]) -> None:
    file, (module, function, *arguments) = begin.split(" ")[0], test
    assert file in FILES
    mutant = next(m for m in mutants(file) if m.name.startswith(begin) and m.name.endswith(end))
    with in_place(mutant, TESTS), np.errstate(all="ignore"), pytest.raises(AssertionError):
        own = importlib.import_module(module)
        getattr(own, function)(*(getattr(own, a[1:]) if str(a).startswith("=") else a for a in arguments))


def test_what_may_survive_is_still_there() -> None:
    """A reason in allowed.txt whose mutant is gone says nothing, and one whose function is renamed is needed anew."""
    names = {mutant.name for file in FILES for mutant in mutants(file)}
    assert allowed() and set(allowed()) <= names
