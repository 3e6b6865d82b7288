"""One network on the command line, or several that answer as a cascade. Light: torch is loaded where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from verifier.commands.options import MODEL, OUTPUT, SAFE, WEIGHTS, ModelOptions, QuestionOptions
from verifier.commands.shared import say
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from properties import Perturbation
    from verifier.network_cascade import NetworkCascade

SEVERAL_MODELS = typer.Option(
    metavar="MODEL",
    help=f"{MODEL.help} Given again: a cascade of networks, in this order, that answers by the first of them that "
    "certifies its own prediction.",
)
SEVERAL_WEIGHTS = typer.Option(
    metavar="FILE|FOLDER",
    help=f"{WEIGHTS.help} Of a cascade one for each factory, in order, or several for one factory; or the folder that "
    "`train --cascade` wrote, with the factory's --model once.",
)
RULE = typer.Option(
    metavar="agreed|first",
    help="Of a cascade: agreed (the default) answers where the networks before predict the same, and abstains else; "
    "first, as in Wong et al. (2018), answers at once, of which less is proved.",
)
#: of a cascade that is not saved with its own
_STAGES = ("interval", "dual")


@dataclass(frozen=True, kw_only=True)
class NetworksOptions:
    """Which network, or which several."""

    model: Annotated[list[str], SEVERAL_MODELS]
    weights: Annotated[list[Path] | None, SEVERAL_WEIGHTS] = None
    output: Annotated[str | None, OUTPUT] = None
    rule: Annotated[str | None, RULE] = None
    safe: Annotated[bool, SAFE] = False

    @property
    def several(self) -> bool:
        """Whether it is a cascade."""
        weights = self.weights or []
        return len(self.model) > 1 or len(weights) > 1 or any(path.is_dir() for path in weights)

    def load(self, about: QuestionOptions, asked: Perturbation | None, stages: Sequence[str] | None) -> Any:
        """What the question is about: a network, or a cascade that answers by the sets and the stages asked for.

        Args:
            asked: the sets; None where there are several radii. stages: names; None: a cascade's own.

        Raises:
            InputError: options that do not go together. And as `ModelOptions.load`.
        """
        if not self.several:
            if self.rule is not None:
                raise InputError("--rule is how a cascade answers: give --model more than once")
            return about.network(self._one(self.model[0], next(iter(self.weights or []), None)))
        if about.asked() is not None:
            raise InputError("a cascade's outputs are answers: leave --question, --threshold and --against out")
        if asked is None:
            raise InputError("a cascade answers by certificates at one radius: give one --eps, and a run for each")
        folder = next((path for path in self.weights or [] if path.is_dir()), None)
        return self._cascade(asked, stages) if folder is None else self._saved(folder, asked, stages)

    def _one(self, model: str, weights: Path | None) -> ModelOptions:
        return ModelOptions(model=model, weights=weights, output=self.output, safe=self.safe)

    def _cascade(self, asked: Perturbation, stages: Sequence[str] | None) -> NetworkCascade:
        from verifier.network_answer import Rule
        from verifier.network_cascade import NetworkCascade

        networks = tuple(self._one(model, weights).load() for model, weights in self._pairs())
        rule = Rule.AGREED if self.rule is None else self._rule(self.rule)
        return NetworkCascade(networks, **asked.describe(), rule=rule, stages=tuple(stages or _STAGES))

    def _factory(self) -> nn.Module:
        """A module for each of a saved cascade's weights. Raises InputError where --model is a file."""
        if self.model[0].endswith((".onnx", ".onnx.gz", ".pt2")):
            raise InputError(f"{self.model[0]} holds its own weights: --weights of a cascade go with a factory")
        return cast("nn.Module", self._one(self.model[0], None).load())

    def _pairs(self) -> list[tuple[str, Path | None]]:
        """Each network's model and weights. Raises InputError where they do not fit each other."""
        weights = self.weights or []
        if len(self.model) == 1:
            return [(self.model[0], path) for path in weights]
        factories = [model for model in self.model if not model.endswith((".onnx", ".onnx.gz", ".pt2"))]
        if weights and len(weights) != len(factories):
            raise InputError(
                f"{len(weights)} --weights are given for {len(factories)} factories among the {len(self.model)} models "
                "of the cascade: give one for each factory, in order, or none"
            )
        left = iter(weights)
        return [(model, next(left, None) if model in factories else None) for model in self.model]

    def _saved(self, folder: Path, asked: Perturbation, stages: Sequence[str] | None) -> NetworkCascade:
        """The cascade of a folder, with the sets that are asked for; says where those are not the folder's."""
        from dataclasses import replace

        from verifier.network_cascade import DESCRIPTION, load_cascade

        if len(self.model) > 1 or len(self.weights or []) > 1:
            raise InputError(f"{folder} holds a whole cascade: give it as the only --weights, and one --model")
        if not (folder / DESCRIPTION).is_file():
            raise InputError(
                f"{folder} is a directory without {DESCRIPTION}: --weights is a safetensors file, or the folder of a "
                "cascade that `verifier train --cascade` wrote"
            )
        saved = load_cascade(folder, self._factory)
        if saved.perturbation != asked:
            say(f"note: {folder} was trained for {saved.perturbation}; here it answers by certificates on {asked}")
        rule = saved.rule if self.rule is None else self._rule(self.rule)
        return replace(saved, **asked.describe(), rule=rule, stages=tuple(stages or saved.stages))

    @staticmethod
    def _rule(name: str) -> Any:
        from verifier.network_answer import Rule
        from verifier.registry import hint

        names = [rule.value for rule in Rule]
        if name not in names:
            raise InputError(f"--rule is {' or '.join(names)}, got {name!r}{hint(name, names)}")
        return Rule(name)
