from verifier.api import *  # noqa: F403
from verifier.api import Verifier, verify  # noqa: F401
