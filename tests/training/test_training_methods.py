"""Every registered training method keeps the laws of training.testing, and names its source."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest

from training.method import METHODS
from training.methods.standard import Standard
from training.settings import parsed, table
from training.testing import check_method


@pytest.mark.parametrize("name", sorted(METHODS))
def test_conformance(name: str) -> None:
    check_method(METHODS[name])


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(METHODS) >= 8 and not METHODS.failures


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_source_is_named(name: str) -> None:
    texts = f"{METHODS[name].__doc__} {sys.modules[METHODS[name].__module__].__doc__}"
    assert name == "standard" or re.search(r"\d{4}\)|thesis", texts), "no paper, no section"


@dataclass(frozen=True, kw_only=True)
class _Unexplained(Standard):
    """Has a setting that it says nothing of."""

    name: ClassVar[str] = "unexplained"

    strength: float = 1.0


def test_a_broken_method_is_noticed_and_the_law_is_named() -> None:
    with pytest.raises(AssertionError, match="says nothing of strength") as broken:
        check_method(_Unexplained)
    assert any("breaks a law" in note for note in broken.value.__notes__)


def test_unknown_methods_and_values() -> None:
    with pytest.raises(ValueError, match=r"no training method is called 'magic'; there are: .*standard"):
        METHODS.named_part("magic")
    kind = METHODS["standard"]
    for text, said in (
        ("batch=3", "option of its own: --batch"),
        ("rate", "name=value"),
        ("rate=often", "no schedule is called 'often'; there are: constant, cosine"),
        ("rate=cosine:x=1", "cosine has no option 'x'; it has: none"),
        ("optimiser=adam:rate=fast", "'fast' is not a number"),
        ("optimiser=adam:rate", "not option=value"),
        ("optimiser=lion", "no optimiser is called 'lion'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            parsed(kind, [text])
    with pytest.raises(ValueError, match="given twice"):
        parsed(kind, ["rate=cosine", "rate=constant"])
    assert "optimiser = adam:rate=0.001" in table(kind)
    made = parsed(kind, ["optimiser=sgd:rate=0.1,momentum=0.9", "rate=decayed:times=3"])
    assert made["optimiser"].momentum == 0.9 and made["rate"].times == 3 and made["rate"].factor == 0.5
