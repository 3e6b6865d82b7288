"""Benchmark peer: CROWN bounds of a small MNIST network by auto_LiRPA.

The script bounds, for every image, the nine margins "label logit minus other
logit" over an l-infinity ball around the image.  It uses nothing but
auto_LiRPA, PyTorch and NumPy, so it runs under the peer's own interpreter and
trades data with its caller through npz files and one line of JSON:

    python peer_auto_lirpa.py --weights W.npz --eps 0.1 \\
        --batch-sizes 16,64,256 --slopes adaptive --out result.npz --threads 2

W.npz holds `images` (float32, [N, 1, 28, 28]), `labels` (int64, [N]) and the
arrays w0, b0, ... w3, b3 of the network

    Conv(1->16, 4x4, stride 2, pad 1) ReLU Conv(16->32, 4x4, stride 2, pad 1)
    ReLU Flatten Linear(1568, 100) ReLU Linear(100, 10)

Each batch size is first timed on the same few images, then all images are
bounded with the fastest one; only this last pass is counted in `seconds`.
result.npz receives `margins`, [N, 10], with nan in the label's column.

With glibc, large batches lose time because each big tensor's memory goes back
to the kernel when it is freed.  MALLOC_MMAP_MAX_=0 together with a huge
MALLOC_TRIM_THRESHOLD_ in the environment keeps it, for a higher peak_rss_mib.

With `--iterations N` the slopes are optimised in N steps (CROWN-Optimized with
auto_LiRPA's own settings).  `cpu_seconds` are those of all threads.

auto_LiRPA 0.3 was made for PyTorch before 1.13 and NumPy 1.  Of PyTorch, two
things it relies on have gone since, and of NumPy one; `install_shims` puts
them back before the import without changing any installed file.  If
auto_LiRPA still cannot be imported, or cannot convert the network, the script
says why and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = 10
EXIT_NO_PEER = 2
TRIALS = 2


class PeerUnavailable(Exception):
    """auto_LiRPA cannot be used with this interpreter."""


@dataclass(frozen=True)
class Problem:
    """What is to be bounded, and whether slopes are optimised; `images` and `labels` are tensors."""

    images: Any
    labels: Any
    eps: float
    clip: bool
    optimised: bool = False

    def part(self, start: int, stop: int) -> Problem:
        """The same problem for the images from `start` to `stop`."""
        return Problem(self.images[start:stop], self.labels[start:stop], self.eps, self.clip, self.optimised)


# --- making auto_LiRPA 0.3 work with a current PyTorch -----------------------


def install_shims() -> None:
    """Give PyTorch back the names auto_LiRPA 0.3 uses; keep any still there."""
    import torch
    import torch.onnx.symbolic_helper

    _shim_opset_setter(torch.onnx.symbolic_helper)
    _shim_node_attributes(torch._C.Node)
    _shim_set_operations()


def _shim_set_operations() -> None:
    """Restore the module from which auto_LiRPA takes `isin`; NumPy 2 made it private."""
    import numpy

    name = "numpy.lib.arraysetops"
    if int(numpy.__version__.split(".")[0]) >= 2 and name not in sys.modules:
        module = types.ModuleType(name)
        module.isin = numpy.isin  # type: ignore[attr-defined]
        sys.modules[name] = module


def _shim_opset_setter(helper: types.ModuleType) -> None:
    """Restore `_set_opset_version`.

    auto_LiRPA fixes the ONNX opset with this function before it converts a
    traced graph.  The opset is now an attribute of the exporter's globals.
    """
    if hasattr(helper, "_set_opset_version"):
        return
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    def set_opset_version(version: int) -> None:
        GLOBALS.export_onnx_opset_version = version

    helper._set_opset_version = set_opset_version  # type: ignore[attr-defined]


def _shim_node_attributes(node_class: Any) -> None:
    """Restore `node["name"]`, by which auto_LiRPA reads graph attributes.

    torch.onnx used to add this subscript to the C++ node class.  The getter
    to call depends on the attribute's kind, which the node itself knows.
    """
    if hasattr(node_class, "__getitem__"):
        return

    def get_attribute(node: Any, name: str) -> Any:
        return getattr(node, node.kindOf(name))(name)

    node_class.__getitem__ = get_attribute


def load_peer() -> types.ModuleType:
    """Import auto_LiRPA, shims first."""
    try:
        install_shims()
        import auto_LiRPA
    except (ImportError, AttributeError) as error:
        raise PeerUnavailable(f"cannot import auto_LiRPA: {error}") from error
    return auto_LiRPA


# --- the network and the data ------------------------------------------------


def build_network(arrays: Any) -> Any:
    """The network of the module docstring with the weights of `arrays`."""
    import torch
    from torch import nn

    layers = [
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.Linear(1568, 100),
        nn.Linear(100, CLASSES),
    ]
    for index, layer in enumerate(layers):
        layer.weight.data.copy_(torch.from_numpy(arrays[f"w{index}"]))
        layer.bias.data.copy_(torch.from_numpy(arrays[f"b{index}"]))
    conv0, conv1, dense0, dense1 = layers
    network = nn.Sequential(conv0, nn.ReLU(), conv1, nn.ReLU(), nn.Flatten(), dense0, nn.ReLU(), dense1)
    return network.eval().requires_grad_(False)


def read_problem(arrays: Any, eps: float, clip: bool, optimised: bool = False) -> Problem:
    """The images and labels of `arrays` with the given ball."""
    import torch

    images = torch.from_numpy(arrays["images"]).float()
    labels = torch.from_numpy(arrays["labels"]).long()
    return Problem(images, labels, eps, clip, optimised)


def convert(peer: types.ModuleType, network: Any, options: dict[str, Any]) -> Any:
    """auto_LiRPA's own form of `network`."""
    import torch

    example = torch.zeros(1, 1, 28, 28)
    try:
        return peer.BoundedModule(network, example, bound_opts=options)
    except (AttributeError, TypeError, RuntimeError) as error:
        raise PeerUnavailable(f"cannot convert the network: {error}") from error


# --- bounding ----------------------------------------------------------------


def margin_rows(labels: Any) -> tuple[Any, Any]:
    """Specification rows [B, 9, 10] and the class each row compares with."""
    import torch

    classes = torch.arange(CLASSES).expand(len(labels), -1)
    others = classes[classes != labels[:, None]].view(-1, CLASSES - 1)
    unit = torch.eye(CLASSES)
    return unit[labels][:, None, :] - unit[others], others


def ball(peer: types.ModuleType, problem: Problem) -> Any:
    """The problem's images as one bounded input."""
    lower = upper = None
    if problem.clip:
        lower = (problem.images - problem.eps).clamp(min=0.0)
        upper = (problem.images + problem.eps).clamp(max=1.0)
    perturbation = peer.PerturbationLpNorm(eps=problem.eps, x_L=lower, x_U=upper)
    return peer.BoundedTensor(problem.images, perturbation)


def bound_batch(peer: types.ModuleType, bounded: Any, problem: Problem) -> Any:
    """Lower bounds of the margins of one batch, [B, 10], nan at the label."""
    import torch

    rows, others = margin_rows(problem.labels)
    method = "CROWN-Optimized" if problem.optimised else "CROWN"
    with torch.set_grad_enabled(problem.optimised):
        lower, _ = bounded.compute_bounds(x=(ball(peer, problem),), C=rows, method=method, bound_upper=False)
    margins = torch.full((len(rows), CLASSES), float("nan"))
    return margins.scatter_(1, others, lower.detach())


def bound_all(peer: types.ModuleType, bounded: Any, problem: Problem, batch_size: int) -> tuple[Any, float]:
    """Margins of all images and the seconds it took."""
    import torch

    started = time.perf_counter()
    with torch.no_grad():
        batches = [
            bound_batch(peer, bounded, problem.part(start, start + batch_size))
            for start in range(0, len(problem.images), batch_size)
        ]
    return torch.cat(batches), time.perf_counter() - started


def time_batch_sizes(peer: types.ModuleType, bounded: Any, problem: Problem, sizes: list[int]) -> dict[int, float]:
    """Images per second of each batch size, all on the same first images.

    Each size gets the better of two rounds, as a busy machine can spoil one.
    """
    subset = problem.part(0, max(sizes))
    # The first call pays for compiling auto_LiRPA's scripted functions and
    # for PyTorch's thread pool, which no batch size should be charged with.
    bound_all(peer, bounded, problem.part(0, min(sizes)), min(sizes))
    speeds = dict.fromkeys(sizes, 0.0)
    for size in sizes * TRIALS:
        _, seconds = bound_all(peer, bounded, subset, size)
        speeds[size] = max(speeds[size], len(subset.images) / seconds)
    return speeds


# --- command line ------------------------------------------------------------


def parse_sizes(text: str) -> list[int]:
    """Batch sizes from a comma-separated list."""
    sizes = sorted({int(part) for part in text.split(",")})
    if sizes[0] < 1:
        raise ValueError("a batch size must be at least 1")
    return sizes


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Bound the margins of a small MNIST network with auto_LiRPA.")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--batch-sizes", type=parse_sizes, default=[16, 64, 256])
    parser.add_argument(
        "--slopes",
        choices=["adaptive", "same-slope", "zero-lb", "one-lb"],
        default="adaptive",
        help="lower slope of an unstable ReLU (auto_LiRPA's `relu` option)",
    )
    parser.add_argument(
        "--conv-mode",
        choices=["patches", "matrix"],
        default="patches",
        help="how auto_LiRPA stores the coefficients of convolutions",
    )
    parser.add_argument("--iterations", type=int, default=0, help="steps of optimising the slopes; 0: CROWN")
    parser.add_argument("--clip", action="store_true", help="keep the ball inside [0, 1]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def peak_rss_mib() -> float:
    """Largest resident size of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def count_verified(margins: Any) -> int:
    """Images whose nine margins are all positive."""
    return int(((margins > 0).sum(dim=1) == CLASSES - 1).sum())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bound all images, save the margins and report what was measured."""
    peer = load_peer()
    import numpy as np
    import torch

    torch.set_num_threads(arguments.threads)
    with np.load(arguments.weights) as arrays:
        network = build_network(arrays)
        problem = read_problem(arrays, arguments.eps, arguments.clip, arguments.iterations > 0)
    options: dict[str, Any] = {"conv_mode": arguments.conv_mode, "relu": arguments.slopes}
    if arguments.iterations > 0:
        options["optimize_bound_args"] = {"iteration": arguments.iterations}
    bounded = convert(peer, network, options)
    images = len(problem.images)
    sizes = sorted({min(size, images) for size in arguments.batch_sizes})
    speeds = time_batch_sizes(peer, bounded, problem, sizes) if len(sizes) > 1 else {sizes[0]: 0.0}
    best = max(speeds, key=lambda size: speeds[size])
    began = time.process_time()
    margins, seconds = bound_all(peer, bounded, problem, best)
    cpu_seconds = time.process_time() - began
    np.savez(arguments.out, margins=margins.numpy())
    return {
        "peer": "auto_LiRPA",
        "version": peer.__version__,
        "torch": torch.__version__,
        "threads": arguments.threads,
        "conv_mode": bounded.conv_mode,
        "slopes": arguments.slopes,
        "eps": arguments.eps,
        "clip": arguments.clip,
        "images": images,
        "batch_size": best,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "iterations": arguments.iterations,
        "images_per_second": round(images / seconds, 3),
        "tried_images_per_second": {str(k): round(v, 3) for k, v in speeds.items()},
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "verified": count_verified(margins),
    }


def main() -> int:
    """Run the benchmark; print its JSON line."""
    arguments = parse_arguments()
    try:
        report = run(arguments)
    except PeerUnavailable as error:
        print(f"peer_auto_lirpa: {error}", file=sys.stderr)
        return EXIT_NO_PEER
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
