"""Reports of runs compared."""

from __future__ import annotations

import numpy as np

from verifier.certification import Report

_SAME = ("index", "label", "prediction", "outcome", "stage", "trust", "reason", "float32_agrees", "error")


def assert_equal(found: Report, expected: Report) -> None:
    """Equal but for times."""
    for a, b in zip(found.rows(), expected.rows(), strict=True):
        for name in _SAME:
            assert getattr(a, name) == getattr(b, name), (a.index, name)
        np.testing.assert_allclose(list(a.margins or ()), list(b.margins or ()), atol=1e-5)
        assert (found.counterexample(a.index) is None) == (expected.counterexample(b.index) is None)
    counts = [
        {name: (stage["decided"], stage["attempted"]) for name, stage in report.summary()["stages"].items()}
        for report in (found, expected)
    ]
    assert counts[0] == counts[1]
