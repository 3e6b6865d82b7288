"""What is asked of a network: input sets (threat models) and output specifications.

This package knows nothing of networks: it is imported by the verifier, never the other way round.
"""

from typing import TYPE_CHECKING, Any

from properties.box import Box, LinfBall
from properties.image import BiasField, Brightness, BrightnessContrast, Contrast, LinearImages
from properties.input_set import REGISTRY, Functional, InputSet, register
from properties.l1 import L1Ball
from properties.l2 import L2Ball
from properties.named import Question
from properties.perturbation import Perturbation
from properties.polytope import Polytope
from properties.product import Product
from properties.questions import linear, near, one_of, output_range, same_classes, same_side, targeted, top_k
from properties.record import SetRecord
from properties.specification import Specification, robustness
from properties.threat import Threat
from properties.union import Union
from properties.wasserstein import WassersteinBall, optimal_transport
from properties.zonotope import Zonotope

__all__ = [
    "BiasField",
    "Box",
    "Brightness",
    "BrightnessContrast",
    "Contrast",
    "Functional",
    "InputSet",
    "L1Ball",
    "L2Ball",
    "LinearImages",
    "LinfBall",
    "Perturbation",
    "Polytope",
    "Product",
    "Question",
    "SetRecord",
    "Specification",
    "Threat",
    "Union",
    "WassersteinBall",
    "Zonotope",
    "linear",
    "near",
    "one_of",
    "optimal_transport",
    "output_range",
    "register",
    "robustness",
    "same_classes",
    "same_side",
    "targeted",
    "top_k",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Sets of files that are not listed above, once somebody asks for one of them."""
        if not name[:1].isupper() or name not in REGISTRY:
            raise AttributeError(f"module 'properties' has no attribute {name!r}")
        return REGISTRY[name]
