"""Conformance of methods that are compared: the laws of the cross-check, on small networks."""

from __future__ import annotations

import torch

from verifier.comparison import METHODS, ComparisonMethod, crosscheck
from verifier.testing.laws import Law, hold
from verifier.testing.networks import random_network

#: kinds of networks: with pieces, smooth, with convolutions
KINDS = ("dense", "sigmoid", "conv")


def check_comparison_method(method: ComparisonMethod) -> None:
    """The method beside all registered ones keeps the laws that its roles say (verifier.comparison.laws).

    Raises:
        AssertionError, CrossCheckError: one is broken; its notes say which.
    """
    assert method.name and method.roles, "a method has a name, and roles in the laws"
    hold(f"the method {method.name!r}", LAWS, method)


def keeps_the_laws_of_its_roles(method: ComparisonMethod) -> None:
    """Its values are where its roles say among those of the other methods, and a number for each row."""
    others = [other for name, other in METHODS.items() if name != method.name]
    for kind in KINDS:
        net = random_network(kind, batch=1)
        report = crosscheck(net.model, net.x, net.eps, exact_seconds=5, workers=0, methods=[*others, method])
        report.check()
        values = report.values[method.name]
        assert values.dtype is torch.float64 and (method.partial or not values.isnan().any())


LAWS: tuple[Law, ...] = (keeps_the_laws_of_its_roles,)
