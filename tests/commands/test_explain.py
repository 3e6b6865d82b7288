"""`verifier explain`: which stages would run, in which order, and what each has been worth."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from properties import LinfBall, robustness
from verifier import Verifier
from verifier.api import DEFAULT_STAGES
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.commands.app import app
from verifier.query import Query
from verifier.stages import Stage, StageReport, stage
from verifier.verdict import StageCost, Trust

demo = pytest.importorskip("verifier.demo")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the demonstration's held-out digits, and data that is unusable."""
    place = tmp_path_factory.mktemp("explain")
    images, labels = (t.numpy() for t in demo.held_out_digits())
    np.savez(place / "digits.npz", images=images, labels=labels)
    np.savez(place / "uneven.npz", images=images, labels=labels[:-1])
    np.savez(place / "scalars.npz", images=1.0, labels=1)
    np.savez(place / "flat.npz", images=images.reshape(len(images), -1), labels=labels)
    np.savez(place / "empty.npz", images=images[:0], labels=labels[:0])
    return place


def explain(folder: Path, *flags: str, data: str = "digits.npz", columns: int = 140) -> Result:
    arguments = ["explain", "--model", "verifier.demo:network", "--data", str(folder / data), *flags]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def rows(shown: str) -> list[list[str]]:
    """The cells of the table's body."""
    lines = [line for line in shown.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_ladder_in_its_order(folder: Path) -> None:
    result = explain(folder)
    assert result.exit_code == 0, result.output
    table = rows(result.stdout)
    assert [cells[0] for cells in table] == list(DEFAULT_STAGES)
    assert all(cells[4:] == ["", "", ""] for cells in table), "nothing has been tried"
    for cells, name in zip(table, DEFAULT_STAGES, strict=True):
        part = stage(name)
        usual = {None: "counterexamples", Trust.FLOAT: "by certificate"}
        assert cells[1] == ", ".join(part.aliases)
        assert cells[2] == usual.get(part.trust, getattr(part.trust, "name", ""))
        assert cells[3] == ("float64" if part.precision is torch.float64 else "float32")
    assert "(the order adapts)" in " ".join(result.stdout.split())
    assert "network: [1, 8, 8] -> [10]" in result.stdout and "800 neurons" in result.stdout


def test_every_stage_says_what_it_does(folder: Path) -> None:
    shown = explain(folder, columns=300).stdout
    for name in DEFAULT_STAGES:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name}: ")]
        assert line == f"{name}: {stage(name).summary()}" and len(stage(name).summary()) > 10


def test_named_stages_in_the_order_named(folder: Path) -> None:
    result = explain(folder, "--stages", "milp, interval,dual")
    assert result.exit_code == 0 and [cells[0] for cells in rows(result.stdout)] == ["milp", "interval", "dual"]
    assert "(the order was given)" in " ".join(result.stdout.split())


def test_stages_go_by_the_field_s_names_as_well(folder: Path) -> None:
    """And are shown by their own."""
    result = explain(folder, "--stages", "ibp,crown,alpha-crown,beta-crown")
    assert result.exit_code == 0
    assert [cells[0] for cells in rows(result.stdout)] == ["interval", "dual-adaptive", "dual-optimised", "branch"]
    assert rows(result.stdout)[1][1] == "crown, deeppoly"


def test_with_a_radius_it_says_what_each_stage_was_worth(folder: Path) -> None:
    stages = "clean,interval,dual,attack,milp"
    result = explain(folder, "--eps", "0.06", "--clip", "0,1", "--first", "20", "--stages", stages)
    assert result.exit_code == 0, result.output
    left = 20
    for name, _, _, _, decided, seconds, moved in rows(result.stdout):
        if left == 0:
            assert (decided, seconds) == ("", ""), f"{name} had nothing to do"
            continue
        done, tried = map(int, re.fullmatch(r"(\d+) of (\d+)", decided).groups())  # type: ignore[union-attr]
        assert tried == left and float(seconds) >= 0 and moved == ""
        left -= done
    assert left == 0 and rows(result.stdout)[0][4].startswith("2 of")


def test_a_fraction_as_radius_and_fewer_examples_than_asked(folder: Path) -> None:
    result = explain(folder, "--eps", "1/1000", "--first", "100000", "--stages", "clean,interval")
    assert result.exit_code == 0 and rows(result.stdout)[0][4].endswith("of 597")


@pytest.mark.parametrize(
    ("data", "flags", "said"),
    [
        ("digits.npz", ("--stages", "magic"), "no stage is called 'magic'; there are: attack, "),
        ("digits.npz", ("--stages", ""), "--stages is names with commas between them"),
        ("digits.npz", ("--eps", "-1"), "eps must be"),
        ("digits.npz", ("--first", "0"), "--first must be"),
        ("digits.npz", ("--clip", "1", "--eps", "0.1"), "--clip must be low,high"),
        ("digits.npz", ("--images-key", "x"), "no array 'x'"),
        ("none.npz", (), "no data file"),
        ("scalars.npz", (), "must be [N, ...] and [N]"),
        ("uneven.npz", ("--eps", "0.01"), "597 images but 596 labels"),
        ("flat.npz", (), "fails on an input of shape"),
        ("empty.npz", (), "the data have no examples"),
        ("digits.npz", ("--weights", "none.safetensors"), "no weights file"),
    ],
)
def test_bad_input_is_one_message(folder: Path, data: str, flags: tuple[str, ...], said: str) -> None:
    result = explain(folder, *flags, data=data)
    assert result.exit_code == 2, result.output
    assert said in result.stderr and result.stdout == "" and "Traceback" not in result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("error: ") == 1


def test_names_are_whole_on_a_narrow_terminal(folder: Path) -> None:
    result = explain(folder, columns=80)
    assert [cells[0] for cells in rows(result.stdout)] == list(DEFAULT_STAGES)


# in Python -----------------------------------------------------------------------------------------------------------


class Idle(Stage):
    """Does nothing, for the sake of this test. More is not said of it."""

    name = "idle"
    cost_rank = 0
    precision = torch.float64

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        return StageReport()


def printed(verifier: Verifier) -> str:
    console = Console(width=140, color_system=None)
    with console.capture() as capture:
        console.print(verifier.explain())
    return capture.get()


def test_a_stage_of_one_s_own_is_explained_by_its_docstring() -> None:
    images, _ = demo.held_out_digits()
    shown = printed(Verifier(demo.network(), images[:1], stages=[Idle(), "dual"]))
    assert "idle: Does nothing, for the sake of this test\n" in shown
    assert rows(shown)[0][:4] == ["idle", "", "by certificate", "float64"]


def test_each_run_is_added_and_a_stage_that_moved_says_so() -> None:
    images, labels = demo.held_out_digits()
    verifier = Verifier(demo.network(), images[:1])
    for part in (slice(0, 3), slice(3, 8)):
        verifier.run(LinfBall(images[part], 0.01), robustness(labels[part], verifier.classes))
    assert rows(printed(verifier))[0][4].endswith("of 8")
    verifier.ladder.record([StageCost("zonotope", 0, 100, 1e4), StageCost("lp", 100, 100, 100.0)])
    (last,) = [cells for cells in rows(printed(verifier)) if cells[6]]
    assert last == rows(printed(verifier))[-1] and last[0] == "zonotope" and last[6] == "moved back"
    assert last[4:6] == ["0 of 100", "100.0000"]
