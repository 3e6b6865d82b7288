"""Threat models in two dimensions: sets, projections, attacks, and what of a small network is certified.

    python examples/threat_models.py --out threat-models.png

Trains a network of two inputs in a few seconds, verifies one example for each kind of input set, prints what came of
it, and draws it: each set as its support function sees it, some points and their projections, the way of an attack,
and the network's decision boundary. Below, for a grid of inputs, the radius that is certified and the distance at
which an attack succeeds. Needs matplotlib (extra `plot`). All seeds are fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from properties import (
    BrightnessContrast,
    InputSet,
    L1Ball,
    L2Ball,
    LinfBall,
    Polytope,
    Threat,
    Union,
    WassersteinBall,
    Zonotope,
    robustness,
)
from verifier import Verdict, verify
from verifier.attacks import MSD, PGD, AttackProblem
from verifier.comparison.plot import needs_matplotlib
from verifier.errors import InputError
from verifier.forms import Dense
from verifier.radius import certified_radius

RANGE = (0.0, 1.0)
#: the l-p balls have colours of their own, in all panels
BALLS = {"linf": r"$\ell_\infty$ ball", "l2": r"$\ell_2$ ball", "l1": r"$\ell_1$ ball"}
COLOURS = {"linf": "#0072b2", "l2": "#00876c", "l1": "#a8559a"}
OTHER, ATTACK, TINTS = "#b26a00", "#c1121f", ("#f7f1e7", "#e6ecf4")
VERDICTS = {Verdict.VERIFIED: "#00682f", Verdict.FALSIFIED: ATTACK, Verdict.UNKNOWN: "#555555"}


# the network --------------------------------------------------------------------------------------------------------


def wave(first: Tensor) -> Tensor:
    """Where the two classes meet: the second input as a function of the first."""
    return 0.55 + 0.4 * torch.cos(2 * torch.pi * (first - 1.3) / 1.5)


def trained(steps: int = 600) -> nn.Sequential:
    """A network of two inputs that tells points above the wave (class 0) from points below it (class 1)."""
    generator = torch.Generator().manual_seed(0)
    x = 1.5 * torch.rand(2000, 2, generator=generator) - 0.2
    above = x[:, 1] - wave(x[:, 0])
    x, above = x[above.abs() > 0.03], above[above.abs() > 0.03]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), (above < 0).long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


# scenes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """How inputs are drawn: a linear map to the plane of the picture, in which the network looks at them."""

    corners: Tensor  # [n, 2] float64: where the unit vectors of the input go

    def network(self, model: nn.Sequential) -> nn.Sequential:
        """The network on inputs of any shape.

        Three entries have the sum 1. The weights that draw them have the mean 0 then, and a bias instead: more of all
        three, which no plan brings about, changes nothing, and no step of an attack is lost on it.
        """
        middle = self.corners.mean(0) if len(self.corners) == 3 else torch.zeros(2)
        first = nn.Linear(len(self.corners), 2)
        with torch.no_grad():
            first.weight.copy_((self.corners - middle).T)
            first.bias.copy_(middle)
        return nn.Sequential(nn.Flatten(), first, *model).eval()

    def drawn(self, x: Tensor) -> Tensor:  # [k, *input] -> [k, 2]
        return x.double().flatten(1) @ self.corners

    def lifted(self, points: Tensor, like: Tensor) -> Tensor:  # [k, 2], [1, *input] -> [k, *input]
        """Inputs that are drawn at these points; with three entries, those of the same sum as `like`."""
        matrix, right = self.corners.T, points.T
        if len(self.corners) == 3:
            matrix = torch.cat([matrix, matrix.new_ones(1, 3)])
            right = torch.cat([right, like.double().sum().expand(1, len(points))])
        return torch.linalg.solve(matrix, right).T.reshape(-1, *like.shape[1:])

    def outline(self, inputs: InputSet, directions: int = 360) -> Tensor:  # [directions, 2]
        """Corners of the polygon that the support function cuts out of the plane, one half-plane per direction."""
        step = 2 * torch.pi / directions
        angles = step * torch.arange(directions, dtype=torch.float64)
        normals = torch.stack([angles.cos(), angles.sin()], 1)
        coefficients = (normals @ self.corners.T).reshape(1, directions, *inputs.shape)
        height = inputs.support(Dense(coefficients))[0]
        along = (height.roll(-1) - height * torch.cos(angles[1])) / torch.sin(angles[1])
        return height.unsqueeze(1) * normals + along.unsqueeze(1) * normals.roll(-directions // 4, 0)


PIXELS = Plane(torch.eye(2, dtype=torch.float64))
#: the corners of the valid range
SQUARE = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
#: images of three pixels and one mass: each corner has it all in one pixel
TRIANGLE = Plane(torch.tensor([[0.06, 0.08], [0.5, 0.95], [0.94, 0.08]], dtype=torch.float64))


@dataclass(frozen=True)
class Scene:
    """One panel: a set around one input, and what is shown around it."""

    name: str  #: in the table
    title: str  #: in the picture
    inputs: InputSet
    colour: str = OTHER
    free: InputSet | None = None  #: the same set without the valid range
    plane: Plane = PIXELS
    angles: Sequence[float] = (15, 75, 135, 195, 255, 315)  #: where points to be projected are, in degrees
    away: float = 0.26  #: and how far off
    half: float = 0.32  #: half the width and height of the panel


def scenes() -> list[Scene]:
    """All panels."""
    corner, inner = torch.tensor([[0.92, 0.88]]), torch.tensor([[0.17, 0.29]])
    around: dict[str, Any] = {"angles": (20, 60, 120, 190, 240, 290), "away": 0.32, "half": 0.37}
    rows = torch.tensor([[[1.0, 2.0], [-1.0, 1.0], [1.0, -3.0]]])
    limits = (rows @ inner.T).squeeze(2) + torch.tensor([[0.12, 0.14, 0.3]])
    generators = torch.tensor([[[0.1, 0.02], [0.02, 0.08], [-0.05, 0.05]]])
    grey, image = torch.tensor([[0.64, 0.42]]), torch.tensor([[[[0.5, 0.3, 0.2]]]])
    kinds: list[Callable[..., InputSet]] = [LinfBall, L2Ball, L1Ball]
    balls = [
        Scene(name, title, kind(corner, radius, RANGE), COLOURS[name], kind(corner, radius), **around)
        for (name, title), kind, radius in zip(BALLS.items(), kinds, (0.18, 0.24, 0.31), strict=True)
    ]
    return [
        *balls,
        Scene("union", "union of three balls", Threat.of("linf+1.2*l2+1.5*l1").around(inner + 0.01, 0.1, RANGE)),
        Scene("polytope", "polytope", Polytope(rows, limits, inner - 0.18, inner + 0.18, nominal=inner)),
        Scene("zonotope", "zonotope, three generators", Zonotope(inner, generators)),
        Scene("brightness-contrast", "brightness and contrast", BrightnessContrast(grey, 0.06, 0.15)),
        Scene(
            "wasserstein", "Wasserstein ball, three pixels", WassersteinBall(image, 0.2), plane=TRIANGLE, half=0.52,
            angles=(30, 100, 160, 200, 330), away=0.3,
        ),
    ]  # fmt: skip


# measuring ----------------------------------------------------------------------------------------------------------


class Traced(MSD):
    """Multi steepest descent, on a set that is no union projected gradient descent, that keeps where it was."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.way: list[Tensor] = []

    def move(
        self, problem: AttackProblem, x: Tensor, direction: Tensor, length: float, target: Tensor | None
    ) -> Tensor:
        after = super().move(problem, x, direction, length, target)
        self.way += [x, after] if not self.way else [after]
        return after


@dataclass(frozen=True)
class Shown:
    """What was found for a scene; points are those of the picture [k, 2]."""

    outlines: list[Tensor]  #: of the set, or of each member of a union
    free: Tensor | None
    center: Tensor
    points: Tensor
    projected: Tensor
    way: Tensor
    answers: list[Answer]

    @classmethod
    def of(cls, scene: Scene, model: nn.Sequential) -> Shown:
        inputs, plane = scene.inputs, scene.plane
        network, x = plane.network(model), inputs.center().float()
        angles = torch.tensor(scene.angles, dtype=torch.float64).deg2rad()
        points = plane.drawn(x) + scene.away * torch.stack([angles.cos(), angles.sin()], 1)
        many = inputs.select(torch.zeros(len(points), dtype=torch.int64))
        asked = {"": inputs} if scene.free is None else {"anywhere": scene.free, "within [0, 1]": inputs}
        return cls(
            outlines=[plane.outline(m) for m in (inputs.members if isinstance(inputs, Union) else [inputs])],
            free=None if scene.free is None else plane.outline(scene.free),
            center=plane.drawn(x),
            points=points,
            projected=plane.drawn(many.project(plane.lifted(points, x))),
            way=plane.drawn(torch.cat(way(network, inputs, x))),
            answers=[Answer.of(name, each, network, x, plane) for name, each in asked.items()],
        )


@dataclass(frozen=True)
class Answer:
    """What `verify` said of one set."""

    name: str  #: "", or what the valid range was
    verdict: Verdict
    stage: str | None
    counterexample: Tensor  # [0 or 1, 2]

    @classmethod
    def of(cls, name: str, inputs: InputSet, network: nn.Module, x: Tensor, plane: Plane) -> Answer:
        result = verify(network, x, input_set=inputs)
        found = [point for point in result.counterexample if point is not None]
        drawn = plane.drawn(torch.stack(found)) if found else plane.drawn(x)[:0]
        return cls(name, result.verdict[0], result.decided_by[0], drawn)


def way(network: nn.Module, inputs: InputSet, x: Tensor) -> list[Tensor]:
    """The points of one run of the attack from the center."""
    attack = Traced(steps=12, restarts=1, step=0.35, momentum=0.5, stop=-torch.inf)
    attack.run(AttackProblem(network, inputs, robustness(network(x).argmax(1), 2)))
    return attack.way


def attacked_distance(
    model: nn.Module, x: Tensor, around: Callable[[Tensor, Tensor], InputSet], bisections: int, attack: PGD
) -> Tensor:
    """The least radius [B] at which the attack succeeds, by bisection."""
    spec = robustness(model(x).argmax(1), 2)
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 2.0, dtype=torch.float64)
    for _ in range(bisections):
        middle = 0.5 * (low + high)
        broken = attack.run(AttackProblem(model, around(x, middle), spec)).value < 0
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return high


@dataclass(frozen=True)
class Maps:
    """Per kind of ball, over a grid of inputs [side * side, 2]: certified radii and distances of attacks."""

    x: Tensor
    certified: dict[str, Tensor]
    attacked: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, side: int, bisections: int) -> Maps:
        middles = (torch.arange(side) + 0.5) / side
        x = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), 2).reshape(-1, 2)
        certified, attacked = {}, {}
        for name in COLOURS:
            certified[name] = certified_radius(model, x, threat=name, clip=RANGE).radius
            around = partial(Threat.of(name).around, clip=RANGE)
            attacked[name] = attacked_distance(model, x, around, bisections, PGD(steps=12, restarts=12))
        return cls(x, certified, attacked)


def table(panels: list[tuple[Scene, Shown]], maps: Maps) -> str:
    """What was found, in text."""
    lines = [f"{'set':<20} {'largest first':>14}  verdict"]
    for scene, shown in panels:
        reach = torch.cat(shown.outlines)[:, 0].max()
        told = (" ".join(filter(None, [a.verdict.value, a.name, f"by {a.stage}"])) for a in shown.answers)
        lines.append(f"{scene.name:<20} {reach:>14.4f}  {', '.join(told)}")
    lines += ["", f"{f'radii, {len(maps.x)} inputs':<20} {'certified':>9} {'attacked':>9}  certified <= attacked"]
    for name in COLOURS:
        certified, attacked = maps.certified[name], maps.attacked[name]
        share = (certified <= attacked).double().mean()
        lines.append(f"{name:<20} {certified.mean():>9.4f} {attacked.mean():>9.4f}  {100 * share:.1f} %")
    return "\n".join(lines)


# drawing ------------------------------------------------------------------------------------------------------------


def decision(
    model: nn.Module, x_ends: tuple[float, float], y_ends: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of a grid, [200] each, and the logit of class 1 minus that of class 0 there, [200, 200]."""
    first, second = torch.linspace(*x_ends, 200), torch.linspace(*y_ends, 200)
    grid = torch.stack(torch.meshgrid(first, second, indexing="xy"), 2)
    with torch.no_grad():
        logits = model(grid.reshape(-1, 2))
    return first, second, (logits[:, 1] - logits[:, 0]).reshape(200, 200)


def draw_scene(axis: Any, scene: Scene, shown: Shown, model: nn.Module) -> None:
    """One panel."""
    from matplotlib.patches import Polygon

    middle = shown.center[0] if scene.plane is PIXELS else torch.tensor([0.5, 0.5])
    ends = [(float(m) - scene.half, float(m) + scene.half) for m in middle]
    margins = decision(model, *ends)
    axis.contourf(*margins, levels=[-1e9, 0, 1e9], colors=TINTS)
    axis.contour(*margins, levels=[0], colors="#333333", linewidths=1.3)
    fade_outside(axis, TRIANGLE.corners if scene.plane is TRIANGLE else SQUARE)
    if scene.plane is TRIANGLE:
        for pixel, (at, side) in enumerate(zip(TRIANGLE.corners.tolist(), ("left", "left", "right"), strict=True), 1):
            axis.annotate(f" pixel {pixel} ", at, ha=side, va="top" if pixel != 2 else "center", fontsize=8)
    if shown.free is not None:
        axis.add_patch(
            Polygon(shown.free.numpy(), fill=False, color=scene.colour, linewidth=1.2, linestyle=(0, (4, 2)))
        )
    union = isinstance(scene.inputs, Union)
    for outline, colour in zip(shown.outlines, COLOURS.values() if union else [scene.colour], strict=True):
        axis.add_patch(Polygon(outline.numpy(), facecolor=colour, alpha=0.18, linewidth=0))
        axis.add_patch(Polygon(outline.numpy(), fill=False, edgecolor=colour, linewidth=1.5))
    for start, end in zip(shown.points.tolist(), shown.projected.tolist(), strict=True):
        arrow = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", end, start, arrowprops=arrow)
    axis.plot(*shown.points.T, "o", markersize=3.5, markerfacecolor="white", markeredgecolor="#555555", linestyle="")
    axis.plot(*shown.way.T, "-o", color=ATTACK, linewidth=1.2, markersize=2.6)
    axis.plot(*shown.center.T, "o", color="black", markersize=4.5)
    axis.plot(
        *torch.cat([a.counterexample for a in shown.answers]).T,
        "X",
        color=ATTACK,
        markeredgecolor="white",
        markersize=9,
        linestyle="",
    )
    axis.set(xlim=ends[0], ylim=ends[1], aspect="equal", xticks=[], yticks=[])
    axis.set_title(scene.title, fontsize=10.5, pad=18)
    write_verdicts(axis, shown)


def fade_outside(axis: Any, valid: Tensor) -> None:  # [k, 2], clockwise
    """The valid range's border, and a veil over everything outside."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    whole, hole = Curve([(-1, -1), (2, -1), (2, 2), (-1, 2), (-1, -1)]), Curve([*valid.tolist(), valid[0].tolist()])
    veil = Curve.make_compound_path(whole, hole)
    axis.add_patch(PathPatch(veil, facecolor="white", alpha=0.65, linewidth=0))
    axis.add_patch(Polygon(valid.numpy(), fill=False, color="#777777", linewidth=0.9))


def write_verdicts(axis: Any, shown: Shown) -> None:
    """Under the title."""
    places = [(0.5, "center")] if len(shown.answers) == 1 else [(0.0, "left"), (1.0, "right")]
    for answer, (at, side) in zip(shown.answers, places, strict=True):
        told = ": ".join(filter(None, [answer.name, answer.verdict.value]))
        axis.text(at, 1.025, told, transform=axis.transAxes, ha=side, fontsize=8.5, color=VERDICTS[answer.verdict])


def legend(figure: Any) -> None:
    """What the marks of the panels mean."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    marks = {
        "clean input": Line2D([], [], marker="o", color="black", linestyle="", markersize=4.5),
        "set": Line2D([], [], color=OTHER, linewidth=1.5),
        "without the valid range": Line2D([], [], color=OTHER, linewidth=1.2, linestyle=(0, (4, 2))),
        "a point and its projection": Line2D([], [], marker="o", markerfacecolor="white", color=grey, linewidth=0.8),
        "attack": Line2D([], [], marker="o", color=ATTACK, linewidth=1.2, markersize=2.6),
        "counterexample": Line2D([], [], marker="X", color=ATTACK, markeredgecolor="white", markersize=9, linestyle=""),
        "decision boundary": Line2D([], [], color="#333333", linewidth=1.3),
        "valid range": Line2D([], [], color="#777777", linewidth=0.9),
    }
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=8, fontsize=8.5, frameon=False)


def draw_maps(figure: Any, maps: Maps, model: nn.Module) -> None:
    """Certified radii above attacked distances, one column per ball, and one against the other."""
    side = round(len(maps.x) ** 0.5)
    places = [["linf", "l2", "l1", "both"], ["linf-", "l2-", "l1-", "both"]]
    layout = figure.subplot_mosaic(places, width_ratios=[1, 1, 1, 1.3])
    most = max(float(values.max()) for values in (*maps.certified.values(), *maps.attacked.values()))
    rows = (("", maps.certified, "certified radius"), ("-", maps.attacked, "distance of the attack"))
    for suffix, values, title in rows:
        for name, label in BALLS.items():
            axis = layout[name + suffix]
            grid = values[name].reshape(side, side)
            image = axis.imshow(grid, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=most)
            axis.contour(*decision(model, RANGE, RANGE), levels=[0], colors="white", linewidths=1.3)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{title}, {label}", fontsize=10.5)
    maps_axes = [axis for name, axis in layout.items() if name != "both"]
    figure.colorbar(image, ax=maps_axes, location="left", shrink=0.9, label="radius")
    axis = layout["both"]
    for name, label in BALLS.items():
        axis.plot(
            maps.attacked[name], maps.certified[name], ".", markersize=3, color=COLOURS[name], alpha=0.5, label=label
        )
    axis.plot([0, most], [0, most], color="#333333", linewidth=0.9)
    axis.set(xlim=(0, most), ylim=(0, most), aspect="equal", xlabel="distance of the attack", ylabel="certified radius")
    axis.set_title("an attack within the certified radius\nwould be above the line", fontsize=10.5)
    axis.legend(fontsize=9, frameon=False, loc="upper left", markerscale=4)


def draw(panels: list[tuple[Scene, Shown]], maps: Maps, model: nn.Module, path: Path, dpi: int) -> None:
    """The figure, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure: Any = Figure(figsize=(12.5, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=[1.12, 1])
    for axis, (scene, shown) in zip(above.subplots(2, 4).flat, panels, strict=True):
        draw_scene(axis, scene, shown, model)
    legend(above)
    draw_maps(below, maps, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("threat-models.png"), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="few points and a small picture")
    options = parser.parse_args(arguments)
    try:
        needs_matplotlib()
    except InputError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # the same sums on any number of cores
    model = trained()
    panels = [(scene, Shown.of(scene, model)) for scene in scenes()]
    maps = Maps.of(model, *((10, 6) if options.quick else (44, 12)))
    print(table(panels, maps))
    draw(panels, maps, model, options.out, 40 if options.quick else 85)
    print(f"\npicture: {options.out}")


if __name__ == "__main__":
    main()
