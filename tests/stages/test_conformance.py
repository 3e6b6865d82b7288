"""Every registered stage keeps the laws of verifier.testing; its names; what is broken is noticed."""

from __future__ import annotations

import pytest

from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import REGISTRY, StageReport, stage
from verifier.stages.interval import IntervalStage
from verifier.testing import check_stage


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_conformance(name: str) -> None:
    check_stage(REGISTRY[name])


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(REGISTRY) >= 20 and not REGISTRY.failures


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_stage_is_known_by_its_name_and_by_others(name: str) -> None:
    made = stage(name)
    assert made.name == name and made.aliases == REGISTRY.aliases(name)
    for alias in made.aliases:
        assert stage(alias).name == name and type(stage(alias)) is type(made)
        assert alias in REGISTRY and alias not in list(REGISTRY) and REGISTRY.canonical(alias) == name


def test_the_field_s_names() -> None:
    """Those of the glossary."""
    known = {
        "ibp": "interval", "fast-lin": "dual", "wong-kolter": "dual", "crown": "dual-adaptive",
        "deeppoly": "dual-adaptive", "alpha-crown": "dual-optimised", "beta-crown": "branch", "bab": "branch",
        "input-bab": "branch-input", "deepz": "zonotope", "triangle-lp": "lp", "complete-milp": "milp",
    }  # fmt: skip
    assert {alias: REGISTRY.canonical(alias) for alias in known} == known


def test_an_unknown_name_lists_those_that_there_are_and_the_closest() -> None:
    with pytest.raises(ValueError, match=r"no stage is called 'alpha-crwn'; there are: attack, .*zonotope-learned; did "
                       r"you mean 'alpha-crown'\?"):  # fmt: skip
        stage("alpha-crwn")


class _TooHigh(IntervalStage):
    """Interval bounds with something added: unsound."""

    name = "too-high"

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        report = super().run(query, bounds, budget)
        assert report.lower is not None
        return StageReport(report.lower + 100, report.bounds, trust=report.trust, evidence=report.evidence)


def test_an_unsound_stage_is_noticed_and_the_law_is_named() -> None:
    with pytest.raises(AssertionError) as broken:
        check_stage(_TooHigh)
    assert any("breaks a law" in note and "too-high" in note for note in broken.value.__notes__)
