"""Conformance of methods that are compared: the laws of the cross-check, on small networks."""

from __future__ import annotations

import torch

from verifier.comparison import METHODS, ComparisonMethod, Role, crosscheck
from verifier.testing.laws import Law, hold
from verifier.testing.networks import random_network

#: kinds of networks: with pieces, smooth
KINDS = ("dense", "sigmoid")


def check_comparison_method(method: ComparisonMethod) -> None:
    """The method beside registered ones keeps the laws that its roles say (verifier.comparison.laws).

    Raises:
        AssertionError, CrossCheckError: one is broken; its notes say which.
    """
    assert method.name and method.roles, "a method has a name, and roles in the laws"
    hold(f"the method {method.name!r}", LAWS, method)


def keeps_the_laws_of_its_roles(method: ComparisonMethod) -> None:
    """Its values are where its roles say among those of a method of each role, and a number for each row."""
    others = {other.name: other for other in map(_first, Role) if other.name != method.name}.values()
    for kind in KINDS:
        net = random_network(kind, batch=1)
        report = crosscheck(net.model, net.x, net.eps, exact_seconds=5, workers=0, methods=[*others, method])
        report.check()
        values = report.values[method.name]
        assert values.dtype is torch.float64 and (method.partial or not values.isnan().any())


def _first(role: Role) -> ComparisonMethod:
    """The first registered method that plays it."""
    return next(method for method in METHODS.values() if role in method.roles)


LAWS: tuple[Law, ...] = (keeps_the_laws_of_its_roles,)
