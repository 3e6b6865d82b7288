"""Pictures: what is in them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import verifier
from verifier.comparison.report import CrossCheck, MarginRows

pytest.importorskip("matplotlib")

from verifier.plot import draw_cactus, draw_curve, draw_example, draw_margins

PNG = b"\x89PNG\r\n\x1a\n"


def coloured() -> tuple[nn.Module, torch.Tensor, verifier.Result]:
    """A network that likes red, an image that is a little redder than blue, and its counterexample."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    with torch.no_grad():
        weight = torch.tensor([1.0] * 16 + [0.0] * 16 + [-1.0] * 16)
        model[1].weight.copy_(torch.stack([weight, -weight]))  # type: ignore[union-attr, operator, arg-type]
        model[1].bias.zero_()  # type: ignore[union-attr, operator]
    x = torch.cat([torch.full((1, 1, 4, 4), v) for v in (0.6, 0.3, 0.55)], 1)
    return model, x, verifier.verify(model, x, 0.1, clip=(0, 1), stages=["attack"])


def test_images_of_three_channels_are_drawn_in_colour(tmp_path: Path) -> None:
    model, x, result = coloured()
    figure = draw_example(model, x[0], result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    clean, fooling, change = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:3])
    assert clean.shape == fooling.shape == change.shape == (4, 4, 3)
    assert np.allclose(clean[0, 0], [0.6, 0.3, 0.55], atol=1e-6)
    assert change[0, 0, 0] < 0.5 < change[0, 0, 2]  # less red, more blue
    with pytest.raises(verifier.InputError, match="no image"):
        draw_example(model, x[0].flatten(), result)


def test_margins_by_verdict() -> None:
    _, _, result = coloured()
    (axis,) = draw_margins(result).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["falsified: 1, 1 without a bound"]


def test_a_curve_is_about_one_question() -> None:
    model, x, _ = coloured()
    data = torch.cat([x, x * 0.9]), torch.tensor([0, 0])
    reports = [verifier.certify(model, *data, eps, clip=(0, 1), stages=["attack", "dual"]) for eps in (0.1, 0.001)]
    (axis,) = draw_curve(reports).axes
    lines = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axis.lines}
    assert list(lines["verified"][0]) == [0.001, 0.1] and list(lines["verified"][1]) == [1.0, 0.0]
    other = verifier.certify(model, *data, 0.1, threat="l2", clip=(0, 1), stages=["attack", "dual"])
    for wrong in ([], [*reports, other]):
        with pytest.raises(verifier.InputError, match="curve"):
            draw_curve(wrong)


def test_a_cactus_counts_right_answers(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("name,status,seconds,wrong\na,unsat,2.0,\nb,sat,0.5,no witness\nc,timeout,9.0,\nd,sat,1.0,\n")
    (axis,) = draw_cactus({"ours": table, "peer": [0.1, 3.0, 4.0]}).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["ours: 2", "peer: 3"]
    assert axis.get_xscale() == "log" and list(axis.lines[0].get_xdata()) == [1e-3, 1.0, 2.0]
    for text in ("a,b\n1,2\n", "name,status,seconds,wrong\na,maybe,1,\n"):
        table.write_text(text)
        with pytest.raises(verifier.InputError, match="no table"):
            draw_cactus({"ours": table})


def test_a_crosscheck_is_drawn_as_gaps(tmp_path: Path) -> None:
    rows = MarginRows(0, torch.tensor([0]), torch.tensor([[1, 2]]))
    values = {"lp": torch.tensor([[0.5, -1.0]]), "dual": torch.tensor([[0.4, torch.nan]])}
    found = CrossCheck(rows, values, {name: torch.ones(1, 2) for name in values}, (), 0.1)
    found.plot(tmp_path / "gaps.png")
    assert (tmp_path / "gaps.png").read_bytes().startswith(PNG)
    with pytest.raises(verifier.InputError, match="no gaps"):
        found.plot(tmp_path / "none.png", ["zonotope"])
