"""Cascades of networks (Wong et al. 2018, section 3.3): the answer of the first network that certifies its own.

Not to be confused with the escalation of verification stages (verifier.cascade). docs/guide/cascades.md has the proofs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from properties import InputSet, Perturbation, Specification, Union, robustness
from verifier.api import DEFAULT_EXAMPLE_BUDGET, Verifier
from verifier.arguments import input_errors
from verifier.budget import Budget
from verifier.errors import InputError, ModelError
from verifier.files import replaced, text_replaced
from verifier.graph.runner import ImportedModel
from verifier.loading import load_weights
from verifier.network_answer import CascadePass, Rule
from verifier.normalisation import metadata_of
from verifier.outcome import RunWatch, StageWatch
from verifier.result import Result
from verifier.stages import Stage, canonical

#: the file of a saved cascade that says what it is; the weights of network k are in network<k>.safetensors beside it
DESCRIPTION = "cascade.json"


@dataclass(frozen=True)
class Answers:
    """What a cascade answers at B inputs."""

    label: Tensor  # [B] int64; -1 where it abstains
    network: Tensor  # [B] int64: the network that certified the label; -1 where there is no certificate

    @property
    def certified(self) -> Tensor:  # [B] bool
        return self.network >= 0


@dataclass(frozen=True)
class NetworkCascade:
    """Several networks that answer as one. An answer needs a certificate, so what gives one belongs to the cascade.

    Args:
        networks: modules in eval mode, exported programs or `OnnxModel`s, of the same inputs and classes, in order.
        eps, threat, clip: the sets that predictions are certified on, as in `verify`.
        rule: see `Rule`; a value of it, or its name.
        stages: what looks for certificates: names or Stage objects, in order.

    Raises:
        InputError: no networks, or unusable settings. AGREED needs a threat model that is symmetric: x' in the set
            around x where x is in the set around x'. Balls of l_p norms are, and unions of them.
    """

    networks: tuple[nn.Module | ExportedProgram | ImportedModel, ...]
    eps: float
    threat: str = "linf"
    clip: tuple[float, float] | None = None
    rule: Rule = Rule.AGREED
    stages: tuple[str | Stage, ...] = ("interval", "dual")

    def __post_init__(self) -> None:
        with input_errors():
            asked, rule = Perturbation(float(self.eps), self.threat, self.clip), Rule(self.rule)
            stages = canonical(self.stages)
        set_ = object.__setattr__
        set_(self, "networks", tuple(self.networks))
        set_(self, "stages", stages)
        set_(self, "rule", rule)
        for name, value in asked.describe().items():
            set_(self, name, value)
        if not self.networks:
            raise InputError("a cascade needs at least one network")
        if rule is Rule.AGREED and not asked.symmetric:
            raise InputError(
                f"the rule {rule.value!r} needs sets that hold each other's center or neither does, and those of "
                f"{self.threat!r} are not known to: use l_p balls, or the rule {Rule.FIRST.value!r} of weaker guarantee"
            )

    @property
    def perturbation(self) -> Perturbation:
        """What predictions are certified against."""
        return Perturbation(self.eps, self.threat, self.clip)

    @property
    def symmetric(self) -> bool:
        """Whether x' is in the set around x exactly where x is in the set around x'."""
        return self.perturbation.symmetric

    @property
    def precision(self) -> torch.dtype:
        """Of the first network's weights; float32 where it has none."""
        first = self.networks[0]
        if isinstance(first, ImportedModel) and not isinstance(first, nn.Module):
            return first.precision
        state = first.state_dict() if isinstance(first, nn.Module) else first.state_dict
        return next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)

    @property
    def settings(self) -> dict[str, Any]:
        """What a run of `certify` keeps of it beside the question."""
        return {"networks": len(self.networks), "rule": self.rule.value, "certified_by": self._stage_names()}

    def _stage_names(self) -> list[str]:
        return [s if isinstance(s, str) else s.name for s in self.stages]

    def around(self, x: Tensor) -> InputSet:
        """The sets around x [B, *input] on which predictions at x are certified."""
        with input_errors():
            return self.perturbation.around(x)

    def check_question(self, asked: Perturbation) -> None:
        """Raises InputError unless these are the sets that the cascade answers by."""
        if asked != self.perturbation:
            own, other = (tuple(p.describe().values()) for p in (self.perturbation, asked))
            raise InputError(
                "a cascade answers by its certificates, and can be verified on the sets that those are about: "
                f"eps, threat and clip are {own}, asked for are {other}; dataclasses.replace(cascade, eps=...) "
                "makes a cascade of other sets"
            )

    def prepared(
        self,
        example: Tensor,
        *,
        stages: Sequence[str | Stage] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> CascadeVerifier:
        """The cascade made ready: to predict many batches, or to verify. Arguments as of `Verifier`.

        Args:
            example: [B, *input].

        Raises:
            InputError: `stages` other than the cascade's, which are part of it.
        """
        with input_errors():
            asked = None if stages is None else canonical(stages)
        if asked not in (None, self.stages):
            raise InputError(
                f"a cascade answers by the certificates of its own stages, {list(self.stages)}: "
                "dataclasses.replace(cascade, stages=...) makes one with others"
            )
        return CascadeVerifier(self, example, device=device, dtype=dtype)

    def predict(self, x: Tensor, example_budget: float | None = DEFAULT_EXAMPLE_BUDGET) -> Answers:
        """The answers at x [B, *input]. For many batches: `cascade.prepared(x).answers(x)`, which imports only once."""
        return self.prepared(x).answers(x, example_budget)

    def save(self, folder: str | Path) -> None:
        """Write the networks' weights and the settings into a folder, made where it is not there.

        Raises:
            InputError: stages that are objects, networks that are no modules, a folder that cannot be written.
        """
        from safetensors.torch import save_file

        if not all(isinstance(s, str) for s in self.stages):
            raise InputError("a cascade whose stages are objects cannot be saved: name them")
        settings = {
            "networks": len(self.networks), "eps": self.eps, "threat": self.threat, "clip": self.clip,
            "rule": self.rule.value, "stages": self.stages,
        }  # fmt: skip
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for k, network in enumerate(self.networks):
                if not isinstance(network, nn.Module):
                    raise InputError("exported programs and ONNX files keep their own weights: only modules are saved")
                weights = {name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}
                replaced(folder / f"network{k}.safetensors", partial(save_file, weights, metadata=metadata_of(network)))
            text = json.dumps(settings, indent=1) + "\n"
            text_replaced(folder / DESCRIPTION, text)
        except OSError as error:
            raise InputError(f"cannot write the cascade into {folder}: {error.strerror or error}") from error


def load_cascade(folder: str | Path, factory: Callable[[], nn.Module]) -> NetworkCascade:
    """A cascade that `NetworkCascade.save` wrote.

    Args:
        factory: makes the modules that the weights go into, one per call.

    Raises:
        InputError: not a cascade's folder. ModelError: the weights are those of another architecture.
    """
    path = Path(folder) / DESCRIPTION
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        count, clip = int(settings.pop("networks")), settings.pop("clip")
        described = partial(NetworkCascade, clip=None if clip is None else tuple(clip), **settings)
        described(networks=(nn.Identity(),))  # says now what is wrong with it
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not describe a cascade: {error}") from error
    files = (Path(folder) / f"network{k}.safetensors" for k in range(count))
    return described(networks=tuple(load_weights(factory(), file).eval() for file in files))


class CascadeVerifier:
    """A cascade made ready for prediction and verification: each network imported and compared with its model.

    Args:
        example: [B, *input]. It, device and dtype are as of `Verifier`.

    Raises:
        ModelError: networks of different inputs or classes; and what `Verifier` raises.
    """

    def __init__(
        self,
        cascade: NetworkCascade,
        example: Tensor,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.cascade = cascade
        self.networks = tuple(
            Verifier(n, example, stages=cascade.stages, device=device, dtype=dtype) for n in cascade.networks
        )
        counts = [n.classes for n in self.networks]
        if len(set(counts)) > 1:
            raise ModelError(f"the networks of a cascade must have the same classes; they have {counts}")

    @property
    def classes(self) -> int:
        return self.networks[0].classes

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.networks[0].output_shape

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.networks[0].stages

    @property
    def device(self) -> torch.device:
        return self.networks[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.networks[0].dtype

    def graph_digest(self) -> str:
        """SHA-256 of the networks' digests and of all that the answers depend on besides them."""
        c = self.cascade
        own = [c.rule.value, repr(c.eps), c.threat, repr(c.clip), *c.settings["certified_by"]]
        parts = [n.graph_digest() for n in self.networks] + own
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def answers(self, x: Tensor, example_budget: float | None = DEFAULT_EXAMPLE_BUDGET) -> Answers:
        """What the cascade answers at x [B, *input]."""
        asked = self._pass(self.cascade.around(x))
        asked.go(Budget(None, example_budget))
        return Answers(asked.answer(), asked.network)

    def run(
        self,
        inputs: InputSet,
        spec: Specification,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
        watch: RunWatch | None = None,
    ) -> Result:
        """As `Verifier.run`; what the verdicts say is in `Guarantee` and docs/guide/cascades.md.

        VERIFIED: the cascade answers with the label at the clean input, with a certificate, which says the guarantee.
        FALSIFIED: the clean input is answered otherwise, with a certificate, or (rule FIRST) by the last network.
        UNKNOWN: the rest. `prediction` is the answer at the clean input, -1 where the cascade abstains there. `watch`
        is told of stages alone.

        Raises:
            InputError: sets other than the cascade's own, or a specification other than robustness.
        """
        return self._run(inputs, self._labels(spec), budget, example_budget, watch)

    def run_own(
        self,
        x: Tensor,  # [B, *input]
        inputs: InputSet,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
        watch: RunWatch | None = None,
    ) -> Result:
        """As `run`, of the cascade's own answers at x. Where it abstains, `label` is the first network's prediction."""
        return self._run(inputs, None, budget, example_budget, watch)

    def _run(
        self,
        inputs: InputSet,
        label: Tensor | None,
        budget: float | None,
        example_budget: float | None,
        watch: StageWatch | None,
    ) -> Result:  # label [B] int64
        if label is not None and len(label) != inputs.batch:
            raise InputError(f"{inputs.batch} input sets, but specifications for {len(label)} examples")
        if not _same(inputs, self.cascade.around(inputs.center())):
            c = self.cascade
            raise InputError(
                "a cascade is verified on the sets that its certificates are about, here "
                f"eps={c.eps}, threat={c.threat!r}, clip={c.clip}; asked for is {inputs.describe()}"
            )
        asked = self._pass(inputs)
        asked.go(Budget(budget, example_budget), watch)
        return asked.result(label)

    def _pass(self, inputs: InputSet) -> CascadePass:
        return CascadePass(self.networks, self.cascade.rule, self.cascade.symmetric, inputs)

    def _labels(self, spec: Specification) -> Tensor:
        """The labels [B] of a robustness specification."""
        if spec.label is not None:
            label = spec.label.cpu()
            with input_errors():
                meant = robustness(label, self.classes)
            parts = ((spec.rows, meant.rows), (spec.offset, meant.offset), (spec.clause, meant.clause))
            if all(torch.equal(given.cpu().to(own.dtype), own) for given, own in parts):
                return label
        raise InputError("of a cascade, only labels can be verified (properties.robustness): its outputs are answers")


def _same(one: InputSet, other: InputSet) -> bool:
    """Whether two batches of sets that threat models made are the same ones."""
    if type(one) is not type(other) or (one.batch, one.shape) != (other.batch, other.shape):
        return False
    if isinstance(one, Union) and isinstance(other, Union):
        pairs = zip(one.members, other.members, strict=False)
        return len(one.members) == len(other.members) and all(_same(*pair) for pair in pairs)
    return one.describe() == other.describe() and torch.equal(one.center(), other.center())
