"""Several threads in one process: each gets the answer that it gets alone, and what belongs to the process stays."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from properties import Perturbation
from verifier import verify
from verifier.api import Verifier
from verifier.arithmetic import precise_arithmetic
from verifier.errors import UnsupportedError
from verifier.graph.tracing import running_modules, tracing
from verifier.relaxation.parallel import ordered_map
from verifier.result import Result

#: what the user may have set, in the older interface and in the newer one
SETTINGS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "older: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older: no TF32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "newer: ieee everywhere": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "newer: TF32 everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "newer: bfloat16 in one": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "newer: ieee in one": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}
KEYS = [(b, o) for b in ("cuda", "mkldnn") for o in ("all", "matmul", "conv", "rnn")]


def precisions() -> dict[str, str]:
    get: Any = torch._C._get_fp32_precision_getter
    return {f"{b}.{o}": get(b, o) for b, o in [("generic", "all"), *KEYS]}


def older_interface() -> list[object]:
    """What it says, or that it refuses."""
    said: list[object] = []
    for ask in (torch._C._get_cudnn_allow_tf32, torch._C._get_cublas_allow_tf32, torch.get_float32_matmul_precision):
        try:
            said.append(ask())
        except RuntimeError:
            said.append("refuses")
    return said


def of_the_process() -> tuple[object, ...]:
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if getattr(logger, "filters", None)]
    return (
        precisions(), older_interface(), list(warnings.filters), sys.stderr, loggers, torch.get_num_threads(),
        torch._C._get_nnpack_enabled(), torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled(),
    )  # fmt: skip


@pytest.fixture
def defaults() -> Iterator[None]:
    """A process in which nobody has set anything, before the test and after it."""

    def reset() -> None:
        for key in [("generic", "all"), *KEYS]:
            torch._C._set_fp32_precision_setter(*key, "none")  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True

    reset()
    yield
    reset()


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    ).eval()  # fmt: skip


def same(a: Result, b: Result) -> bool:
    return a.verdict == b.verdict and torch.allclose(a.margins, b.margins, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("defaults")
def test_threads_get_the_answers_that_they_get_alone() -> None:
    models = [network(k % 2) for k in range(4)]
    models[3] = models[0]  # one object in two threads
    torch.manual_seed(0)
    inputs = [torch.rand(6, 16) for _ in models]
    ready = Verifier(models[1], inputs[1])
    torch.set_float32_matmul_precision("medium")
    before, switching = of_the_process(), sys.getswitchinterval()
    sys.setswitchinterval(1e-4)

    def one(k: int) -> Result:
        if k == 1:  # made ready before, as a server would
            return ready.run_own(inputs[k], Perturbation(0.03).around(inputs[k]))
        return verify(models[k], inputs[k], 0.03)

    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(one, [0, 1, 2, 3, 1, 0, 3, 2]))
    finally:
        sys.setswitchinterval(switching)
    assert of_the_process() == before
    alone = [one(k) for k in range(4)]
    assert all(same(found, alone[k]) for found, k in zip(together, [0, 1, 2, 3, 1, 0, 3, 2], strict=True))
    assert len({v for result in alone for v in result.verdict}) > 1


def test_a_notebook_may_verify_beside_its_event_loop() -> None:
    model, x = network(0), torch.rand(2, 16)

    async def both() -> list[Result]:
        return await asyncio.gather(*(asyncio.to_thread(verify, model, x, eps) for eps in (0.01, 0.02)))

    assert all(same(a, verify(model, x, eps)) for a, eps in zip(asyncio.run(both()), (0.01, 0.02), strict=True))


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("one", SETTINGS)
def test_settings_of_precision_are_the_users_again(one: str) -> None:
    for other in SETTINGS:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
        SETTINGS[one]()
        SETTINGS[other]()
        before = precisions(), older_interface()
        with precise_arithmetic():
            assert set(precisions().values()) == {"ieee"} and older_interface() == [False, False, "highest"], other
        assert (precisions(), older_interface()) == before, other


@pytest.mark.usefixtures("defaults")
def test_what_follows_the_whole_still_does_afterwards() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
    with precise_arithmetic():
        pass
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    assert torch.backends.mkldnn.conv.fp32_precision == "ieee"  # type: ignore[attr-defined]
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


@pytest.mark.usefixtures("defaults")
def test_precision_holds_until_the_last_one_leaves() -> None:
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with precise_arithmetic():
            inside.set()
            leave.wait(10)

    with precise_arithmetic():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
    assert set(precisions().values()) == {"ieee"}
    leave.set()
    thread.join()
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("setting", ["newer: ieee everywhere", "newer: ieee in one", "newer: TF32 everywhere"])
def test_networks_are_imported_under_any_setting(setting: str) -> None:
    """torch.export refuses these by itself."""
    model, x = network(0), torch.rand(2, 16)
    expected = verify(model, x, 0.02)
    SETTINGS[setting]()
    before = precisions()
    assert same(verify(model, x, 0.02), expected) and precisions() == before


def test_modules_wait_for_a_thread_that_traces_and_nobody_for_itself() -> None:
    order: list[str] = []

    def run() -> None:
        with running_modules():
            order.append("ran")

    with tracing():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.2)
        with running_modules(), tracing():
            order.append("traced")
    thread.join(10)
    assert order == ["traced", "ran"]


def test_a_failed_import_lets_the_others_go_on() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:  # [B, 16]
            return x * 2 if x.sum() > 0 else x

    def one(model: nn.Module) -> str:
        try:
            return verify(model, torch.ones(1, 16), 0.0).verdict[0].value
        except UnsupportedError:
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(one, [Odd().eval(), network(0)])) == {"refused", "verified"}


def test_what_other_threads_say_is_heard_while_a_network_is_traced(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("torch.of_the_test")

    def say(text: str) -> None:
        print(text, file=sys.stderr)
        logger.warning(text)

    with tracing():
        say("own")
        thread = threading.Thread(target=say, args=("other",))
        thread.start()
        thread.join()
    say("after")
    assert capsys.readouterr().err.split() == ["other", "after"]
    assert [record.message for record in caplog.records] == ["other", "after"]


def test_threads_that_begin_beside_a_pool_keep_the_number_of_cores() -> None:
    counts: list[int] = []
    all_are_there = threading.Barrier(3, timeout=10)

    def begin(item: int) -> None:
        if item < 3:  # one for each worker
            all_are_there.wait()
        thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        thread.start()
        thread.join()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.no_grad():
            ordered_map(begin, range(6), torch.device("cpu"))
        begin(6)
        assert counts == [3] * 7 and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
