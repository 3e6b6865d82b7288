"""What needs more memory than the machine has left is refused before it is taken: UNKNOWN, with that reason."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import InputError, Reason, Verdict, Verifier, bounds
from verifier.bound_map import Bounds
from verifier.branching.plan import Efforts
from verifier.budget import Budget
from verifier.device import ask_memory, free_memory
from verifier.policy import Ladder
from verifier.stages import REGISTRY
from verifier.stages.branch import BranchStage
from verifier.testing.limits import DeepBlocks
from verifier.zonotope import region


@cache
def deep() -> tuple[Verifier, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(1, 1, 6, 6)
    return Verifier(DeepBlocks(4).eval(), x), x.expand(40, -1, -1, -1)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_batch_that_does_not_fit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, x = deep()
    spec, ball = robustness(verifier.predict(x).argmax(1), 4), LinfBall(x, 0.2)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 2.0**19)
    found = verifier.climb(Ladder([REGISTRY[name]()], adapts=False), ball, spec, Budget(5.0))
    assert set(found.verdict) == {Verdict.UNKNOWN}
    assert set(found.reason) <= {Reason.MEMORY, Reason.UNSUPPORTED}


def wide() -> tuple[Verifier, Tensor]:
    """With one layer of neurons between its matrices, which is what `sdp` is about."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    x = torch.rand(1, 1, 6, 6)
    return Verifier(net, x), x


@pytest.mark.parametrize("name", ["dual", "dual-optimised", "zonotope", "zonotope-learned", "sdp", "branch"])
def test_what_a_stage_is_about_to_take_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole batch has room, as the first to ask learns; nothing that the stage itself asks for has."""
    verifier, x = wide() if name == "sdp" else deep()
    one, answers = x[:1], [math.inf]
    spec, ball = robustness(verifier.predict(one).argmax(1), 4), LinfBall(one, 0.2)
    asked: list[int] = []

    def left() -> float:
        asked.append(1)
        return answers.pop() if answers else 0.0

    monkeypatch.setattr("verifier.device._SMALL", 0)
    monkeypatch.setattr("verifier.device.free_memory", left)
    found = verifier.climb(Ladder([REGISTRY[name]()], adapts=False), ball, spec, Budget(20.0))
    assert len(asked) > 1
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.MEMORY


def test_a_tree_without_room_for_its_matrices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neurons are bounded, and then there is no room for what is to be split."""
    verifier, x = deep()
    one = x[:1]
    spec, ball = robustness(verifier.predict(one).argmax(1), 4), LinfBall(one, 0.2)
    monkeypatch.setattr("verifier.branching.prove.has_room", lambda size: False)
    found = verifier.climb(Ladder([REGISTRY["branch"]()], adapts=False), ball, spec, Budget(20.0))
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.MEMORY


def test_open_subdomains_take_no_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree ends where the queue of its open leaves is full, whatever the stage itself would allow."""
    verifier, x = wide()
    spec, ball = robustness(verifier.predict(x).argmax(1), 4), LinfBall(x, 0.02)
    climbed = [Ladder([BranchStage(efforts=Efforts(most=0))], adapts=False), ball, spec, Budget(20.0)]
    whole = verifier.climb(*climbed)
    monkeypatch.setattr("verifier.branching.search.free_memory", lambda: 1.0)
    ended = verifier.climb(*climbed)
    assert whole.verdict[0] is Verdict.VERIFIED
    assert ended.verdict[0] is Verdict.UNKNOWN and ended.reason[0] is Reason.BUDGET


def test_bounds_without_room_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x = deep()
    net = DeepBlocks(4).eval()
    monkeypatch.setattr("verifier.device._SMALL", 0)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 0.0)
    with pytest.raises(InputError, match="needs more memory for this network"):
        bounds(net, x[:1], 0.2, "crown")


def test_generators_without_room_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, x = wide()
    graph = verifier.graph
    zone = region(graph, LinfBall(x, 0.2), Bounds(), graph.pre_activations[0])
    monkeypatch.setattr("verifier.device._SMALL", 0)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 4.0 * zone.errors * zone.center.numel())
    with pytest.raises(MemoryError):
        _ = zone.generators


MEMINFO = "MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable: 800 kB\n"


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        ("0::/", {}, 800.0),
        ("0::/", {"memory.max": "max\n", "memory.current": "5\n"}, 800.0),
        ("0::/", {
            "memory.max": "409600", "memory.current": "102400", "memory.stat": "anon 5\ninactive_file 1024",
        }, 301.0),
        ("0::/a/b", {"a/memory.max": "204800", "a/memory.current": "102400", "a/b/memory.max": "max"}, 100.0),
        ("0::/not/seen/from/inside", {"memory.max": "204800", "memory.current": "409600"}, 0.0),
        ("4:cpu:/\n3:memory:/x\n0::/", {
            "memory/x/memory.limit_in_bytes": "204800", "memory/x/memory.usage_in_bytes": "102400",
            "memory/x/memory.stat": "total_inactive_file 2048\ninactive_file 1",
        }, 102.0),
        ("4:memory:/", {"memory/memory.limit_in_bytes": str(2**63), "memory/memory.usage_in_bytes": "1"}, 800.0),
    ],
    ids=["nothing", "no limit", "limit", "of the one above", "container", "version 1", "version 1, no limit"],
)  # fmt: skip
def test_the_limit_of_a_container_counts(
    group: str, files: dict[str, str], left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In kB, from files as the system has them."""
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": group + "\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr("verifier.device._PROC", tmp_path / "proc")
    monkeypatch.setattr("verifier.device._GROUPS", tmp_path / "groups")
    assert free_memory() == 1024.0 * left
    ask_memory(1024.0 * left * 0.7)
    monkeypatch.setattr("verifier.device._SMALL", 0)
    with pytest.raises(MemoryError):
        ask_memory(1024.0 * left * 0.9 + 1)


def test_a_machine_that_does_not_say_is_asked_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.device._PROC", tmp_path)
    assert free_memory() == math.inf


@pytest.mark.parametrize("name", ["lp", "milp-1"])
def test_a_program_that_does_not_fit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One example's bounds have room, the matrices of its convolutions have none."""
    verifier, x = deep()
    one = x[:1]
    spec, ball = robustness(verifier.predict(one).argmax(1), 4), LinfBall(one, 0.2)

    def refused(size: float) -> None:
        raise MemoryError

    monkeypatch.setattr("verifier.ops.conv.ask_memory", refused)
    found = verifier.climb(Ladder([REGISTRY[name]()], adapts=False), ball, spec, Budget(20.0))
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.MEMORY
