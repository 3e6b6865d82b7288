"""What a run is: which model, asked what, about which examples; and in what another run differs from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: settings that say how hard an example is tried, not what is asked of it: a session that tries again may have others
EFFORT = ("batch_size", "budget", "device", "dtype", "example_budget", "stages")


@dataclass(frozen=True)
class RunIdentity:
    """A store accepts further rows of an equal model, of equal settings, and of examples that it knows no other of."""

    model: str  #: sha256 of the network's operators and parameters
    settings: Mapping[str, Any]  #: JSON values
    examples: Mapping[int, str]  #: index of each example -> sha256 of its image and label

    @property
    def effort(self) -> dict[str, Any]:
        """Those of the settings that say how hard examples are tried."""
        return effort(self.settings)

    def settings_hash(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()

    def as_meta(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "settings": dict(self.settings),
            "settings_hash": self.settings_hash(),
            **data_meta(self.examples),
        }


def data_meta(examples: Mapping[int, str]) -> dict[str, Any]:
    """What is said of all examples of a run: a digest over their indices and digests, and how many they are."""
    lines = "".join(f"{index} {digest}\n" for index, digest in sorted(examples.items()))
    return {"data": hashlib.sha256(lines.encode()).hexdigest(), "examples": len(examples)}


def effort(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that say how hard examples are tried, as JSON has them."""
    return {key: value for key, value in json.loads(json.dumps(dict(settings))).items() if key in EFFORT}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, leave_out: tuple[str, ...] = ()) -> list[str]:
    """One line per entry of two runs' meta that differs: the model, and each setting.

    Args:
        leave_out: names of settings that may differ.
    """
    lines = []
    if old["model"] != new["model"]:
        lines.append(f"model (sha256 of operators and parameters): {old['model']} -> {new['model']}")
    before, now = old["settings"], json.loads(json.dumps(new["settings"]))  # tuples become lists, as in the store
    for key in sorted({*before, *now} - {*leave_out}):
        if before.get(key) != now.get(key) or (key in before) != (key in now):
            lines.append(f"{key}: {before.get(key, '(absent)')} -> {now.get(key, '(absent)')}")
    return lines


def changed_examples(known: Mapping[int, str], given: Mapping[int, str]) -> list[str]:
    """At most one line: of the examples that both have, those that are not the same."""
    changed = sorted(index for index, digest in given.items() if known.get(index, digest) != digest)
    if not changed:
        return []
    first, more = changed[0], len(changed) - 1
    others = f", and {more} more examples are others" if more else ""
    return [f"data (sha256 of image and label): example {first}: {known[first]} -> {given[first]}{others}"]
