"""Random projections: how wide a node's values are, from a few random vectors in place of all error terms.

Wong et al. (2018), section 3.2 and appendices D, E and H; Li et al. (2007) for the estimators.
"""

from verifier.projection.estimators import cauchy_factor, cauchy_scale, normal_factor, normal_scale
from verifier.projection.forward import Draws, estimated_margins

__all__ = [
    "Draws",
    "cauchy_factor",
    "cauchy_scale",
    "estimated_margins",
    "normal_factor",
    "normal_scale",
]
