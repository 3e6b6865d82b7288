"""What settings, verdicts and trust mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifier.certification.example import ExampleOutcome
from verifier.report.subjects import CertifyRun
from verifier.verdict import Trust

#: outcome -> what it means; the tone of each is the outcome's value
OUTCOMES = {
    "verified": "proved: no allowed perturbation changes the answer",
    "falsified": "a perturbed input was found, and replayed in the network, that changes the answer",
    "misclassified": "the network is wrong on the input as it is: no perturbation was needed",
    "unknown": "neither proved nor refuted within the limits",
    "error": "the example could not be examined: it raised an error",
}

TRUST = {
    Trust.CHECKED: "every rounding error is accounted for",
    Trust.FLOAT: "our own arithmetic, its rounding not rigorously accounted for",
    Trust.SOLVER: "rests on the word of an external solver",
    Trust.PROBABILISTIC: "holds with a stated probability",
}

SEMANTICS = {
    "real": "the network as a function over the real numbers, with its weights as they are",
    "float32": "the network as float32 hardware executes it, in any order of summation",
}

_DISTANCES = {
    "linf": "no number of the input moves by more than {eps}",
    "l2": "the input moves by at most {eps} in Euclidean distance",
    "l1": "the numbers of the input move by at most {eps} in all",
}


def outcome_of(run: CertifyRun, row: Any) -> str:
    """The key in OUTCOMES of an example."""
    if row.outcome is ExampleOutcome.FALSIFIED and not run.broken(row):
        return "misclassified"
    return str(row.outcome.value)


def perturbation(settings: Mapping[str, Any]) -> str:
    """Which inputs are allowed, in a sentence without its full stop."""
    eps, threat, clip = f"{settings['eps']:.6g}", str(settings["threat"]), settings["clip"]
    other = f"the input moves within the threat model {threat} of radius {eps}"
    other = f"the input moves within the threat model {threat} of radius {eps}"
    moves = _DISTANCES[threat].format(eps=eps) if threat in _DISTANCES else other
    within = "" if clip is None else f", and every number stays within [{clip[0]:g}, {clip[1]:g}]"
    return f"{moves}{within}"


def question(settings: Mapping[str, Any]) -> str:
    """What is asked about the outputs."""
    asked = settings.get("question")
    if "rule" in settings:
        return "does the cascade answer with the label, by a network that keeps it?"
    return "does the network's answer stay the label?" if asked is None else f"does {asked} hold?"


def cascade(settings: Mapping[str, Any]) -> str | None:
    """Of a cascade of networks what it is, and what its proofs say; None of one network."""
    if "rule" not in settings:
        return None
    means = (
        "it answers where the networks before agree, and proved means that no allowed perturbation gets another label "
        "with a certificate"
        if settings["rule"] == "agreed"
        else "the first network with a certificate answers, and proved means that this network keeps the label: for a "
        "perturbed input the cascade may answer by another one"
    )
    by = ", ".join(settings["certified_by"])
    return f"{settings['networks']} networks, certified by {by}, rule {settings['rule']}: {means}"


def asked_of(settings: Mapping[str, Any]) -> str:
    """The threat model and the question, without the radius: such as "linf"."""
    asked = settings.get("question")
    return f"{settings['threat']}{'' if asked is None else f', {asked}'}"


def short(settings: Mapping[str, Any]) -> str:
    """The same with the radius: such as "linf 0.06"."""
    threat, _, asked = asked_of(settings).partition(", ")
    return f"{threat} {settings['eps']:.6g}{', ' * bool(asked)}{asked}"
