"""Conformance: what every part of a kind must keep to, for parts of this project and of others alike.

Each check takes a part as it is registered (a class, or a function that makes the part), runs the laws of its kind on
the part's own examples, and raises AssertionError at the first that is broken, with a note that says which law of which
example. They need no test framework; in a test of one's own:

    from verifier.testing import check_operator

    def test_softplus():
        check_operator(Softplus)

`check_operator`, `check_input_set`, `check_stage`, `check_batches`, `check_limits` and `check_cut_short` (of stages,
too), `check_backend`, `check_attack` and `check_comparison_method` are here; `check_method`, of training methods, is in
`training.testing`, because the verifier knows nothing of trainers.
"""

from verifier.testing.attacks import check_attack
from verifier.testing.backends import check_backend
from verifier.testing.comparison import check_comparison_method
from verifier.testing.cut_short import check_cut_short
from verifier.testing.input_sets import check_input_set
from verifier.testing.limits import check_limits
from verifier.testing.operators import check_operator
from verifier.testing.stages import check_batches, check_stage

__all__ = [
    "check_attack",
    "check_backend",
    "check_comparison_method",
    "check_cut_short",
    "check_input_set",
    "check_limits",
    "check_operator",
    "check_batches",
    "check_stage",
]
