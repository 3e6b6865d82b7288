"""Cross-check: every method on the same intermediate bounds, held against the laws between them."""

from verifier.comparison.laws import LAWS, Law, Violation
from verifier.comparison.method import METHODS, ComparisonMethod, ComparisonProblem, Role, register
from verifier.comparison.report import CrossCheck, Gap
from verifier.comparison.run import crosscheck

__all__ = [
    "LAWS",
    "METHODS",
    "CrossCheck",
    "Gap",
    "Law",
    "ComparisonMethod",
    "ComparisonProblem",
    "Role",
    "Violation",
    "crosscheck",
    "register",
]
