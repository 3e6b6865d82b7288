"""A short run of the fuzzer, the same every time; `make fuzz` is the long one."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from fuzz.check import check
from fuzz.recipe import Recipe
from fuzz.strategies import problems

SHORT = settings(
    max_examples=15, deadline=None, database=None, derandomize=True, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@SHORT
@given(problems())
def test_a_short_run(recipe: Recipe) -> None:
    check(recipe, seconds=0.02)
