"""A run that is watched: the same answers, told one by one as soon as they are known, by stages that work in parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_mlp

from properties import Threat, robustness
from verifier.api import Verifier, verify
from verifier.network_cascade import NetworkCascade
from verifier.outcome import StageStep
from verifier.progress import Verdicts
from verifier.result import ExampleResult, Result

EPS, EXAMPLES = 0.08, 24
STAGES = ("clean", "interval", "dual", "attack", "dual-optimised", "branch")


#: of an example: its answer, margins, label, prediction
Said = tuple[ExampleResult, list[float], int, int]


@dataclass
class Watched:
    """Remembers what it is told."""

    stages: list[str] = field(default_factory=list)
    steps: list[StageStep] = field(default_factory=list)
    answers: dict[int, Said] = field(default_factory=dict)
    at: dict[int, str] = field(default_factory=dict)  #: the stage at work when an example was settled

    def begins(self, stage: str) -> None:
        self.stages.append(stage)

    def ended(self, step: StageStep) -> None:
        self.steps.append(step)

    def settled(self, places: Sequence[int], result: Result) -> None:
        assert len(places) == len(result) and not {*places} & {*self.answers}
        for k, place in enumerate(places):
            self.answers[place] = said(result, k)
            self.at[place] = self.stages[-1]


def said(result: Result, k: int) -> Said:
    return result.example(k), result.margins[k].tolist(), int(result.label[k]), int(result.prediction[k])


def assert_same(one: Said, other: Said) -> None:
    (a, margins, *numbers), (b, others, *same) = one, other
    assert (a.verdict, a.decided_by, a.reason, a.trust) == (b.verdict, b.decided_by, b.reason, b.trust)
    assert (a.float32_agrees, [*a.spent], numbers) == (b.float32_agrees, [*b.spent], same)
    np.testing.assert_allclose(margins, others, atol=1e-5)


@pytest.mark.parametrize("threat", ["linf", "linf+2*l2"])
@pytest.mark.parametrize("part", [1, 5, None])
def test_the_answers_are_the_same(threat: str, part: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if part is not None:
        monkeypatch.setattr("verifier.pace.Pace._affordable", lambda self, price: part)
        monkeypatch.setattr("verifier.pace.workers", lambda device: part)
    model = small_mlp()
    x, label = labelled(model, (12,), EXAMPLES)
    sets, spec = Threat.of(threat).around(x, EPS), robustness(label, 4)
    alone, watch = Verifier(model, x, stages=STAGES).run(sets, spec), Watched()
    result = Verifier(model, x, stages=STAGES).run(sets, spec, watch=watch)
    for k in range(EXAMPLES):
        assert_same(said(result, k), said(alone, k))
    for k, answer in watch.answers.items():
        assert_same(answer, said(result, k))
    assert {k for k, verdict in enumerate(result.verdict) if verdict.value != "unknown"} <= {*watch.answers}
    assert {s.value for s in result.verdict} >= {"verified", "falsified"}
    if threat == "linf":
        assert all(watch.at[k] == result.decided_by[k] for k in watch.answers)
        costs = [(s.name, s.decided, s.attempted) for s in result.stages]
        assert costs == [(s.name, s.decided, s.attempted) for s in alone.stages]
        assert costs == [(s.name, s.decided, s.attempted) for s in watch.steps]


def test_what_the_last_stage_leaves_open_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part: nobody waits for the others."""
    monkeypatch.setattr("verifier.pace.Pace._affordable", lambda self, price: 1)
    model, watch = small_mlp(), Watched()
    x, label = labelled(model, (12,), EXAMPLES)
    verifier = Verifier(model, x, stages=["clean", "interval", "dual"])
    result = verifier.run(Threat.of("linf").around(x, 0.2), robustness(label, 4), watch=watch)
    assert [*watch.answers] != sorted(watch.answers) and {*watch.answers} == {*range(EXAMPLES)}
    assert result.summary()["unknown"] > 2
    for k, answer in watch.answers.items():
        assert_same(answer, said(result, k))


def test_a_cascade_of_networks_tells_of_its_stages() -> None:
    model, watch = small_mlp(), Watched()
    x, label = labelled(model, (12,), 6)
    cascade = NetworkCascade((model, small_mlp(seed=1)), EPS)
    result = cascade.prepared(x).run(cascade.around(x), robustness(label, 4), watch=watch)
    assert watch.stages[:2] == ["interval", "dual"] and watch.answers == {}
    assert all(next(iter(e)) == "network 0: interval" for e in result.spent)


def test_what_a_watcher_raises_ends_the_run() -> None:
    class Refusing(Watched):
        def settled(self, places: Sequence[int], result: Result) -> None:
            raise OSError("enough")

    model = small_mlp()
    x, label = labelled(model, (12,), 4)
    with pytest.raises(OSError, match="enough"):
        Verifier(model, x).run(Threat.of("linf").around(x, EPS), robustness(label, 4), watch=Refusing())


def test_stages_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = small_mlp()
    x, label = labelled(model, (12,), 4)
    with caplog.at_level(logging.DEBUG, "verifier"):
        Verifier(model, x, stages=["interval"]).run(Threat.of("linf").around(x, EPS), robustness(label, 4))
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines[0] == ("DEBUG", "stage interval begins with 4 examples")
    assert lines[1][0] == "INFO" and lines[1][1].startswith("stage interval decided 0 of 4 in ")
    root = logging.getLogger("verifier")
    assert root.handlers == [] and root.level == logging.NOTSET
    assert torch.is_grad_enabled()


def test_verify_calls_back_with_its_counts() -> None:
    model, told = small_mlp(), list[Verdicts]()
    x, label = labelled(model, (12,), EXAMPLES)
    result = verify(model, x, EPS, label=label, stages=STAGES, progress=told.append)
    counts = result.summary()
    assert told[0] == Verdicts(EXAMPLES) and told[-1] == Verdicts(
        EXAMPLES, counts["verified"], counts["falsified"], counts["unknown"]
    )
    assert [t.done for t in told] == sorted(t.done for t in told) and len({t.done for t in told}) > 2
    assert list(dict.fromkeys(t.stage for t in told if t.stage)) == [s.name for s in result.stages]


def test_verify_shows_progress_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_mlp()
    x, label = labelled(model, (12,), EXAMPLES)
    result = verify(model, x, EPS, label=label, stages=STAGES, progress=True)
    said, counts = capsys.readouterr(), result.summary()
    text = "  ".join(f"{name} {count}" for name, count in counts.items())
    assert said.out == "" and said.err.splitlines() == [f"0/{EXAMPLES}", f"{EXAMPLES}/{EXAMPLES}  {text}"]
    verify(model, x[:2], EPS, label=label[:2], stages=STAGES)
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_of_the_callback_ends_the_call() -> None:
    def stop(counts: Verdicts) -> None:
        if counts.stage == "dual":
            raise KeyboardInterrupt

    model = small_mlp()
    x, label = labelled(model, (12,), 4)
    with pytest.raises(KeyboardInterrupt):
        verify(model, x, EPS, label=label, progress=stop)
