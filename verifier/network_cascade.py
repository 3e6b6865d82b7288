"""Cascades of networks (Wong et al. 2018, section 3.3): the answer of the first network that certifies its own.

Not to be confused with the escalation of verification stages (verifier.cascade). docs/guide/cascades.md has the proofs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from properties import InputSet, Perturbation, Specification, Union, robustness
from verifier.api import DEFAULT_EXAMPLE_BUDGET, Verifier
from verifier.arguments import input_errors
from verifier.arithmetic import precise_arithmetic
from verifier.budget import Budget
from verifier.certificate.certificate import Certificate
from verifier.certificate.proof import SetProofs
from verifier.checker.document import Document
from verifier.errors import InputError, ModelError
from verifier.files import replaced, text_replaced
from verifier.graph import Graph
from verifier.judge import replayed
from verifier.loading import load_weights
from verifier.query import Query
from verifier.result import ExampleResult, Result
from verifier.stages import Stage, canonical
from verifier.verdict import Reason, StageCost, Trust, Verdict

#: the file of a saved cascade that says what it is; the weights of network k are in network<k>.safetensors beside it
DESCRIPTION = "cascade.json"

#: reasons why a network certified nothing that say more than that it did not
_TELLING = (Reason.BUDGET, Reason.NUMERICAL, Reason.UNSUPPORTED)


class Rule(Enum):
    """When a network that certifies its own prediction answers for the cascade."""

    #: at once (Wong et al. 2018, Algorithm 2); where none certifies, the last network answers, without a certificate
    FIRST = "first"
    #: if all networks before it predict the same (Wong 2020, Algorithm 4); where none does, the cascade abstains
    AGREED = "agreed"


class Guarantee(Enum):
    """What a VERIFIED of a cascade says. Either way the network that answers gives the label in the whole set."""

    #: nothing more: elsewhere in the set other networks of the cascade may answer otherwise, and certify it
    NETWORK = "the network that answers here gives this label in the whole set; the cascade may answer otherwise"
    #: an input of the set gets the label with a certificate, or an answer without one (which AGREED never gives)
    ANSWER = "no input of the set gets another label with a certificate"


@dataclass(frozen=True)
class CascadeCertificate(Certificate):
    """Evidence for one example: the deciding network's certificate, and what else the guarantee rests on."""

    own: Certificate = field(repr=False)  #: of the deciding network
    trust: Trust
    network: int  #: which of the cascade certified its prediction
    label: int
    guarantee: Guarantee
    predictions: tuple[int, ...]  #: of all networks at the clean input

    @property
    def lower(self) -> Tensor:  # [S]: of the deciding network's margins
        return self.own.lower

    @property
    def sets(self) -> tuple[SetProofs, ...]:
        return self.own.sets

    @property
    def known_document(self) -> Document | None:
        return self.own.known_document

    @property
    def inputs(self) -> InputSet:
        return self.own.inputs

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] of the deciding network's margins again; `graph`: of that network."""
        return self.own.recompute(graph)

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:
        return self.own.recompute_clauses(graph)


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
        networks: modules in eval mode (or exported programs), of the same inputs and classes, in order.
        eps, threat, clip: the sets that predictions are certified on, as in `verify`.
        rule: see `Rule`; a value of it, or its name.
        stages: what looks for certificates: names or Stage objects, in order.

    Raises:
        InputError: no networks, or unusable settings. AGREED needs a threat model that is symmetric: x' in the set
            around x where x is in the set around x'. Balls of l_p norms are, and unions of them.
    """

    networks: tuple[nn.Module | ExportedProgram, ...]
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
        state = first.state_dict() if isinstance(first, nn.Module) else first.state_dict
        return next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)

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
                    raise InputError("exported programs keep their own weights: save them with torch.export.save")
                weights = {name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}
                replaced(folder / f"network{k}.safetensors", partial(save_file, weights))
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
        count = int(settings.pop("networks"))
        clip = settings.pop("clip")
        networks = []
        for k in range(count):
            network = factory()
            load_weights(network, Path(folder) / f"network{k}.safetensors")
            networks.append(network.eval())
        return NetworkCascade(tuple(networks), clip=None if clip is None else tuple(clip), **settings)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a cascade: {error}") from error


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
        parts = [n.graph_digest() for n in self.networks] + [c.rule.value, repr(c.eps), c.threat, repr(c.clip)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def answers(self, x: Tensor, example_budget: float | None = DEFAULT_EXAMPLE_BUDGET) -> Answers:
        """What the cascade answers at x [B, *input]."""
        asked = _CascadePass(self, self.cascade.around(x))
        asked.go(Budget(None, example_budget))
        return Answers(asked.answer(), asked.network)

    def run(
        self,
        inputs: InputSet,
        spec: Specification,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
    ) -> Result:
        """As `Verifier.run`; what the verdicts say is in `Guarantee` and docs/guide/cascades.md.

        VERIFIED: the cascade answers with the label at the clean input, with a certificate, which says the guarantee.
        FALSIFIED: the clean input is answered otherwise, with a certificate, or (rule FIRST) by the last network.
        UNKNOWN: the rest. `prediction` is the answer at the clean input, -1 where the cascade abstains there.

        Raises:
            InputError: sets other than the cascade's own, or a specification other than robustness.
        """
        return self._run(inputs, self._labels(spec), budget, example_budget)

    def run_own(
        self,
        x: Tensor,  # [B, *input]
        inputs: InputSet,
        budget: float | None = None,
        example_budget: float | None = DEFAULT_EXAMPLE_BUDGET,
    ) -> Result:
        """As `run`, of the cascade's own answers at x. Where it abstains, `label` is the first network's prediction."""
        return self._run(inputs, None, budget, example_budget)

    def _run(
        self, inputs: InputSet, label: Tensor | None, budget: float | None, example_budget: float | None
    ) -> Result:  # label [B] int64
        if label is not None and len(label) != inputs.batch:
            raise InputError(f"{inputs.batch} input sets, but specifications for {len(label)} examples")
        if not _same(inputs, self.cascade.around(inputs.center())):
            c = self.cascade
            raise InputError(
                "a cascade is verified on the sets that its certificates are about, here "
                f"eps={c.eps}, threat={c.threat!r}, clip={c.clip}; asked for is {inputs.describe()}"
            )
        walk = _CascadePass(self, inputs)
        walk.go(Budget(budget, example_budget))
        return walk.result(label)

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


class _CascadePass:
    """One batch on its way through the networks: what each example's answer is, and by which network."""

    def __init__(self, verifier: CascadeVerifier, inputs: InputSet) -> None:
        self.verifier, self.cascade, self.inputs = verifier, verifier.cascade, inputs
        self.networks = verifier.networks
        x = inputs.center()
        with torch.no_grad():
            outputs = [n.predict(x.to(n.input_dtype)).cpu() for n in self.networks]
        self.x, batch = x, inputs.batch
        self.predictions = torch.stack([y.argmax(1) for y in outputs])  # [K, B]
        self.network = torch.full((batch,), -1)  # the one that certified
        self.found: list[tuple[Result, int] | None] = [None] * batch  # its result, and the example's place in it
        self.examples = [ExampleResult(reason=Reason.UNCERTIFIED) for _ in range(batch)]
        self.costs: list[StageCost] = []

    def go(self, budget: Budget) -> None:
        """Ask network after network about the examples that are left to it."""
        left = torch.arange(self.inputs.batch)
        for k, network in enumerate(self.networks):
            if k > 0 and self.cascade.rule is Rule.AGREED:
                left = left[self._agree(k, left)]
            if len(left) == 0:
                return
            own = max(0.0, budget.per_example - max(self.examples[i].seconds for i in left.tolist()))
            spec = robustness(self.predictions[k, left], network.classes)
            seconds = None if budget.left == math.inf else max(0.0, budget.left)
            result = network.run(self.inputs.select(left.to(self.x.device)), spec, seconds, own)
            self._take(k, left, result)
            left = left[~result.verified]

    def _agree(self, k: int, left: Tensor) -> Tensor:  # [m] -> [m] bool
        """Whether network k predicts what the first does, and network k - 1 does so beyond rounding.

        The first network of all counts by its own prediction, which must be beyond rounding as well.
        """
        same = self.predictions[k, left] == self.predictions[0, left]
        same[same.clone()] = self._surely(k - 1, left[same], self.predictions[0, left[same]])
        return same

    def _surely(self, k: int, which: Tensor, label: Tensor) -> Tensor:  # [m], [m] -> [m] bool
        """Whether network k gives the label at the clean input, by more than a replay's rounding error."""
        if len(which) == 0:
            return torch.zeros(0, dtype=torch.bool)
        margin, error = self._margin(k, which, label)
        return margin > error

    def _margin(self, k: int, which: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Network k's smallest margin of the label at the clean inputs `which`, and its rounding error: [m] each."""
        network, index = self.networks[k], which.to(self.x.device)
        device = network.device
        spec = robustness(label, network.classes).to(device)
        graph = network.imported.to(device, torch.float64)
        query = Query.of(graph, self.inputs.select(index).to(device), spec)
        with precise_arithmetic(), torch.no_grad():
            return replayed(query, self.x[index].to(device), network.replay, network.replay_dtype)

    def _take(self, k: int, left: Tensor, result: Result) -> None:  # [m] int64
        """Keep what network k certified of its own predictions."""
        self.costs += [StageCost(f"network {k}: {c.name}", c.decided, c.attempted, c.seconds) for c in result.stages]
        for j, i in enumerate(left.tolist()):
            reason, example = result.reason[j], self.examples[i]
            example.seconds += float(result.seconds[j])
            if result.verdict[j] is Verdict.VERIFIED:
                self.network[i], self.found[i] = k, (result, j)
            elif reason in _TELLING and example.reason is not Reason.BUDGET:
                example.reason = reason

    def answer(self) -> Tensor:  # [B]
        """The label at each clean input: certified, else the last network's (FIRST) or none, -1 (AGREED)."""
        certified = self.predictions.gather(0, self.network.clamp(min=0).unsqueeze(0))[0]
        other = self.predictions[-1] if self.cascade.rule is Rule.FIRST else torch.full_like(certified, -1)
        return torch.where(self.network >= 0, certified, other)

    # --- verdicts

    def result(self, wanted: Tensor | None) -> Result:
        """Verdicts on the labels that are wanted [B], or on the cascade's own answers."""
        answer = self.answer()
        label = torch.where(answer >= 0, answer, self.predictions[0]) if wanted is None else wanted
        margins = torch.full((len(label), self.verifier.classes), -torch.inf, dtype=torch.float64)
        margins.scatter_(1, label.unsqueeze(1), torch.inf)
        right = ((self.network >= 0) & (answer == label)).nonzero().squeeze(1)
        sure = self._answer_is_sure(right)
        for i in right.tolist():
            certificate, stage, lower = self._evidence(i, bool(sure[i]))
            if certificate is not None:
                self.examples[i].verified(stage, certificate)
                margins[i] = lower
        for i, margin, by in self._wrong(label):
            point, example = self.x[i].to(self.networks[0].input_dtype), self.examples[i]
            if not torch.equal(point.double(), self.x[i].double()):  # another point, perhaps outside of the set
                example.reason = Reason.NUMERICAL
                continue
            example.falsified(by, point.cpu(), bool(answer[i] != label[i]))
            example.attack_margin = margin
        return Result.of(self.examples, margins, label, answer, self.costs)

    def _answer_is_sure(self, which: Tensor) -> Tensor:  # [m] -> [B] bool
        """Whether no input of the sets `which` gets another label with a certificate (docs/guide/cascades.md).

        AGREED walks on only where the networks before agree, beyond rounding: there it always holds. With FIRST it
        holds where all the other networks give the label at the clean input. Never with stages that may be wrong with
        some probability: of the infinitely many inputs of a set, one may well get a wrong certificate.
        """
        sure = torch.zeros_like(self.network, dtype=torch.bool)
        if not self.cascade.symmetric or any(s.trust is Trust.PROBABILISTIC for s in self.verifier.stages):
            return sure
        sure[which] = True
        if self.cascade.rule is Rule.FIRST:
            label = self.answer()
            for k in range(len(self.networks)):
                asked = which[sure[which] & (self.network[which] != k)]
                sure[asked] = self._surely(k, asked, label[asked])
        return sure

    def _evidence(self, i: int, sure: bool) -> tuple[CascadeCertificate | None, str | None, Tensor]:
        """Example i's certificate, what decided it, and the proven margins [classes]."""
        found = self.found[i]
        assert found is not None
        (result, j), k = found, int(self.network[i])
        own, trust = result.certificate[j], result.trust[j]
        if own is None or trust is None:
            return None, None, result.margins[j]
        # what is certified at other points of the set is certified by the cascade's stages: it rests on them as well
        trust = min(trust, Trust.FLOAT, *(s.trust for s in self.verifier.stages if s.trust is not None and sure))
        guarantee = Guarantee.ANSWER if sure else Guarantee.NETWORK
        certificate = CascadeCertificate(
            own, Trust(trust), k, int(self.predictions[k, i]), guarantee, tuple(self.predictions[:, i].tolist())
        )
        return certificate, f"network {k}: {result.decided_by[j]}", result.margins[j]

    def _wrong(self, label: Tensor) -> list[tuple[int, float, str]]:  # [B] int64
        """The clean inputs that the cascade itself answers wrongly: example, margin of the label, what shows it.

        The label's margin in the network that answers must be negative beyond rounding. Where a budget ended the search
        for certificates, a longer one may give another answer: nothing is shown then.
        """
        by = self.network.clone()
        if self.cascade.rule is Rule.FIRST:
            spent = torch.tensor([e.reason is Reason.BUDGET for e in self.examples])
            by[(by < 0) & ~spent] = len(self.networks) - 1
        found = []
        for k in range(len(self.networks)):
            which = ((by == k) & (self.predictions[k] != label)).nonzero().squeeze(1)
            if len(which) == 0:
                continue
            margin, error = self._margin(k, which, label[which])
            for i, value, e in zip(which.tolist(), margin.tolist(), error.tolist(), strict=True):
                if value < -e:
                    found.append((i, value, f"network {k}: its answer at the clean input"))
        return found


def _same(one: InputSet, other: InputSet) -> bool:
    """Whether two batches of sets that threat models made are the same ones."""
    if type(one) is not type(other) or (one.batch, one.shape) != (other.batch, other.shape):
        return False
    if isinstance(one, Union) and isinstance(other, Union):
        pairs = zip(one.members, other.members, strict=False)
        return len(one.members) == len(other.members) and all(_same(*pair) for pair in pairs)
    return one.describe() == other.describe() and torch.equal(one.center(), other.center())
