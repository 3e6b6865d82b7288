"""Certificates checked in rational arithmetic: no rounding at all, for small networks of piecewise linear activations.

The same documents as the checker's, by the same argument: any slopes give lines, and lines give bounds. Slopes are
floating-point numbers here too, chosen by the same rules; all else is exact. So a bound is what the certificate's
slopes are worth, and never less than the checker's own but for the last bits of slopes that a rule gives. It is an
oracle for the checker, and for whoever mistrusts bounds on rounding errors.

Needs python-flint: pip install 'rampart-verifier[exact]'.
"""

from __future__ import annotations

from verifier.checker.exact.check import check_exactly

__all__ = ["check_exactly"]
