"""Every registered stage keeps the laws of verifier.testing; its names; what is broken is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.plan import TrainingPlan
from verifier import NetworkCascade, certify, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import REGISTRY, StageReport, stage
from verifier.stages.interval import IntervalStage
from verifier.testing import check_batches, check_stage
from verifier.testing.networks import random_network


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_conformance(name: str) -> None:
    check_stage(REGISTRY[name])


@pytest.mark.parametrize("name", ["dual-adaptive", "dual-optimised"])
def test_batches_of_several_sizes(name: str) -> None:
    check_batches(REGISTRY[name], (1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_batches_of_several_sizes_of_every_stage(name: str) -> None:
    check_batches(REGISTRY[name])


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


def test_records_have_the_name_proper(tmp_path: Path) -> None:
    """Results, certificates, stores, cascades of networks and runs of training, whatever a stage was asked for by."""
    net = random_network("dense")
    names, aliases = ["interval", "dual", "dual-adaptive"], ["ibp", "wong-kolter", "crown"]
    results = [verify(net.model, net.x, net.eps / 5, stages=s) for s in (names, aliases)]
    assert [[c.name for c in r.stages] for r in results] == [[c.name for c in results[0].stages]] * 2
    assert {c.stage for c in results[1].certificate if c is not None} <= set(names)
    label = net.model(net.x).argmax(1)
    for asked in (names, aliases):  # the second is the same run, resumed
        settings = {"stages": asked, "store": tmp_path / "run.sqlite", "resume": asked is aliases, "progress": False}
        report = certify(net.model, net.x, label, net.eps / 5, **settings)  # type: ignore[arg-type]
    described = [text.partition("(")[0] for text in report.meta["settings"]["stages"]]
    assert described == names
    assert NetworkCascade((net.model,), eps=0.1, stages=("ibp", "crown")).stages == ("interval", "dual-adaptive")
    plans = [TrainingPlan(epochs=1, stages=stages).identity() for stages in (("interval",), ("ibp",))]
    assert plans[0] == plans[1]
