"""Zonotopes: what a network's nodes can be, as a center and generators with shared error terms, and bounds from them.

DeepZ (Singh et al. 2018) for the relaxation; Balunovic & Vechev (2020), sections 5 and 6 and appendix A.1, for slopes
that are learned.
"""

from verifier.zonotope.band import Band, bands
from verifier.zonotope.latent import Latent, exact_bands
from verifier.zonotope.region import ZonotopeRegion, region
from verifier.zonotope.rows import fixed_rows, learned_rows

__all__ = [
    "Band",
    "Latent",
    "ZonotopeRegion",
    "bands",
    "exact_bands",
    "fixed_rows",
    "learned_rows",
    "region",
]
