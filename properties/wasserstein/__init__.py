"""The Wasserstein ball: images made by moving the mass of the clean image a little (Wong 2020, section 5.1)."""

from properties.wasserstein.ball import WassersteinBall
from properties.wasserstein.transport import optimal_transport

__all__ = ["WassersteinBall", "optimal_transport"]
