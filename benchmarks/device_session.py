"""What a CUDA device does in ten minutes: tests, the figures of docs/performance.md, steps of training, and training.

    python benchmarks/device_session.py --nets DIR --data DIR [--out device.json] [--only PART ...] [--seconds 600]

`make bench-device` is this. NETS has wk_mnist.onnx; DATA has mnist/, cifar10/ and vnncomp/ with oval21 and
cifar10_resnet. Parts, each in a process of its own that ends when its time is over:

- tests: `make test-device`, on the device that is there;
- steps: one step of each training method (seconds, waits for the device, peak memory), and those of two methods with
  each setting of `training.passes`;
- mnist: wk_mnist at eps 0.1, all test images, by `dual`, by `dual-optimised` and by the default ladder;
- oval21, resnet: instances of these benchmarks, `branch` on the device;
- train: `small` on CIFAR-10 by mtl-ibp, for as long as is left.

The file of results is written after each part: a part that fails, or whose time is over, costs no other, and what it
had found until then is there. --device cpu tries the script: every part at tiny sizes, which --tiny gives a device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from data_sets import images
from torch import Tensor, nn

from properties.device import checked_before
from properties.vnnlib_floats import batches
from properties.vnnlib_hull import float32_hull
from training import History, train
from training.architectures import architecture
from training.method import METHODS, Progress
from training.network import NetworkInTraining
from training.passes import Passes
from training.testing import example
from training.watcher import Watcher
from verifier import Verifier, certify
from verifier.certification.store import versions
from verifier.graph.onnx_model import OnnxModel
from verifier.vnncomp.bench_list import instances_of
from verifier.vnncomp.solve import read_property

ROOT = Path(__file__).resolve().parents[1]
Found = Iterator[dict[str, Any]]

#: seconds of each part of ten minutes; what it does not need is the next one's
SHARES = {"tests": 100, "steps": 110, "mnist": 150, "oval21": 60, "resnet": 60, "train": 120}
PASSES = {
    "plain": Passes(), "bfloat16": Passes(amp="bfloat16"), "compiled": Passes(compile=True),
    "channels last": Passes(channels_last=True),
}  # fmt: skip
SETTINGS = {"dual": {"projections": 10}, "layerwise": {"projections": 10}, "norms": {"norm": "spectral"}}
#: a bound of one's own for every neuron takes the ladder's cheap stages before it
BRANCHED = ("interval", "dual-adaptive", "dual-optimised", "branch")


def on_cuda(options: argparse.Namespace) -> bool:
    return options.device.startswith("cuda")


def peak(options: argparse.Namespace) -> float | None:
    """MiB that the device has held at most since this was asked for before; None of a CPU."""
    if not on_cuda(options):
        return None
    most = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return round(most, 1)


def finished(options: argparse.Namespace) -> float:
    """The time, when the device has done all that it was given."""
    if on_cuda(options):
        torch.cuda.synchronize()
    return time.perf_counter()


# --- the parts


def tests(options: argparse.Namespace) -> Found:
    """The tests of the device; as tiny as it can be, they are only listed."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "device.plugin", "tests/device"]
    words += ["--collect-only"] if options.tiny else []
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    yield {"passed": done.returncode == 0, "said": lines[-1:], "failed": [x for x in lines if x.startswith("FAILED")]}


def steps(options: argparse.Namespace) -> Found:
    """A step of each method, at its last radius, and of two with each way to call the module."""
    for name in sorted(METHODS):
        yield told(options, name, None, name)
    for name in ("adversarial", "mtl-ibp"):
        for said, passes in PASSES.items():
            yield told(options, name, passes, f"{name}, {said}")


def told(options: argparse.Namespace, name: str, passes: Passes | None, title: str) -> dict[str, Any]:
    """`step`, or why there is none."""
    try:
        return {"step": title, **step(options, name, passes)}
    except Exception as error:
        return {"step": title, "error": f"{type(error).__name__}: {error}"}


def step(options: argparse.Namespace, name: str, passes: Passes | None) -> dict[str, Any]:
    """The median second of a step, how often the host waited in one, and the peak of memory.

    Args:
        passes: how the module is called, on images of CIFAR-10's size; None: as ever, on those of MNIST.
    """
    torch.manual_seed(0)
    method, model = example(METHODS[name])
    shape, batch = (1, 8, 8), method.batch
    if not options.tiny:
        batch, shape = 128, (1, 28, 28)
        layers = [nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10)]
        model = nn.Sequential(*layers) if name == "sdp" else architecture("small", shape, 10)
    if passes is not None:
        shape = (3, 32, 32)
        model = architecture("small", shape, 10)
    method = replace(method, eps=0.1, batch=batch, **SETTINGS.get(name, {}))
    model = model.to(options.device).train()
    x = torch.rand(batch, *shape).to(options.device)
    network = NetworkInTraining(model, x, passes)
    label = torch.randint(network.classes, (batch,)).to(options.device)
    run = method.begin(network, torch.Generator().manual_seed(0))
    progress = Progress(99, 0, 1, 100)
    optimiser = method.optimiser.over(run.parameters(progress))
    times, waits = [], 0
    peak(options)
    for k in range(2 if options.tiny else 8):
        began = finished(options)
        with checked_before(), counted(options) as seen:
            optimiser.zero_grad()
            run.loss(x, label, progress).value.backward()
            optimiser.step()
        times.append(finished(options) - began)
        waits = len(seen) if k else 0
    counts = {"waits": waits if hasattr(torch._C, "_cuda_set_sync_debug_mode") else None}
    return {"seconds": round(sorted(times[1:])[len(times[1:]) // 2], 5), **counts, "peak_mib": peak(options)}


class counted(warnings.catch_warnings):
    """Inside, torch tells of each wait for the device: a list of what it told."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(record=True)
        self.asked = on_cuda(options) and hasattr(torch._C, "_cuda_set_sync_debug_mode")

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("always")
        if self.asked:
            torch.cuda.set_sync_debug_mode("warn")
        return found

    def __exit__(self, *about: object) -> None:
        if self.asked:
            torch.cuda.set_sync_debug_mode("default")
        super().__exit__(*about)


def mnist(options: argparse.Namespace) -> Found:
    """wk_mnist by two stages alone, and by the ladder."""
    network, x, y = digits(options)
    for stages in (["dual"], ["dual-optimised"], None):
        began = finished(options)
        report = certify(
            network, x, y, 0.1, clip=(0, 1), device=options.device, stages=stages, progress=False,
            example_budget=5.0 if stages is None else None,
        )  # fmt: skip
        counts = report.summary()
        kept = ("examples", "verified", "falsified", "undecided")
        trust = Counter("none" if row.trust is None else row.trust.name for row in report.rows())
        yield {
            "stages": stages or "ladder", "seconds": round(finished(options) - began, 2), "trust": dict(trust),
            **{name: counts[name] for name in kept if name in counts}, "peak_mib": peak(options),
        }  # fmt: skip


def digits(options: argparse.Namespace) -> tuple[Any, Tensor, Tensor]:
    """The network and its test images; at tiny sizes those of the demo."""
    if options.tiny or options.nets is None:
        from verifier.demo import held_out_digits, network

        x, y = held_out_digits()
        return network(), x[:4], y[:4]
    from lp_warm_start import read

    return read(options.nets / "wk_mnist.onnx"), *images(options.data, "mnist")


def oval21(options: argparse.Namespace) -> Found:
    return branched(options, "oval21")


def resnet(options: argparse.Namespace) -> Found:
    return branched(options, "cifar10_resnet")


def branched(options: argparse.Namespace, name: str) -> Found:
    """Instances of a benchmark, one after the other, until the time is over."""
    listed = options.data / "vnncomp" / name / "instances.csv" if options.data is not None else Path()
    if not listed.is_file():
        yield {"skipped": f"there is no vnncomp/{name}/instances.csv in --data"}
        return
    for instance in instances_of(listed)[: 1 if options.tiny else None]:
        model, prop = OnnxModel.load(instance.network), read_property(instance.property_file)
        part = batches(float32_hull(prop), 1)[0]
        box, began = part.box(model.input_shape), finished(options)
        verifier = Verifier(model, box.center().float(), stages=BRANCHED, device=options.device)
        result = verifier.run(box, part.spec, example_budget=1.0 if options.tiny else 20.0)
        yield {
            "instance": instance.name, "verdict": result.verdict[0].value, "by": result.decided_by[0],
            "seconds": round(finished(options) - began, 2), "peak_mib": peak(options),
        }  # fmt: skip


class Until(Watcher):
    """Ends a run when its time is over, and counts its steps."""

    def __init__(self, end: float) -> None:
        self.end, self.steps, self.history = end, 0, History({})

    def began(self, history: History, epochs: int, steps: int) -> None:
        self.history = history

    def stepped(self, progress: Progress, loss: Tensor) -> None:  # loss []
        self.steps += 1
        if time.monotonic() > self.end:
            raise KeyboardInterrupt

    def warned(self, text: str) -> None:
        pass


def train_small(options: argparse.Namespace) -> Found:
    """Ends a little before its process does."""
    shape = (3, 32, 32)
    if not options.tiny and options.data is not None:
        data = images(options.data, "cifar10", "train")
    else:
        data = torch.rand(64, *shape), torch.arange(64) % 10
    watcher = Until(time.monotonic() + options.seconds - min(10.0, options.seconds / 2))
    method = METHODS["mtl-ibp"](eps=2 / 255, batch=32 if options.tiny else 128, alpha=0.03)
    torch.manual_seed(0)
    began = finished(options)
    with suppress(KeyboardInterrupt):  # the watcher's
        train(
            architecture("small", shape, 10), data, method, epochs=2 if options.tiny else 200,
            device=options.device, measure_every=10, watcher=watcher,
        )  # fmt: skip
    seconds = finished(options) - began
    rows = [row for row in watcher.history.rows if row["clean"] is not None]
    yield {
        "steps": watcher.steps, "seconds": round(seconds, 2), "epochs": len(watcher.history.rows),
        "last_measured": rows[-1] if rows else None, "peak_mib": peak(options),
    }  # fmt: skip


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "tests": tests, "steps": steps, "mnist": mnist, "oval21": oval21, "resnet": resnet, "train": train_small
}  # fmt: skip


# --- one after the other


def in_process(part: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """A part in a process of its own: what it found, how long it took, and how it ended."""
    words = [sys.executable, __file__, "--here", "--only", part, "--seconds", str(seconds), "--device", options.device]
    for name in ("nets", "data"):
        words += [f"--{name}", str(getattr(options, name))] if getattr(options, name) is not None else []
    words += ["--tiny"] if options.tiny else []
    began, ended, why = time.monotonic(), "whole", ""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=out, stderr=errors)
        try:
            if process.wait(seconds):
                ended = f"failed with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = "its time was over"
        out.seek(0)
        errors.seek(0)
        found = [json.loads(line) for line in out if line.startswith("{") and line.endswith("}\n")]
        why = errors.read().strip()[-2000:]
    took = round(time.monotonic() - began, 1)
    return {"ended": ended, "seconds": took, "found": found, **({"stderr": why} if ended != "whole" else {})}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, help="folder with wk_mnist.onnx")
    parser.add_argument("--data", type=Path, help="folder with mnist/, cifar10/ and vnncomp/")
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="file of results")
    parser.add_argument("--only", action="append", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for all parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="all parts at tiny sizes")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.tiny = options.tiny or not on_cuda(options)
    if on_cuda(options) and not torch.cuda.is_available():
        parser.exit(1, f"no CUDA device: torch {torch.__version__} finds none here. --device cpu tries the script\n")
    if not options.tiny and (options.nets is None or options.data is None):
        parser.exit(1, "give --nets and --data: the folders with the networks and the data sets\n")
    names = options.only or list(PARTS)
    if options.here:
        for name in names:
            for found in PARTS[name](options):
                print(json.dumps(found), flush=True)
        return
    run(names, options)


def run(names: list[str], options: argparse.Namespace) -> None:
    """The parts; what one leaves of its share goes to those after it."""
    end = time.monotonic() + options.seconds
    name = torch.cuda.get_device_name() if on_cuda(options) else "CPU"
    results: dict[str, Any] = {"device": name, "versions": versions(), "parts": {}}
    for k, part in enumerate(names):
        share = SHARES[part] / sum(SHARES[other] for other in names[k:])
        results["parts"][part] = in_process(part, max(1.0, share * (end - time.monotonic())), options)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {results['parts'][part]['ended']}, {results['parts'][part]['seconds']} s", flush=True)
    print(options.out)


if __name__ == "__main__":
    main()
