"""Images per second of the dual stage, with auto_LiRPA's CROWN on the same images in the same run.

    python benchmarks/dual_vs_auto_lirpa.py --onnx wk_mnist.onnx --data mnist_test.npz \\
        --peer-python PEER/bin/python --images 10000 --peer-images 512

The network is Wong & Kolter's `small` (weights from the ONNX file), the set an unclipped l-infinity ball, all nine
margins of every image. Each side runs in a process of its own, in turn, `--rounds` times; the ratio is per round.
The peer's environment: pip install torch==2.13.0 "numpy<2" "setuptools<81" appdirs tqdm, then
pip install --no-deps auto-lirpa==0.3. Without --peer-python only this project is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

PEER = Path(__file__).with_name("peer_auto_lirpa.py")


def read_network(onnx_file: Path, data: Path, count: int) -> dict[str, np.ndarray]:
    """Weights w0, b0, ... in order, and the first `count` test images and labels."""
    import onnx
    from onnx import numpy_helper

    tensors = [numpy_helper.to_array(t) for t in onnx.load(str(onnx_file)).graph.initializer]
    arrays = {f"{'wb'[i % 2]}{i // 2}": t for i, t in enumerate(tensors)}
    with np.load(data) as archive:
        arrays["images"] = archive["images"][:count, None].astype(np.float32) / np.float32(255)
        arrays["labels"] = archive["labels"][:count].astype(np.int64)
    return arrays


def small_network(arrays: dict[str, np.ndarray]) -> nn.Module:
    """Wong & Kolter's `small` network with the given weights."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.from_numpy(arrays[f"{'wb'[i % 2]}{i // 2}"].copy()))
    return network


def measure_ours(weights: Path, slopes: str, eps: float, out: Path, threads: int) -> dict[str, object]:
    """Bound all margins with the dual stage; runs in a fresh process."""
    import torch

    from properties import LinfBall, robustness
    from verifier.arithmetic import precise_arithmetic
    from verifier.bound_map import Bounds
    from verifier.budget import Budget
    from verifier.graph.torch_import import import_torch
    from verifier.ops.base import SlopeRule
    from verifier.query import Query
    from verifier.stages.dual import DualStage

    torch.set_num_threads(threads)
    with np.load(weights) as archive:
        arrays = {k: archive[k] for k in archive.files}
    network = small_network(arrays)
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    graph = import_torch(network, images[:1]).to(dtype=torch.float32)
    stage = DualStage(SlopeRule(slopes))
    lowers = []
    with precise_arithmetic(), torch.no_grad():
        began = time.perf_counter()
        for start in range(0, len(images), 512):
            part = slice(start, start + 512)
            query = Query.of(graph, LinfBall(images[part], eps), robustness(labels[part], 10))
            lowers.append(stage.run(query, Bounds(), Budget()).lower)
        seconds = time.perf_counter() - began
    lower = torch.cat([x for x in lowers if x is not None])
    np.savez(out, margins=lower.numpy())
    return {
        "name": f"dual stage, {slopes} slopes",
        "images": len(images),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "verified": int((lower > 0).all(1).sum()),
    }


def run_json(command: list[str]) -> dict[str, object]:
    """The last line of a command's output as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def difference(ours: Path, theirs: Path, labels: np.ndarray) -> str:
    """How our margins compare with the peer's, where both have them."""
    mine, peer = np.load(ours)["margins"], np.load(theirs)["margins"]
    count = len(peer)
    others = np.arange(10)[None, :] != labels[:count, None]
    gap = mine[:count] - peer[others].reshape(count, 9)
    low, middle, high = np.quantile(gap, [0.0, 0.5, 1.0])
    return f"our margin minus the peer's: least {low:.2e}, median {middle:.2e}, most {high:.2e}"


def command_line(description: str | None, images: int, peer_batches: str) -> argparse.ArgumentParser:
    """What every comparison with the peer takes, with its own defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--peer-batches", default=peer_batches, help="several: the fastest on the first images is used")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("WEIGHTS", "MODE", "OUT"), help=argparse.SUPPRESS)
    return parser


def start(
    parser: argparse.ArgumentParser,
    measure: Callable[[Path, str, float, Path, int], dict[str, object]],
    compare: Callable[[argparse.Namespace, Path], None],
) -> None:
    """One measurement in this process (--one), or the whole comparison, which starts those."""
    options = parser.parse_args()
    if options.one:
        weights, mode, out = options.one
        print(json.dumps(measure(Path(weights), mode, options.eps, Path(out), options.threads)))
        return
    if not (options.onnx and options.data):
        parser.error("--onnx and --data are needed")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def main() -> None:
    parser = command_line(__doc__, 10_000, "8,16,32,64")
    parser.add_argument("--peer-images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    start(parser, measure_ours, compare)


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Alternate the sides, print each figure, then medians and ratios."""
    arrays = read_network(options.onnx, options.data, options.images)
    full, few = folder / "full.npz", folder / "few.npz"
    np.savez(full, **arrays)
    np.savez(few, **{k: v[: options.peer_images] if k in ("images", "labels") else v for k, v in arrays.items()})
    common = ["--eps", str(options.eps), "--threads", str(options.threads)]
    speeds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for slopes in ("fixed", "adaptive"):
            out = folder / f"{slopes}.npz"
            result = run_json([sys.executable, __file__, *common, "--one", str(full), slopes, str(out)])
            report(result, speeds)
        if options.peer_python:
            out = folder / "peer.npz"
            batches = ["--batch-sizes", options.peer_batches, "--slopes", "adaptive"]
            command = [str(options.peer_python), str(PEER), "--weights", str(few), *common, *batches, "--out", str(out)]
            result = run_json(command)
            name = f"auto_LiRPA {result['version']} CROWN, batch {result['batch_size']}"
            report({**result, "name": name}, speeds, "peer")
    for name, values in speeds.items():
        print(f"median {statistics.median(values):8.1f} images/s  {name}")
    if options.peer_python:
        adaptive = speeds["dual stage, adaptive slopes"]
        ratios = [a / b for a, b in zip(adaptive, speeds["peer"], strict=True)]
        print(f"ratio adaptive / peer per round: {', '.join(f'{r:.1f}' for r in ratios)}")
        print(difference(folder / "adaptive.npz", folder / "peer.npz", arrays["labels"]))


def report(result: dict[str, object], speeds: dict[str, list[float]], key: str | None = None) -> None:
    """Print one measurement and keep its speed."""
    speed, peak = float(str(result["images_per_second"])), float(str(result["peak_rss_mib"]))
    speeds.setdefault(key or str(result["name"]), []).append(speed)
    print(
        f"{speed:8.1f} images/s  {peak:6.0f} MiB peak  {result['verified']} of {result['images']} verified  "
        f"{result['name']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
