"""Seconds of the optimised dual, with auto_LiRPA's optimised CROWN on the same images in the same run.

    python benchmarks/optimised_vs_auto_lirpa.py --onnx wk_mnist.onnx --data mnist_test.npz \\
        --peer-python PEER/bin/python --images 100

The network is Wong & Kolter's `small`, the set an unclipped l-infinity ball, all nine margins of every image. The peer
optimises the slopes of all layers in 20 iterations. Ours is measured twice: every neuron and every row taken to the
end of its ascent, which is what the peer does; and as the stage does it, where rows are dropped when they are proved.
Each side runs in a process of its own. CPU seconds count all threads, so that another program's load on the machine
does not decide the ratio. The peer's environment: see dual_vs_auto_lirpa.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from dual_vs_auto_lirpa import PEER, command_line, difference, read_network, run_json, small_network, start

MODES = ("to the end", "early stop")


def measure_ours(weights: Path, mode: str, eps: float, out: Path, threads: int) -> dict[str, object]:
    """Bound all margins in one of the modes; runs in a fresh process."""
    import torch

    from properties import LinfBall, robustness
    from verifier.arithmetic import precise_arithmetic
    from verifier.bound_map import Bounds
    from verifier.budget import Budget
    from verifier.graph.torch_import import import_torch
    from verifier.ops.base import SlopeRule
    from verifier.query import Query
    from verifier.relaxation.optimised import optimised_rows, tighten
    from verifier.relaxation.parallel import ordered_map
    from verifier.stages import stage
    from verifier.stages.dual import DualStage

    torch.set_num_threads(threads)
    with np.load(weights) as archive:
        arrays = {k: archive[k] for k in archive.files}
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    graph = import_torch(small_network(arrays), images[:1]).to(dtype=torch.float32)
    query = Query.of(graph, LinfBall(images, eps), robustness(labels, 10))

    def to_the_end(index: torch.Tensor) -> torch.Tensor:
        part = query.select(index)
        known = DualStage(SlopeRule.ADAPTIVE).run(part, Bounds(), Budget()).bounds
        tight, network, _ = tighten(part, known)
        return optimised_rows(part, tight, network=network).lower

    with precise_arithmetic(), torch.no_grad():
        wall, cpu = time.perf_counter(), time.process_time()
        if mode == MODES[0]:
            parts = torch.arange(len(images)).split(1)
            lower = torch.cat(ordered_map(to_the_end, parts, images.device))
        else:
            report = stage("dual-optimised").run(query, Bounds(), Budget())
            assert report.lower is not None
            lower = report.lower
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    np.savez(out, margins=lower.numpy())
    verified = int((lower > 0).all(1).sum())
    return {"seconds": wall, "cpu_seconds": cpu, "images": len(images), "verified": verified}


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Each side in turn, then the ratios and how the margins differ."""
    arrays = read_network(options.onnx, options.data, options.images)
    weights = folder / "weights.npz"
    np.savez(weights, **arrays)
    common = ["--eps", str(options.eps), "--threads", str(options.threads)]
    ours = {}
    for k, mode in enumerate(MODES):
        command = [sys.executable, __file__, *common, "--one", str(weights), mode, str(folder / f"{k}.npz")]
        ours[mode] = run_json(command)
        report(f"optimised dual, {mode}", ours[mode])
    if not options.peer_python:
        return
    out = folder / "peer.npz"
    settings = ["--iterations", str(options.iterations), "--batch-sizes", options.peer_batches]
    peer = run_json(
        [str(options.peer_python), str(PEER), "--weights", str(weights), *common, *settings, "--out", str(out)]
    )
    report(f"auto_LiRPA {peer['version']}, {options.iterations} iterations, batch {peer['batch_size']}", peer)
    for k, mode in enumerate(MODES):
        ratios = (float(str(peer[s])) / float(str(ours[mode][s])) for s in ("seconds", "cpu_seconds"))
        print("peer / ours, {}: {:.1f} in wall time, {:.1f} in CPU time".format(mode, *ratios))
        print(difference(folder / f"{k}.npz", out, arrays["labels"]))


def report(name: str, result: dict[str, object]) -> None:
    wall, cpu = float(str(result["seconds"])), float(str(result["cpu_seconds"]))
    counts = f"{result['verified']} of {result['images']} verified"
    print(f"{wall:8.2f} s  {cpu:8.2f} CPU s  {counts}  {name}", flush=True)


def main() -> None:
    parser = command_line(__doc__, 100, "10")
    parser.add_argument("--iterations", type=int, default=20)
    start(parser, measure_ours, compare)


if __name__ == "__main__":
    main()
