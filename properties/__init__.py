"""What is asked of a network: input sets (threat models) and output specifications.

This package knows nothing of networks: it is imported by the verifier, never the other way round.
"""

from properties.box import Box, LinfBall
from properties.input_set import Functional, InputSet
from properties.specification import Specification, robustness

__all__ = ["Box", "Functional", "InputSet", "LinfBall", "Specification", "robustness"]
