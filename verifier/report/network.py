"""The network of a run, where it is given: it answers at counterexamples anew, and says whose certificates are its."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from verifier.api import Verifier
from verifier.certification.certify import input_precision
from verifier.errors import InputError
from verifier.graph.canonical import canonical
from verifier.graph.runner import ImportedModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class GivenNetwork:
    """A model, imported as `certify` imports it.

    Args:
        example: [1, *input], any input.

    Raises:
        ModelError, UnsupportedError: as `Verifier`.
    """

    def __init__(self, model: nn.Module | ExportedProgram | ImportedModel, example: Tensor) -> None:
        self._precision = input_precision(model)
        self._verifier = Verifier(model, example.to(self._precision))

    def check(self, digest: str, name: str) -> None:
        """Raises InputError where it is not the network of a run, by the sha256 in its store."""
        own = self._verifier.graph_digest()
        if own != digest:
            raise InputError(
                f"the model is not that of {name}: its sha256 is {own[:16]}..., the run's {digest[:16]}...; give the "
                "model, and its weights and output, that the run was given"
            )

    def prediction(self, x: Tensor) -> int:  # [*input]
        """The class that the model itself gives."""
        return int(self._verifier.predict(x.unsqueeze(0).to(self._precision)).argmax())

    @cached_property
    def certified(self) -> frozenset[str]:
        """sha256 of the networks that certificates of it may be about: questions of labels leave a last softmax off."""
        graph = self._verifier.imported
        forms = (graph,) if graph.before_last is graph else (graph, graph.before_last)
        return frozenset(canonical(one).network.digest for one in forms)
