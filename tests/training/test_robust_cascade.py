"""Cascades of networks: what their verdicts guarantee, by brute force, and their training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import real_data
from torch import Tensor, nn

from properties import L2Ball, LinfBall, Threat, robustness
from properties.input_set import threats
from training import train_cascade
from training.cascade import uncertified
from training.methods.interval import IntervalTraining
from training.schedule import Optimiser
from verifier import InputError, ModelError, NetworkCascade, Reason, StoreError, Trust, Verdict, certify, verify
from verifier.certification.dataset import Dataset
from verifier.demo import digits, network
from verifier.network_answer import CascadeCertificate, Guarantee, Rule
from verifier.network_cascade import CascadeVerifier, load_cascade


def threshold(at: float, sign: float = 1.0) -> nn.Module:
    """A network of one input and two classes: class 1 where sign * (z - at) > 0."""
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [sign]]))
        layer.bias.copy_(torch.tensor([0.0, -sign * at]))
    return layer.eval()


def constant(label: int) -> nn.Module:
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.eye(2, dtype=torch.float64)[label])
    return layer.eval()


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def evidence(certificate: object) -> CascadeCertificate:
    assert isinstance(certificate, CascadeCertificate)
    return certificate


# --- the guarantees


def test_first_is_verified_and_its_certified_answer_changes_all_the_same() -> None:
    # network 0 says 1 at x = 0, but not for z <= -0.5; network 1 always says 0. At x' = 0.6 network 0 is certain
    cascade = NetworkCascade((threshold(-0.5), constant(0)), eps=1.0, rule=Rule.FIRST)
    result = verify(cascade, points(0.0), eps=1.0, label=[0])
    assert result.verdict == (Verdict.VERIFIED,)
    assert evidence(result.certificate[0]).guarantee is Guarantee.NETWORK
    there = cascade.predict(points(0.6))
    assert (there.label.tolist(), there.network.tolist()) == ([1], [0])
    # the thesis's rule gives no certificate there
    agreed = dataclasses.replace(cascade, rule=Rule.AGREED)
    result = verify(agreed, points(0.0), eps=1.0, label=[0])
    assert (result.verdict, result.reason) == ((Verdict.UNKNOWN,), (Reason.UNCERTIFIED,))
    assert result.prediction.tolist() == [-1]


def test_the_stronger_guarantee_of_first_leaves_out_answers_without_a_certificate() -> None:
    cascade = NetworkCascade((threshold(1.2), threshold(0.9)), eps=1.0, rule=Rule.FIRST)
    result = verify(cascade, points(0.0), eps=1.0)
    assert (result.label.tolist(), result.verdict) == ([0], (Verdict.VERIFIED,))
    assert evidence(result.certificate[0]).guarantee is Guarantee.ANSWER
    there = cascade.predict(points(0.95))
    assert (there.label.tolist(), there.certified.tolist()) == ([1], [False])
    assert dataclasses.replace(cascade, rule=Rule.AGREED).predict(points(0.95)).label.tolist() == [-1]


def random_networks(generator: torch.Generator, inputs: int) -> tuple[nn.Module, ...]:
    """Three networks with many small regions and three classes, that agree more often than not."""
    made: list[nn.Module] = []
    for _ in range(3):
        net = nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            for parameter, first in zip(net.parameters(), (made or [net])[0].parameters(), strict=True):
                parameter.lerp_(first, 0.6)
        made.append(net.eval())
    return tuple(made)


@pytest.mark.parametrize(("inputs", "threat", "eps"), [(1, "linf", 0.25), (2, "linf", 0.2), (2, "l2+0.7*linf", 0.3)])
def test_guarantees_hold_at_every_point_of_the_sets(inputs: int, threat: str, eps: float) -> None:
    line = torch.linspace(0, 1, 121 if inputs == 1 else 13, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * inputs).reshape(-1, inputs)
    generator = torch.Generator().manual_seed(inputs)
    later = weak = changed = 0
    for _ in range(2):
        nets = random_networks(generator, inputs)
        for rule in Rule:
            cascade = NetworkCascade(nets, eps, threat, (0.0, 1.0), rule)
            prepared = cascade.prepared(grid)
            answers = prepared.answers(grid)
            with torch.no_grad():
                own = torch.stack([net(grid).argmax(1) for net in nets])
            result = prepared.run_own(grid, cascade.around(grid))
            assert torch.equal(result.prediction, answers.label)
            assert torch.equal(result.verified, answers.certified)
            assert Verdict.FALSIFIED not in result.verdict
            for i in result.verified.nonzero().squeeze(1).tolist():
                certificate = evidence(result.certificate[i])
                near = cascade.around(grid[i : i + 1].expand_as(grid)).contains(grid)
                assert near[i] and near.sum() > 1
                label = int(answers.label[i])
                assert (own[certificate.network, near] == label).all()
                others = bool((answers.certified & near & (answers.label != label)).any())
                if certificate.guarantee is Guarantee.ANSWER:
                    assert not others
                    later += certificate.network > 0
                else:
                    assert rule is Rule.FIRST
                    weak, changed = weak + 1, changed + others
                if rule is Rule.AGREED:
                    assert certificate.guarantee is Guarantee.ANSWER
                    assert set(answers.label[near].tolist()) <= {-1, label}
    assert min(later, weak, changed) > 0  # the cases that matter have occurred


def test_agreement_within_rounding_is_none() -> None:
    """Network 0 ties at x (argmax says 0): as a real function it may as well predict 1."""
    cascade = NetworkCascade((threshold(0.0), constant(0)), eps=0.5)
    assert cascade.predict(points(0.0)).label.tolist() == [-1]
    assert cascade.predict(points(-0.1)).label.tolist() == [0]
    first = verify(dataclasses.replace(cascade, rule=Rule.FIRST), points(0.0, -0.1), eps=0.5)
    assert [evidence(c).guarantee for c in first.certificate] == [Guarantee.NETWORK, Guarantee.ANSWER]


def test_sets_that_claim_symmetry_are_symmetric() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, kind in threats().items():
        if kind.symmetric:
            x = torch.rand(64, 1, 2, 3, generator=generator, dtype=torch.float64)
            z = (x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
            eps = (z - x).flatten(1).norm(p={"linf": torch.inf, "l2": 2, "l1": 1}[name], dim=1)  # on the brink
            for scale in (0.99, 1.0, 1.01):
                one, other = (kind.around(a, scale * eps, (0.0, 1.0)).contains(b) for a, b in ((x, z), (z, x)))
                assert torch.equal(one, other)
    assert Threat.of("linf+5*l2+40*l1").symmetric

    class Growing(L2Ball):
        """A radius that depends on the input."""

    assert L2Ball.symmetric and not Growing.symmetric
    assert not Threat.of("linf+contrast").symmetric


# --- verdicts


def test_wrong_answers_are_falsified_at_the_clean_input() -> None:
    nets = (threshold(0.0), threshold(1.0))
    for rule in Rule:
        cascade = NetworkCascade(nets, eps=0.2, rule=rule)
        result = verify(cascade, points(0.5, 0.1, -0.5), eps=0.2, label=[0, 1, 0])
        # certified 1 by network 0; by network 1 (FIRST) certified 0, or (AGREED) no answer; certified 0
        second = Verdict.FALSIFIED if rule is Rule.FIRST else Verdict.UNKNOWN
        assert result.verdict == (Verdict.FALSIFIED, second, Verdict.VERIFIED)
        assert result.counterexample[0] is not None and result.counterexample[0].tolist() == [0.5]
        assert result.attack_margin[0] == pytest.approx(-0.5)
    # the last network's answer without a certificate counts as FIRST's answer
    cascade = NetworkCascade(nets[:1], eps=0.2, rule=Rule.FIRST)
    result = verify(cascade, points(0.1), eps=0.2, label=[0])
    assert (result.verdict, result.prediction.tolist()) == ((Verdict.FALSIFIED,), [1])
    assert verify(cascade, points(0.1), eps=0.2, label=[0], example_budget=0).verdict == (Verdict.UNKNOWN,)


def test_an_answer_is_trusted_no_further_than_what_certifies_elsewhere() -> None:
    cascade = NetworkCascade((threshold(0.0),), eps=0.2, stages=("interval", "milp"))
    result = verify(cascade, points(0.5), eps=0.2)
    assert result.decided_by == ("network 0: interval",)
    assert result.trust == (Trust.SOLVER,)


@pytest.mark.parametrize("rule", list(Rule))
def test_certificates_with_a_probability_say_nothing_of_other_points(rule: Rule) -> None:
    """Their probability is about one set: an attacker may look for a point with a wrong certificate."""
    for stages, guarantee in (
        (("interval",), Guarantee.ANSWER),
        (("interval", "dual-probabilistic"), Guarantee.NETWORK),
    ):
        cascade = NetworkCascade((threshold(0.0), threshold(0.1)), eps=0.2, rule=rule, stages=stages)
        result = verify(cascade, points(0.5), eps=0.2)
        assert result.trust == (Trust.FLOAT,)  # intervals certified the one network that is asked
        assert evidence(result.certificate[0]).guarantee is guarantee


def test_counterexamples_are_the_very_points_that_were_checked() -> None:
    """0.1 is no float32: its rounding is another point, outside of the set."""
    cascade = NetworkCascade((threshold(0.0).float(),), eps=0.0, stages=("interval",))
    for value, verdict in ((0.5, Verdict.FALSIFIED), (0.1, Verdict.UNKNOWN)):
        ball = LinfBall(points(value), 0.0)
        result = verify(cascade, points(value).float(), input_set=ball, label=[0])
        assert result.verdict == (verdict,)
        point = result.counterexample[0]
        assert point is None or ball.contains(point.unsqueeze(0)).all()
    assert result.reason == (Reason.NUMERICAL,)


def test_certificates_are_recomputed_from_the_deciding_network() -> None:
    cascade = NetworkCascade((threshold(0.6), threshold(2.0)), eps=0.2)
    result = verify(cascade, points(0.5), eps=0.2)
    certificate = evidence(result.certificate[0])
    assert (certificate.network, certificate.label, certificate.predictions) == (1, 0, (0, 0))
    assert certificate.recompute().tolist() == pytest.approx([1.3])
    assert certificate.inputs.contains(points(0.5)).all()


def test_other_questions_are_refused() -> None:
    cascade = NetworkCascade((threshold(0.0),), eps=0.2, clip=(-1.0, 1.0))
    x = points(0.5)
    for arguments in ({"eps": 0.1, "clip": (-1, 1)}, {"eps": 0.2}, {"eps": 0.2, "clip": (-1, 1), "threat": "l2"}):
        with pytest.raises(InputError, match="sets that its certificates are about"):
            verify(cascade, x, **arguments)
    with pytest.raises(InputError, match="its own stages"):
        verify(cascade, x, eps=0.2, clip=(-1, 1), stages=["interval"])
    spec = dataclasses.replace(robustness(torch.tensor([0]), 2), offset=torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(InputError, match="only labels"):
        verify(cascade, x, eps=0.2, clip=(-1, 1), spec=spec)
    assert verify(cascade, x, input_set=LinfBall(x, 0.2, (-1, 1))).verdict == (Verdict.VERIFIED,)
    with pytest.raises(InputError, match="hold each other's center"):
        NetworkCascade((threshold(0.0),), eps=0.2, threat="contrast")
    with pytest.raises(InputError, match="at least one network"):
        NetworkCascade((), eps=0.2)
    with pytest.raises(ModelError, match="same classes"):
        NetworkCascade((threshold(0.0), nn.Linear(1, 3).double().eval()), eps=0.2).prepared(x)
    with pytest.raises(InputError, match="eps, threat and clip are"):
        certify(cascade, x, [1], 0.3, clip=(-1, 1), progress=False)


def test_certify_stores_and_resumes_a_cascade(tmp_path: Path) -> None:
    cascade = NetworkCascade((threshold(-0.5), threshold(0.6)), eps=0.2)
    x, labels = points(0.0, 0.5, -0.5, 1.0), [1, 1, 0, 1]
    report = certify(cascade, x, labels, 0.2, store=tmp_path / "run.db", progress=False)
    single = verify(cascade, x, eps=0.2, label=labels)
    assert [row.outcome.value for row in report.rows()] == [v.value for v in single.verdict]
    again = certify(cascade, x, labels, 0.2, store=tmp_path / "run.db", resume=True, progress=False)
    assert [row.outcome for row in again.rows()] == [row.outcome for row in report.rows()]
    for other in (dataclasses.replace(cascade, rule=Rule.FIRST), dataclasses.replace(cascade, stages=("dual",))):
        with pytest.raises(StoreError):
            certify(other, x, labels, 0.2, store=tmp_path / "run.db", resume=True, progress=False)


def test_published_cascade_has_the_papers_robust_images() -> None:
    """Wong et al. (2018), table 2, MNIST small at 0.3: by hand, network by network, and through `verify`."""
    nets = tuple(real_data.wong_kolter_small(f"scaled_mnist_small_0_3_stage{k}") for k in range(3))
    x, y = real_data.images("mnist", 40)
    left, robust, agreed = torch.arange(40), torch.zeros(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)
    with torch.no_grad():
        own = torch.stack([net(x).argmax(1) for net in nets])
    for k, net in enumerate(nets):
        sure = verify(net, x[left], eps=0.3, clip=(0, 1), stages=["interval", "dual"]).verified
        robust[left[sure]] = own[k, left[sure]] == y[left[sure]]
        agreed[left[sure]] = robust[left[sure]] & (own[: k + 1, left[sure]] == own[0, left[sure]]).all(0)
        left = left[~sure]
    for rule, wanted in ((Rule.FIRST, robust), (Rule.AGREED, agreed)):
        cascade = NetworkCascade(nets, 0.3, "linf", (0.0, 1.0), rule)
        result = verify(cascade, x, eps=0.3, clip=(0, 1), label=y)
        assert torch.equal(result.verified, wanted)
    assert 20 < int(agreed.sum()) <= int(robust.sum()) < 40


# --- training


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


METHOD = IntervalTraining(eps=0.06)


def test_training_certifies_more_than_its_first_network_and_resumes(tmp_path: Path) -> None:
    images, labels = digits()
    data, test = (images[:400], labels[:400]), (images[1200:1300], labels[1200:1300])
    options = {"epochs": 6, "count": 2, "validation": 50, "measure_every": 6}
    out = tmp_path / "run"
    whole = train_cascade(small, data, METHOD, out=out, **options)
    assert whole.images[0] == 350 and 0 < whole.images[2] <= whole.images[1] < 350
    single = NetworkCascade(whole.cascade.networks[:1], 0.06, clip=(0, 1))
    alone, both = (verify(c, test[0], 0.06, label=test[1], clip=(0, 1)).verified for c in (single, whole.cascade))
    assert (both | ~alone).all() and both.sum() > alone.sum()

    for part in ("network1.safetensors", "stage1/best.safetensors", "stage1/checkpoint.pt"):
        (out / part).unlink()  # as if killed in the second network's first epoch
    with pytest.raises(StoreError, match="holds a run already"):
        train_cascade(small, data, METHOD, out=out, **options)
    again = train_cascade(small, data, METHOD, out=out, resume=True, **options)
    assert again.images == whole.images
    loaded = load_cascade(out, small)
    assert dataclasses.replace(loaded, networks=again.cascade.networks) == again.cascade
    for a, b, c in zip(whole.cascade.networks, again.cascade.networks, loaded.networks, strict=True):
        assert isinstance(a, nn.Module) and isinstance(b, nn.Module) and isinstance(c, nn.Module)
        for left, middle, right in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
            assert torch.equal(left, middle) and torch.equal(left, right)


def test_training_ends_when_nothing_is_left_to_certify() -> None:
    half = torch.cat([torch.full((1, 8, 4), 0.1), torch.full((1, 8, 4), 0.9)], 2)
    x = torch.stack([half] * 40 + [half.flip(2)] * 40)
    y = torch.cat([torch.zeros(40, dtype=torch.int64), torch.ones(40, dtype=torch.int64)])
    quick = dataclasses.replace(METHOD, batch=8, optimiser=Optimiser(rate=1e-2))
    trained = train_cascade(small, (x, y), quick, epochs=6, rule="first")
    assert trained.images == (72, 0)
    assert len(trained.cascade.networks) == 1 and trained.cascade.rule is Rule.FIRST


def test_uncertified_leaves_out_certified_wrong_predictions_as_well() -> None:
    model, (images, labels) = network(), digits()
    data = Dataset(images[1200:1300], (labels[1200:1300] + 1) % 10)
    left = uncertified(model, data, METHOD, ("interval", "dual"))
    own = verify(model, data.images, 0.06, clip=(0, 1), stages=["interval", "dual"])
    assert left is not None and torch.equal(left.images, data.images[~own.verified])


def test_networks_and_their_number_are_checked() -> None:
    images, labels = digits()
    with pytest.raises(InputError, match="count"):
        train_cascade([small()], (images, labels), METHOD, epochs=1, count=2)
    with pytest.raises(InputError, match="count"):
        train_cascade(small, (images, labels), METHOD, epochs=1, count=0)
    with pytest.raises(InputError, match="held out"):
        train_cascade(small, (images, labels), METHOD, epochs=1, validation=len(labels))
    with pytest.raises(InputError, match="no stage"):
        train_cascade(small, (images, labels), METHOD, epochs=1, certified_by=["duel"])
    with pytest.raises(InputError, match="hold each other's center"):
        train_cascade(small, (images, labels), dataclasses.replace(METHOD, threat="brightness"), epochs=1)


def test_prepared_cascades_are_told_apart_by_their_digests() -> None:
    cascade = NetworkCascade((threshold(0.0), threshold(0.5)), eps=0.2)
    x = points(0.0)
    others = [
        dataclasses.replace(cascade, rule=Rule.FIRST), dataclasses.replace(cascade, eps=0.3),
        dataclasses.replace(cascade, clip=(0, 1)), dataclasses.replace(cascade, networks=cascade.networks[::-1]),
    ]  # fmt: skip
    digests = {CascadeVerifier(c, x).graph_digest() for c in (cascade, *others)}
    assert len(digests) == 5
