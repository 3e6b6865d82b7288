"""The training loop: resumed runs equal undisturbed ones, nothing that was kept is lost, the best weights are kept."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import History, Standard, Trained, checkpoint, train
from training.evaluation import Accuracy, Measurement
from training.method import METHODS, BatchLoss, Phase, Progress, TrainingMethod, TrainingRun
from training.network import NetworkInTraining
from training.schedule import Decayed, Optimiser
from training.watcher import Watcher
from verifier.errors import InputError, StoreError, VerifierError

ROOT = Path(__file__).resolve().parents[2]
INPUTS, CLASSES, EXAMPLES, EPOCHS = 4, 3, 60, 4
STEPS = 6  # of 9 images, the last of 5, with 10 of the 60 held out


@dataclass(frozen=True, kw_only=True)
class Phased(TrainingMethod):
    """Trains the first layer, then the second, on noisy inputs; counts its steps."""

    name: ClassVar[str] = ""
    noise: float = 0.1
    stop_after: int | None = None
    blow_up: int | None = None

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _Phased(self, network, generator)


class _Phased(TrainingRun):
    method: Phased
    steps = 0

    def phase(self, epoch: int, epochs: int) -> Phase:
        half = epochs // 2
        return Phase(0, 0, half) if epoch < half else Phase(1, half, epochs - half)

    def parameters(self, progress: Progress) -> list[Tensor]:
        # also what the run knows, and not only the progress, may say what is trained
        layers = [m for m in self.network.model.modules() if isinstance(m, nn.Linear)]
        return list(layers[self.phase(progress.epoch, progress.epochs).index].parameters())

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:
        x = x + self.method.noise * torch.randn(x.shape, generator=self.generator).to(x)
        value = F.cross_entropy(self.network(x), label)
        if self.method.blow_up == progress.epoch:
            value = value * torch.inf
        return BatchLoss(value, {"steps": torch.tensor(float(self.steps))})

    def stepped(self, progress: Progress) -> None:
        self.steps += 1

    def epoch_ended(self, progress: Progress) -> str | None:
        return "enough" if self.method.stop_after == progress.epoch else None

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def method(**changes: Any) -> Phased:
    settings: dict[str, Any] = {"eps": 0.05, "clip": None, "batch": 9, "optimiser": Optimiser(rate=0.02)}
    return Phased(**{**settings, "rate": Decayed(), **changes})


def network() -> nn.Sequential:
    """With dropout, which draws from torch's global generator."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, CLASSES))


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy corners."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    return torch.eye(INPUTS)[label] + 0.4 * torch.randn(EXAMPLES, INPUTS, generator=generator), label


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order, and nothing that a forked process would miss."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.05 * torch.randn(x.shape, generator=generator).to(x)


def run(out: Path | None = None, model: nn.Module | None = None, **changes: Any) -> Trained:
    settings: dict[str, Any] = {"epochs": EPOCHS, "validation": 10, "augment": shifted, "checkpoint_seconds": 0.0}
    settings = {"data": data(), "method": method(), **settings, **changes}
    return train(network() if model is None else model, out=out, **settings)


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """They take longer than these runs."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(History, "plot", lambda self, path: None)


class Killer(Watcher):
    """Ends the process, as kill -9 does, at one of its steps (counted from 0) or after one of its epochs."""

    def __init__(self, step: int | None = None, epoch: int | None = None) -> None:
        self.left, self.epoch = step, epoch

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if self.left == progress.epoch * progress.steps + progress.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def epoch_ended(self, history: History) -> None:
        if self.epoch == len(history.rows):
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupter(Killer):
    """Raises KeyboardInterrupt there."""

    def stepped(self, progress: Progress, loss: Tensor) -> None:
        if self.left == progress.epoch * progress.steps + progress.step:
            raise KeyboardInterrupt

    def epoch_ended(self, history: History) -> None:
        if self.epoch == len(history.rows):
            raise KeyboardInterrupt


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def equal(a: Any, b: Any) -> bool:
    """To the bit, whatever it is made of."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def assert_same_run(folder: Path, other: Path) -> None:
    """Weights, optimiser, generators, log: everything but the seconds."""
    a, b = (checkpoint.load(f / "checkpoint.pt") for f in (folder, other))
    assert timeless(a.pop("rows")) == timeless(b.pop("rows"))
    for content in (a, b):
        content.pop("seconds")
        content.pop("processor")
    assert a.keys() == b.keys()
    for key in a:
        assert equal(a[key], b[key]), key
    assert (folder / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    logs = [json.loads((f / "log.json").read_text()) for f in (folder, other)]
    for log in logs:
        assert log["about"].pop("processor_minutes") >= 0
    assert timeless(logs[0].pop("epochs")) == timeless(logs[1].pop("epochs")) and logs[0] == logs[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "undisturbed"
    run(folder)
    return folder


def killed(folder: Path, **when: int) -> None:
    """The same run in a process that is killed."""
    child = os.fork()
    if child == 0:
        try:
            run(folder, watcher=Killer(**when), resume=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    "when",
    [{"step": STEPS - 1}, {"epoch": 2}, {"step": 3 * STEPS + 2}, {"epoch": 4}],
    ids=["last step", "phase", "mid-epoch", "the end"],
)  # fmt: skip
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, undisturbed: Path, when: dict[str, int]
) -> None:
    """The first phase ends after epoch 2."""
    killed(tmp_path, **when)
    assert (tmp_path / "checkpoint.pt").exists()
    trained = run(tmp_path, resume=True)
    assert_same_run(tmp_path, undisturbed)
    best = safetensors.torch.load_file(undisturbed / "best.safetensors")
    assert equal(dict(trained.model.state_dict()), best)


def test_killed_again_and_again(tmp_path: Path, undisturbed: Path) -> None:
    for step in (2, 3, 7, 12, 20):
        killed(tmp_path, step=step)
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow  # `verifier train` is resumed in another process by a test of every run of the suite
def test_a_fresh_process_resumes_too(tmp_path: Path, undisturbed: Path) -> None:
    """Nothing that names the run may depend on the process: addresses, hashes, the order of sets."""
    killed(tmp_path, step=8)
    code = "from pathlib import Path; import sys, test_training_run as t; t.run(Path(sys.argv[1]), resume=True)"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, timeout=120)
    assert_same_run(tmp_path, undisturbed)


def test_what_a_killed_process_did_not_write_is_written(tmp_path: Path, undisturbed: Path) -> None:
    """Killed between the last checkpoint and the files beside it."""
    killed(tmp_path, epoch=EPOCHS)
    for name in ("best.safetensors", "log.json", "log.csv"):
        (tmp_path / name).unlink()
    for name in ("checkpoint.pt", "curves.png"):
        (tmp_path / f"{name}.123.tmp").write_text("half of it")
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, undisturbed)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": method(noise=0.2)}, "noise was 0.1, and is 0.2"),
        ({"method": method(eps=0.06)}, "eps was 0.05"),
        ({"epochs": 5}, "epochs was 4, and is 5"),
        ({"seed": 1}, "seed was 0, and is 1"),
        ({"augment": None}, "augment was 'test_training_run.shifted', and is None"),
        ({"stages": ["interval"]}, "stages was None"),
        ({"data": data(seed=1)}, "other training data"),
        ({"model": nn.Sequential(nn.Linear(INPUTS, 12), nn.Tanh(), nn.Linear(12, CLASSES))}, "another architecture"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, undisturbed: Path, changes: dict[str, Any], said: str) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    with pytest.raises(StoreError, match=said):
        run(undisturbed, resume=True, **changes)
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before


def test_a_folder_holds_one_run(tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(StoreError, match="resume it, or give another folder"):
        run(undisturbed)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="cannot make the folder"):
        run(file)
    with pytest.raises(InputError, match="resume needs"):
        run(resume=True)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    class Second(Watcher):
        def stepped(self, progress: Progress, loss: Tensor) -> None:
            with pytest.raises(StoreError, match="being written by another run"):
                run(tmp_path, resume=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, watcher=Second())


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b[:900] + b"?" + b[901:]]
)
def test_a_damaged_checkpoint(tmp_path: Path, undisturbed: Path, damage: Callable[[bytes], bytes]) -> None:
    content = (undisturbed / "checkpoint.pt").read_bytes()
    broken = damage(content)
    assert broken != content
    (tmp_path / "checkpoint.pt").write_bytes(broken)
    with pytest.raises(StoreError, match="not a checkpoint, or a damaged one"):
        run(tmp_path, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == broken


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, watcher=Interrupter(step=8))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            run(tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_no_number_stops_the_run_and_keeps_what_was(tmp_path: Path) -> None:
    with pytest.raises(VerifierError, match=r"loss is no finite number in epoch 3.*learning rate"):
        run(tmp_path, method=method(blow_up=2), checkpoint_seconds=1e9)
    kept = checkpoint.load(tmp_path / "checkpoint.pt")
    assert kept["epoch"] == 2 and all(value.isfinite().all() for value in kept["weights"].values())


def test_weights_that_blow_up_in_the_last_step_are_not_kept(tmp_path: Path) -> None:
    """The loss was still finite."""
    model = network()

    class Spoiler(Watcher):
        def stepped(self, progress: Progress, loss: Tensor) -> None:
            if (progress.epoch, progress.step) == (1, STEPS - 1):
                model[0].weight.data[0, 0] = torch.inf

    with pytest.raises(VerifierError, match="a weight is no finite number in epoch 2"):
        run(tmp_path, model=model, watcher=Spoiler(), checkpoint_seconds=1e9)
    kept = checkpoint.load(tmp_path / "checkpoint.pt")
    assert kept["epoch"] == 1 and all(value.isfinite().all() for value in kept["weights"].values())


def accuracies(monkeypatch: pytest.MonkeyPatch, *verified: float) -> list[dict[str, Tensor]]:
    """Measurements give these verified accuracies; returns the weights that were measured."""
    seen: list[dict[str, Tensor]] = []

    def of(self: Measurement, network: NetworkInTraining, images: Tensor, labels: Tensor) -> Accuracy:
        seen.append({k: v.clone() for k, v in network.model.state_dict().items()})
        return Accuracy(0.9, 0.9, verified[len(seen) - 1])

    monkeypatch.setattr(Measurement, "of", of)
    return seen


def test_the_best_weights_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = accuracies(monkeypatch, 0.3, 0.6, 0.6, 0.5)
    trained = run(tmp_path)
    assert [row["best"] for row in trained.history.rows] == [True, True, False, False]
    assert trained.history.best is trained.history.rows[1]
    assert equal(dict(trained.model.state_dict()), seen[1])
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), seen[1])


def test_patience_and_the_rows_between_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies(monkeypatch, 0.5, 0.6, 0.6, 0.4, 0.3)
    settings: dict[str, Any] = {"epochs": 20, "measure_every": 2, "patience": 2}
    with pytest.raises(KeyboardInterrupt):  # a miss before the interruption counts
        run(tmp_path, watcher=Interrupter(epoch=7), **settings)
    history = run(tmp_path, resume=True, **settings).history
    assert [row["verified"] for row in history.rows] == [None, 0.5, None, 0.6, None, 0.6, None, 0.4]
    assert history.stopped == "no better verified accuracy in 2 measurements"
    assert len(run(tmp_path, resume=True, **settings).history.rows) == 8, "a stopped run stays stopped"


def test_the_last_epoch_is_measured_and_a_course_may_stop() -> None:
    history = run(measure_every=3).history
    assert [row["clean"] is not None for row in history.rows] == [False, False, True, True]
    history = run(method=method(stop_after=1), measure_every=3).history
    assert history.stopped == "enough" and [row["clean"] is not None for row in history.rows] == [False, True]


def test_without_validation_the_last_weights_are_kept() -> None:
    model = network()
    history = run(model=model, validation=0).history
    assert [row["best"] for row in history.rows] == [False] * (EPOCHS - 1) + [True]
    assert history.column("verified") == [None] * EPOCHS
    with pytest.raises(InputError, match="patience needs validation images"):
        run(validation=0, patience=2)


def test_validation_images_are_never_trained_on() -> None:
    """Every training image once per epoch, in another order each time, and no other."""
    images, labels = torch.arange(EXAMPLES * 1.0).unsqueeze(1).repeat(1, INPUTS) / EXAMPLES, data()[1]
    seen: list[int] = []

    def noted(x: Tensor, generator: torch.Generator) -> Tensor:
        seen.extend((x[:, 0] * EXAMPLES).round().int().tolist())
        return x

    measured: list[int] = []
    original = Measurement.of

    def of(self: Measurement, net: NetworkInTraining, x: Tensor, label: Tensor) -> Accuracy:
        measured[:] = (x[:, 0] * EXAMPLES).round().int().tolist()
        return original(self, net, x, label)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Measurement, "of", of)
        run(data=(images, labels), augment=noted, epochs=2)
    epochs = [seen[:50], seen[50:]]
    assert [sorted(epoch) for epoch in epochs] == [sorted(set(range(EXAMPLES)) - set(measured))] * 2
    assert len(measured) == 10 and epochs[0] != epochs[1] != sorted(epochs[1])


def test_seeds_decide_everything_and_the_callers_randomness_is_untouched() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    results = []
    for model_seed, seed in ((0, 0), (0, 0), (0, 1)):
        model = network()
        torch.manual_seed(7 + model_seed)
        results.append(dict(run(model=model, seed=seed).model.state_dict()))
        assert torch.equal(torch.rand(3), expected)
    assert equal(results[0], results[1]) and not equal(results[0], results[2])


def test_modes_gradients_and_no_grad() -> None:
    model = network()
    model[0].eval()
    with pytest.raises(VerifierError):
        run(model=model, method=method(blow_up=0))
    assert [m.training for m in model] == [False, True, True, True] and model.training
    assert all(p.grad is None for p in model.parameters())
    model = network()
    before = model[0].weight.clone()
    with torch.no_grad():
        trained = run(model=model)
    assert trained.model is model and not any(m.training for m in model.modules())
    assert not torch.equal(model[0].weight, before) and all(p.grad is None for p in model.parameters())


def test_a_later_phase_leaves_the_first_layer(tmp_path: Path) -> None:
    model, weights = network(), []

    class Notes(Watcher):
        def epoch_ended(self, history: History) -> None:
            weights.append([model[0].weight.clone(), model[3].weight.clone()])

    run(model=model, watcher=Notes(), method=method(optimiser=Optimiser(weight_decay=0.1)))
    changes = [[not torch.equal(x, y) for x, y in zip(a, b, strict=True)] for a, b in itertools.pairwise(weights)]
    assert changes == [[True, False], [False, True], [False, True]]


def test_tied_weights_can_be_kept(tmp_path: Path) -> None:
    first = nn.Linear(INPUTS, INPUTS)
    model = nn.Sequential(first, nn.ReLU(), first, nn.ReLU(), nn.Linear(INPUTS, CLASSES))
    trained = run(tmp_path, model=model, method=Standard(eps=0.05, clip=None))
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), dict(trained.model.state_dict()))


def test_log_and_curves(tmp_path: Path, undisturbed: Path) -> None:
    pytest.importorskip("matplotlib")
    with (undisturbed / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    log = json.loads((undisturbed / "log.json").read_text())
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3, 4] == [row["epoch"] for row in log["epochs"]]
    assert [float(line["loss"]) for line in lines] == [row["loss"] for row in log["epochs"]]
    assert float(lines[0]["train_steps"]) == pytest.approx(np.average(range(STEPS), weights=[9] * 5 + [5]))
    assert log["settings"]["noise"] == 0.1 and log["settings"]["epochs"] == 4 and log["stopped"] == ""
    assert log["epochs"][0]["rate"] == 0.02 > log["epochs"][1]["rate"]
    assert all(0 <= row["verified"] <= row["attacked"] <= row["clean"] <= 1 for row in log["epochs"])
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    History(log["settings"], []).plot(tmp_path / "empty.png")
    unmeasured = [{**row, "clean": None, "attacked": None, "verified": None} for row in log["epochs"]]
    History(log["settings"], unmeasured).plot(tmp_path / "unmeasured.png")
    with pytest.raises(StoreError, match="cannot write"):
        History(log["settings"], log["epochs"]).plot(tmp_path / "none" / "curves.png")


def test_curves_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    history = run(tmp_path, epochs=1).history
    assert not (tmp_path / "curves.png").exists() and (tmp_path / "log.csv").exists()
    with pytest.raises(InputError, match=r"rampart-verifier\[plot\]"):
        history.plot(tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"method": Phased}, "method is one with its settings"),
        ({"model": network().requires_grad_(False)}, "no parameters to train"),
        ({"data": data()[0]}, r"are \(images, labels\)"),
        ({"held_out": (data()[0][:, 1:], data()[1])}, "held-out images are"),
        ({"validation": -1}, "validation must be"),
        ({"validation": EXAMPLES}, "none would be left"),
        ({"seed": -1}, "seed must be"),
        ({"stages": "interval"}, "list of names"),
        ({"data": (data()[0].double(), data()[1])}, "float64 and the model's weights float32"),
        ({"data": (data()[0] * torch.nan, data()[1])}, "NaN or infinite"),
        ({"data": (data()[0], data()[1] + 1)}, "out of range"),
        ({"method": method(clip=(-0.5, 1.5))}, "outside the valid range"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_input(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(**changes)


def test_methods_of_tests_are_not_registered() -> None:
    assert Phased not in METHODS.values()


def test_it_learns() -> None:
    history = run(method=Standard(eps=0.01, clip=None, batch=9, optimiser=Optimiser(rate=0.02)), epochs=15).history
    assert history.rows[-1]["loss"] < 0.6 * history.rows[0]["loss"] and history.best["clean"] >= 0.8  # type: ignore[index]
