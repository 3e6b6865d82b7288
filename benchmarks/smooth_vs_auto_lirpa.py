"""Margins and seconds on small smooth networks and transformers, with auto_LiRPA on the same inputs in the same run.

    python benchmarks/smooth_vs_auto_lirpa.py --peer-path PEER --images 3

Small networks with GELU, SiLU, LayerNorm, products and attention are trained on scikit-learn's digits for some seconds
each; every image is taken over unclipped l-infinity balls of several radii. Each side runs in a process of its own, on
one thread and on one image at a time. A line of the table is a network, a radius and a method: the smallest of each
image's nine margins, the mean over the images, and the CPU seconds of all of them, the best of `--rounds` after one
that is not counted. `diff` is our margin less that of the peer's method of the same level, `time` its seconds over
ours. The optimised dual stops at rows that are proved; "to the end" it does not, as the peer does not.

PEER is a folder with the package auto_LiRPA 0.7.1 and what it needs beside PyTorch:

    pip install --no-deps --target PEER appdirs tqdm graphviz ninja sortedcontainers
    pip install --no-deps --target PEER git+https://github.com/Verified-Intelligence/auto_LiRPA

(--no-deps, as it asks for another PyTorch). Without --peer-path only this project is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
#: seconds of a round after which there are no more
_SLOW = 5.0
#: settings by which the peer's ascent works on every network here: nothing sparse, and fewer functions optimised
_PLAIN = {
    "sparse_intermediate_bounds": False, "sparse_features_alpha": False, "sparse_spec_alpha": False,
    "conv_mode": "matrix", "disable_optimization": ["mul", "matmul", "sqr", "sqrt", "reciprocal"],
}  # fmt: skip
#: method of ours -> the peer's of the same level
LEVELS = {
    "interval": "IBP",
    "dual": "CROWN",
    "dual-adaptive": "CROWN",
    "dual-optimised": "alpha-CROWN, 20",
    "to the end": "alpha-CROWN, 100",
}


# --- the networks --------------------------------------------------------------


class Attention(nn.Module):
    """Softmax attention with some heads, written out as in most code: [B, n, width] -> [B, n, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).reshape(-1, x.shape[1], self.heads, self.each).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.each), -1)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, x.shape[1], self.heads * self.each))


class Block(nn.Module):
    """An encoder block, normalised before each half."""

    def __init__(self, width: int, gelu: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mix = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, 2)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), gelu(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A small ViT: 12x12 images (digits with a border) in patches of 4x4, blocks, the tokens' mean to classes."""

    def __init__(self, blocks: int, gelu: type[nn.Module], width: int = 16) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, 4, 4)
        self.place = nn.Parameter(0.1 * torch.randn(1, 9, width))
        self.blocks = nn.Sequential(*(Block(width, gelu) for _ in range(blocks)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.cut(x).flatten(2).transpose(1, 2) + self.place)
        return self.out(self.norm(x).mean(1))


class Attended(nn.Module):
    """Attention alone, over pairs of rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Linear(24, 16), Attention(16, 2), nn.Linear(16, CLASSES)
        self.place = nn.Parameter(0.1 * torch.randn(1, 6, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(x.reshape(-1, 6, 24)) + self.place).mean(1))


class Gated(nn.Module):
    """Two layers of products of two linear functions."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(144, 32), (144, 32), (32, 32), (32, 32)]
        self.a, self.b, self.c, self.d = (nn.Linear(*s) for s in sizes)
        self.out = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = self.a(x) * self.b(x)
        return self.out(self.c(x) * self.d(x))


class Swish(nn.Module):
    """x sigmoid(x), as auto_LiRPA can read it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def perceptron(activation: Callable[[], nn.Module], norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (144, 48):
        layers += [nn.Linear(size, 48), *([norm(48)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(48, CLASSES))


def convolutional(gelu: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), gelu(), nn.Conv2d(8, 16, 3, 2, 1), gelu(),
        nn.Flatten(), nn.Linear(144, 32), gelu(), nn.Linear(32, CLASSES),
    )  # fmt: skip


#: name -> builder, which takes the class of GELU and of SiLU, and radii
NETWORKS: dict[str, tuple[Callable[[Any, Any], nn.Module], tuple[float, ...]]] = {
    "GELU mlp": (lambda gelu, silu: perceptron(gelu), (0.01, 0.03, 0.06)),
    "GELU conv": (lambda gelu, silu: convolutional(gelu), (0.01, 0.03, 0.06)),
    "SiLU mlp": (lambda gelu, silu: perceptron(silu), (0.01, 0.03, 0.06)),
    "LayerNorm mlp": (lambda gelu, silu: perceptron(nn.ReLU, nn.LayerNorm), (0.003, 0.01, 0.02)),
    "products": (lambda gelu, silu: Gated(), (0.01, 0.03, 0.06)),
    "attention": (lambda gelu, silu: Attended(), (0.003, 0.01, 0.03)),
    "ViT, 1 block": (lambda gelu, silu: Transformer(1, gelu), (0.001, 0.003, 0.01)),
    "ViT, 2 blocks": (lambda gelu, silu: Transformer(2, gelu), (0.0005, 0.002)),
}


# --- what is asked -------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits with a border of two pixels: [1797, 1, 12, 12] in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    return nn.functional.pad(images, (2, 2, 2, 2)), torch.from_numpy(data.target).long()


def trained(name: str, steps: int) -> nn.Module:
    """The network after some steps of plain training; the same for the same version of PyTorch."""
    torch.manual_seed(0)
    network = NETWORKS[name][0](nn.GELU, nn.SiLU)
    images, labels = digits()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        batch = torch.randint(1000, (128,))
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def problems(names: list[str], count: int, steps: int) -> dict[str, Any]:
    """name -> weights, and the first held-out images that the network gets right, with labels."""
    images, labels = (t[1000:] for t in digits())
    found = {}
    for name in names:
        network = trained(name, steps)
        right = (network(images).argmax(1) == labels).nonzero().squeeze(1)[:count]
        found[name] = network.state_dict(), images[right], labels[right]
    return found


# --- the two sides -------------------------------------------------------------


#: one image's margins [9] by a method, [1, 1, 12, 12] and [1] and eps
Bounds = Callable[[Tensor, Tensor, float], Tensor]


def our_methods(network: nn.Module, example: Tensor, seconds: float) -> dict[str, Bounds]:
    """This project's stages as `verify` runs them: lines in the model's precision, ascents in float64.

    Args:
        seconds: that an image may take.
    """
    from properties import LinfBall, robustness
    from verifier import bound_map as known
    from verifier.budget import Budget
    from verifier.graph.torch_import import import_torch
    from verifier.ops.base import SlopeRule
    from verifier.query import Query
    from verifier.relaxation.optimised import optimised_rows, tighten
    from verifier.stages import stage
    from verifier.stages.dual import DualStage

    graph = import_torch(network, example)

    def query(image: Tensor, label: Tensor, eps: float, dtype: torch.dtype) -> Query:
        return Query.of(graph.to(dtype=dtype), LinfBall(image.to(dtype), eps), robustness(label, CLASSES))

    def by_stage(name: str) -> Bounds:
        one = stage(name)

        def bounds(image: Tensor, label: Tensor, eps: float) -> Tensor:
            asked = query(image, label, eps, one.precision or torch.float32)
            return one.run(asked, known.Bounds(), Budget(seconds)).lower[0]

        return bounds

    def to_the_end(image: Tensor, label: Tensor, eps: float) -> Tensor:
        asked = query(image, label, eps, torch.float64)
        adaptive = DualStage(SlopeRule.ADAPTIVE).plain(asked, known.Bounds(), Budget()).bounds
        budget = Budget(seconds)
        tight, condensed, _ = tighten(asked, adaptive, budget=budget)
        return optimised_rows(asked, tight, budget=budget, network=condensed).lower[0]

    return {name: to_the_end if name == "to the end" else by_stage(name) for name in LEVELS}


def peer_methods(network: nn.Module, example: Tensor) -> dict[str, Bounds]:
    """auto_LiRPA's, with its own settings; where its ascent breaks off with them (of LayerNorm), with `_PLAIN`."""
    import auto_LiRPA

    def method(name: str, iterations: int = 20) -> Bounds:
        optimised = {"optimize_bound_args": {"iteration": iterations}}
        ways = [with_options(name, {**optimised, **more}) for more in ({}, _PLAIN)]

        def bounds(image: Tensor, label: Tensor, eps: float) -> Tensor:
            while True:
                try:
                    return ways[0](image, label, eps)
                except (AssertionError, RuntimeError):
                    if len(ways) == 1:
                        raise
                    del ways[0]

        return bounds

    def with_options(name: str, options: dict[str, Any]) -> Bounds:
        bounded = auto_LiRPA.BoundedModule(network, example, bound_opts=options)

        def bounds(image: Tensor, label: Tensor, eps: float) -> Tensor:
            others = [c for c in range(CLASSES) if c != int(label)]
            rows = (torch.eye(CLASSES)[label] - torch.eye(CLASSES)[others]).unsqueeze(0)
            x = auto_LiRPA.BoundedTensor(image, auto_LiRPA.PerturbationLpNorm(eps=eps))
            with torch.set_grad_enabled("Optimized" in name):
                return bounded.compute_bounds(x=(x,), C=rows, method=name, bound_upper=False)[0][0].detach()

        return bounds

    found = {"IBP": method("IBP"), "CROWN": method("CROWN")}
    return found | {f"alpha-CROWN, {n}": method("CROWN-Optimized", n) for n in (20, 100)}


def measure(side: str, file: Path, rounds: int, seconds: float) -> None:
    """Print a line of JSON per network, radius and method; runs in a fresh process."""
    from contextlib import nullcontext

    torch.set_num_threads(1)
    gelu, silu, scope = nn.GELU, nn.SiLU, nullcontext
    if side == "peer":
        from auto_LiRPA.operators.gelu import GELU

        gelu, silu = GELU, Swish
    else:
        from verifier.arithmetic import precise_arithmetic as scope
    for name, (state, images, labels) in torch.load(file).items():
        build, radii = NETWORKS[name]
        network = build(gelu, silu).eval().requires_grad_(False)
        network.load_state_dict(state)
        try:
            example = images[:1]
            methods = peer_methods(network, example) if side == "peer" else our_methods(network, example, seconds)
        except Exception as error:  # a network that one side cannot read is a line of the table
            print(json.dumps({"network": name, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
            continue
        for eps in radii:
            for method, bounds in methods.items():
                line = {"network": name, "eps": eps, "method": method}
                with scope():
                    line |= timed(bounds, images, labels, eps, rounds)
                print(json.dumps(line), flush=True)


def timed(bounds: Bounds, images: Tensor, labels: Tensor, eps: float, rounds: int) -> dict[str, Any]:
    """The smallest margin of every image, and the CPU seconds of the best round after the first."""
    best = math.inf
    for number in range(rounds + 1):
        began = time.process_time()
        try:
            found = [float(bounds(images[i : i + 1], labels[i : i + 1], eps).min()) for i in range(len(images))]
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:300]}
        seconds = time.process_time() - began
        best = min(best, seconds) if number else math.inf
        if seconds > _SLOW:  # what the first call pays for once is nothing then
            best = min(best, seconds)
            break
    return {"margins": found, "seconds": best}


# --- the table -----------------------------------------------------------------


def lines_of(side: str, file: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a process of its own prints for one side, as it comes."""
    command = [sys.executable, __file__, "--one", side, str(file), "--rounds", str(options.rounds)]
    command += ["--seconds", str(options.seconds)]
    path = [str(options.peer_path)] if side == "peer" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *os.environ.get("PYTHONPATH", "").split(":")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None and run.stderr is not None
        yield from (json.loads(line) for line in run.stdout if line.startswith("{"))
        complaint = run.stderr.read()
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{complaint[-2000:]}")


def table(ours: Iterable[dict[str, Any]], peers: list[dict[str, Any]]) -> None:
    theirs = {(p["network"], p.get("eps"), p.get("method")): p for p in peers}
    print(f"{'network':14s} {'eps':>7s}  {'method':22s} {'margin':>12s} {'seconds':>9s} {'diff':>10s} {'time':>7s}")
    shown = set()
    for line in ours:
        key = line["network"], line.get("eps")
        if key not in shown:
            shown.add(key)
            for peer in [p for p in peers if (p["network"], p.get("eps")) in (key, (key[0], None))]:
                print(text(peer, "peer: " + peer.get("method", "")))
        level = theirs.get((*key, LEVELS.get(line.get("method", ""))))
        print(text(line, line.get("method", "")) + ("" if level is None else compared(line, level)), flush=True)


def text(line: dict[str, Any], method: str) -> str:
    start = f"{line['network']:14s} {line.get('eps', math.nan):7.4f}  {method:22s} "
    if "error" in line:
        return start + line["error"].replace("\n", " ")[:90]
    return start + f"{sum(line['margins']) / len(line['margins']):12.4f} {line['seconds']:9.4f}"


def compared(line: dict[str, Any], peer: dict[str, Any]) -> str:
    if "error" in line or "error" in peer:
        return ""
    gaps = [a - b for a, b in zip(line["margins"], peer["margins"], strict=True)]
    return f" {sum(gaps) / len(gaps):+10.4f} {peer['seconds'] / line['seconds']:6.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-path", type=Path)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="that our ascents may take for an image")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], Path(options.one[1]), options.rounds, options.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problems.pt"
        torch.save(problems(options.networks, options.images, options.steps), file)
        peers = list(lines_of("peer", file, options)) if options.peer_path else []
        table(lines_of("ours", file, options), peers)


if __name__ == "__main__":
    main()
