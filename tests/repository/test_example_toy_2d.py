"""The example of robust training in the plane."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "toy_2d.py"
PNG = b"\x89PNG\r\n\x1a\n"


def test_it_draws_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # nothing of it stays with other tests
    example = runpy.run_path(str(SCRIPT))
    example["main"](["--steps", "12", "--out", str(tmp_path / "new" / "toy.png")])
    picture = (tmp_path / "new" / "toy.png").read_bytes()
    assert picture.startswith(PNG) and len(picture) > 20_000
    rows = re.findall(r"^(standard|robust) +(\d+) +(\d+) +(\d+) +(\d+)$", capsys.readouterr().out, re.M)
    assert [name for name, *_ in rows] == ["standard", "robust"]
    for _, *counts in rows:
        right, dual, verified, falsified = map(int, counts)
        assert dual <= verified <= right <= 12 and verified + falsified <= 12


def test_points_are_apart_and_the_polygon_holds_the_image() -> None:
    example = runpy.run_path(str(SCRIPT))
    points, label = example["sample"]()
    distance = (points.unsqueeze(0) - points.unsqueeze(1)).abs().amax(2)
    distance.fill_diagonal_(1.0)
    assert points.shape == (12, 2) and distance.min() >= 0.16 and set(label.tolist()) == {0, 1}
    torch.manual_seed(0)
    model = example["toy"]()
    image = example["Image"].of(model.eval(), points[0], side=40, directions=16)
    # counterclockwise corners: every output is to the left of every edge
    edge = image.outer.roll(-1, 0) - image.outer
    away = image.true.unsqueeze(1) - image.outer
    cross = edge[:, 0] * away[..., 1] - edge[:, 1] * away[..., 0]
    assert image.true.shape == (1600, 2) and (cross >= -1e-9).all()
    # and the bound is no idle one
    size = image.true.amax(0) - image.true.amin(0)
    assert (image.outer.amax(0) - image.outer.amin(0) < 20 * size).all()
