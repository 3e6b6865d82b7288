"""Robust training in the plane: figures 3.3 and 3.5 of Wong's thesis (2020, section 3.2) redrawn.

    python examples/toy_2d.py --out toy-2d.png

Twelve points with random labels, at least twice the radius apart, and a network of four hidden layers of 100 units,
trained twice: plainly, and on the dual bound of all margins (exact, all points in each step). Prints what each network
gets right, what is proved and what is refuted, and draws both decision boundaries with the balls (full lines: verified,
dotted: falsified). Below, for the point with the least proven margin, the true image of its ball by a dense covering,
and the convex polygon that dual bounds of the outputs in many directions cut out. Needs matplotlib (extra `plot`).
Seeds are fixed; that of the points is one where no two balls of different labels nearly touch, which takes longer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from properties import LinfBall, Specification
from training import DualTraining, Standard, train
from training.architectures import toy
from training.schedule import Decayed, Ramp
from verifier import Verdict, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.comparison.plot import needs_matplotlib
from verifier.errors import InputError
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages.dual import DualStage

EPS, POINTS = 0.08, 12
COLOURS, TINTS = ("#b26a00", "#0072b2"), ("#f7e8d0", "#d6e6f2")


# points and networks ------------------------------------------------------------------------------------------------


def sample(count: int = POINTS, apart: float = 2 * EPS, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Points [count, 2] in the unit square, each drawn until it is `apart` from all before; labels [count].

    With the default seed points of different labels are 0.187 apart or more. With seed 0 two are 0.164 apart, and 1500
    steps left one ball unproved.
    """
    generator, points = torch.Generator().manual_seed(seed), torch.empty(0, 2)
    while len(points) < count:
        drawn = torch.rand(1, 2, generator=generator)
        if bool(((drawn - points).abs().amax(1) >= apart).all()):
            points = torch.cat([points, drawn])
    return points, torch.randint(2, (count,), generator=generator)


def trained(points: Tensor, label: Tensor, robust: bool, steps: int) -> nn.Module:
    """The network of the thesis; Adam at 1e-3, less in the second half; all points in each step; a growing radius."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = toy()
    settings: dict[str, Any] = {"eps": EPS, "clip": None, "batch": len(points), "rate": Decayed(times=6, after=0.5)}
    method = DualTraining(projections=None, ramp=Ramp(end=0.4), **settings) if robust else Standard(**settings)
    return train(model, (points, label), method, epochs=steps, validation=0).model


# measuring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """What the network makes of the ball around one point."""

    true: Tensor  # [k, 2]: outputs at a dense covering
    outer: Tensor  # [directions, 2]: corners of the convex outer bound

    @classmethod
    def of(cls, model: nn.Module, point: Tensor, side: int = 200, directions: int = 90) -> Image:
        along = torch.linspace(-EPS, EPS, side, dtype=torch.float64)
        covering = torch.stack(torch.meshgrid(along, along, indexing="xy"), 2).reshape(-1, 2) + point
        with torch.no_grad():
            return cls(_double(model)(covering), outer_bound(model, point, directions))


def _double(model: nn.Module) -> nn.Module:
    """A copy in float64."""
    copy = toy().double().eval()
    copy.load_state_dict(model.state_dict())
    return copy


def outer_bound(model: nn.Module, point: Tensor, directions: int) -> Tensor:  # [2] -> [directions, 2]
    """Corners of the polygon that dual bounds cut out of the plane of the outputs, one half-plane per direction."""
    step = 2 * torch.pi / directions
    angles = step * torch.arange(directions, dtype=torch.float64)
    normals = torch.stack([angles.cos(), angles.sin()], 1)
    x = point.double().unsqueeze(0)
    spec = Specification(-normals.unsqueeze(0), torch.zeros(1, directions).double(), torch.arange(directions))
    query = Query.of(import_torch(_double(model), x), LinfBall(x, EPS), spec)
    lower = DualStage().run(query, Bounds(), Budget()).lower
    assert lower is not None
    height = -lower[0].detach()
    after = (height.roll(-1) - height * torch.cos(angles[1])) / torch.sin(angles[1])
    return height.unsqueeze(1) * normals + after.unsqueeze(1) * torch.stack([-angles.sin(), angles.cos()], 1)


@dataclass(frozen=True)
class Judged:
    """A trained network, and what is known of the balls around the points."""

    name: str
    model: nn.Module
    right: int
    by_dual: int  #: proved by the bound that the robust network was trained on
    verdicts: list[Verdict]  #: of the whole ladder
    margins: Tensor  # [points]: proven by the dual bound

    @classmethod
    def of(cls, name: str, model: nn.Module, points: Tensor, label: Tensor) -> Judged:
        dual = verify(model, points, EPS, label=label, stages=["dual"])
        with torch.no_grad():
            right = int((model(points).argmax(1) == label).sum())
        verdicts = verify(model, points, EPS, label=label, example_budget=5.0).verdict
        return cls(name, model, right, int(dual.verified.sum()), list(verdicts), dual.margins.amin(1))


def table(judged: list[Judged]) -> str:
    """Counts of points, in text."""
    lines = [f"{'training':<10} {'right':>6} {'dual':>6} {'verified':>9} {'falsified':>10}"]
    for one in judged:
        verified, falsified = (one.verdicts.count(v) for v in (Verdict.VERIFIED, Verdict.FALSIFIED))
        lines.append(f"{one.name:<10} {one.right:>6} {one.by_dual:>6} {verified:>9} {falsified:>10}")
    return "\n".join(lines)


# drawing ------------------------------------------------------------------------------------------------------------


def draw_boundary(axis: Any, one: Judged, points: Tensor, label: Tensor) -> None:
    """Figure 3.3: the two classes, the points and their balls."""
    from matplotlib.patches import Rectangle

    ends = (-0.1, 1.1)
    line = torch.linspace(*ends, 250)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), 2)
    with torch.no_grad():
        logits = one.model(grid.reshape(-1, 2))
    difference = (logits[:, 1] - logits[:, 0]).reshape(250, 250)
    axis.contourf(line, line, difference, levels=[-torch.inf, 0, torch.inf], colors=TINTS)
    axis.contour(line, line, difference, levels=[0], colors="#333333", linewidths=1.0)
    for (x, y), i, verdict in zip(points.tolist(), label.tolist(), one.verdicts, strict=True):
        style = {Verdict.VERIFIED: "-", Verdict.FALSIFIED: ":"}.get(verdict, "--")
        axis.add_patch(
            Rectangle((x - EPS, y - EPS), 2 * EPS, 2 * EPS, fill=False, edgecolor=COLOURS[i], linestyle=style)
        )
        axis.plot(x, y, "o", color=COLOURS[i], markersize=5)
    axis.set(xlim=ends, ylim=ends, aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.set_title(f"{one.name} training: {one.verdicts.count(Verdict.VERIFIED)} of {len(points)} balls verified")


def draw_image(axis: Any, one: Judged, image: Image, label: int) -> None:
    """Figure 3.5: what the ball becomes, and what the dual bound knows of it."""
    outer = torch.cat([image.outer, image.outer[:1]])
    axis.fill(*outer.T.tolist(), facecolor="#dcefdc", edgecolor="#00682f", label="convex outer bound")
    axis.plot(*image.true.T.tolist(), ".", markersize=1.2, color="#777777", label="image of the ball", rasterized=True)
    axis.axline((0, 0), slope=1, color="#333333", linewidth=0.9, linestyle="--", label="equal outputs")
    low, high = outer.amin(0), outer.amax(0)
    room = 0.08 * (high - low)
    (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()
    axis.set(xlim=(left, right), ylim=(bottom, top))
    axis.locator_params(nbins=5)
    axis.set(xlabel="output of class 0", ylabel="output of class 1")
    axis.set_title(f"{one.name} training: a ball of class {label}")
    axis.legend(fontsize=8, frameon=False, markerscale=6)


def draw(judged: list[Judged], images: list[Image], points: Tensor, label: Tensor, index: int, path: Path) -> None:
    """The figure, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure: Any = Figure(figsize=(9.6, 9.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    for column, (one, image) in enumerate(zip(judged, images, strict=True)):
        draw_boundary(axes[0, column], one, points, label)
        axes[0, column].plot(*points[index].tolist(), "o", markersize=11, fillstyle="none", color="#333333")
        draw_image(axes[1, column], one, image, int(label[index]))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("toy-2d.png"), help="where the picture goes")
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    options = parser.parse_args(arguments)
    try:
        needs_matplotlib()
    except InputError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # the same sums on any number of cores
    points, label = sample()
    judged = [
        Judged.of(name, trained(points, label, name == "robust", options.steps), points, label)
        for name in ("standard", "robust")
    ]
    print(table(judged))
    index = int(judged[1].margins.argmin())
    images = [Image.of(one.model, points[index]) for one in judged]
    draw(judged, images, points, label, index, options.out)
    print(f"\npicture: {options.out}")


if __name__ == "__main__":
    main()
