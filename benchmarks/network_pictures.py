"""What training left: filters of the first layer, and how many neurons of each layer are stable, as a picture and CSV.

    python benchmarks/network_pictures.py RUN... --data DIR --out pictures [--images 100]

A RUN is a folder that `verifier train` wrote (NET.safetensors.run). Neurons are bounded by the stage `dual` over the
run's own set around each of the first test images, and are on (never below zero), off (never above), or unstable. A
neuron that is off around every image is dead, as far as these images show. The filters are drawn on one scale for each
network, zero in the middle; those of colour images by their three channels.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data_sets import images
from torch import Tensor, nn

from training.run_folder import LOG_JSON, WEIGHTS
from verifier import bounds, import_torch
from verifier.loading import load_model

#: of the first layer, in the picture
FILTERS = 16
KINDS = ("on", "off", "dead", "unstable")


@dataclass(frozen=True)
class Trained:
    """A run's network, and what is to be shown of it."""

    name: str
    filters: Tensor  # [F, channels, height, width]
    layers: dict[str, dict[str, float]]  #: shares by the layer's name and KINDS; "dead" is part of "off"


def read(run: Path, data: Path, count: int) -> Trained:
    log = json.loads((run / LOG_JSON).read_text(encoding="utf-8"))
    model = load_model(log["about"]["network"], run / WEIGHTS)
    assert isinstance(model, nn.Module)
    x, _ = images(data, log["about"]["data"][0].partition("_train")[0], count=count)
    name = run.name.removesuffix(".run").removesuffix(".safetensors")
    return Trained(name, first_filters(model), shares(model, x, log))


def first_filters(model: nn.Module) -> Tensor:  # -> [F, channels, height, width]
    """The first convolution's."""
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.detach()[:FILTERS]


def shares(model: nn.Module, x: Tensor, log: dict[str, Any]) -> dict[str, dict[str, float]]:  # [B, *input]
    """Of the neurons before each activation, over all images."""
    graph = import_torch(model, x)
    read_by = [graph.nodes[graph.nodes[i].parents[0]].name for i in graph.activations]
    asked = log["settings"]
    found = bounds(graph, x, asked["eps"], "dual", of=read_by, clip=asked["clip"], threat=asked["threat"])
    layers = {}
    for name, node in found.items():
        on, off = node.lower >= 0, node.upper <= 0
        layers[name] = {
            "on": float(on.float().mean()), "off": float(off.float().mean()),
            "dead": float(off.all(dim=0).float().mean()), "unstable": float((~on & ~off).float().mean()),
        }  # fmt: skip
    return layers


def write(networks: Sequence[Trained], path: Path) -> None:
    """A line per network and layer."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("network", "layer", *KINDS))
        for network in networks:
            for layer, found in network.layers.items():
                writer.writerow((network.name, layer, *(f"{found[kind]:.4f}" for kind in KINDS)))


def draw(networks: Sequence[Trained], path: Path) -> None:
    """A row per network: its first filters, and the shares of each layer as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.3 * len(networks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(networks), 2, squeeze=False, width_ratios=(3, 1))
    for network, (left, right) in zip(networks, axes, strict=True):
        left.imshow(_tiled(network.filters), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        left.set_axis_off()
        left.set_title(network.name, fontsize=8, loc="left")
        start = torch.zeros(len(network.layers))
        for kind, colour in (("on", "tab:blue"), ("off", "lightgray"), ("unstable", "tab:red")):
            values = torch.tensor([found[kind] for found in network.layers.values()])
            right.barh(list(network.layers), values, left=start, color=colour, label=kind)
            start += values
        right.invert_yaxis()
        right.set_xlim(0, 1)
        right.tick_params(labelsize=6)
    axes[0][1].legend(fontsize=6, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path, dpi=100)


def _tiled(filters: Tensor) -> Tensor:  # [F, channels, h, w] -> [h, F * (w + 1)] or [h, F * (w + 1), 3]
    """Side by side, 0.5 where a weight is zero."""
    scaled = filters / (2 * filters.abs().max()) + 0.5
    tiles = [torch.nn.functional.pad(f, (0, 1), value=1.0) for f in scaled]
    row = torch.cat(tiles, dim=2)
    return row.permute(1, 2, 0) if len(row) == 3 else row[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--out", type=Path, required=True, help="of the files, without .csv and .png")
    parser.add_argument("--images", type=int, default=100, help="test images whose sets the neurons are bounded over")
    options = parser.parse_args(arguments)
    networks = [read(run, options.data, options.images) for run in options.runs]
    write(networks, options.out.with_name(f"{options.out.name}.csv"))
    draw(networks, options.out.with_name(f"{options.out.name}.png"))
    print(options.out.with_name(f"{options.out.name}.csv").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
