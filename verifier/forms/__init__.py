"""Linear forms: batches of linear functionals of one node, in the structure that costs least."""

from verifier.forms.base import Dense, LinearForm
from verifier.forms.convolved import ConvolvedPatches
from verifier.forms.patches import Patches, PatchGrid, stacked
from verifier.forms.runs import Runs
from verifier.forms.unit import Diagonal, Identity, Selected
from verifier.forms.windows import Windows

__all__ = [
    "ConvolvedPatches",
    "Dense",
    "Diagonal",
    "Identity",
    "LinearForm",
    "PatchGrid",
    "Patches",
    "Runs",
    "Selected",
    "Windows",
    "stacked",
]
