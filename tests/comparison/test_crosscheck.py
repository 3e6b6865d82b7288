"""The cross-check: laws hold on random networks, one that is broken is loud, and what tables and files say."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import small_mlp
from helpers.oracle import exact_minimum, random_piecewise, random_tiny
from helpers.tiny_torch import TinyModule
from torch import Tensor
from typer.testing import CliRunner, Result

from verifier import InputError, InternalError, crosscheck
from verifier.commands.app import app
from verifier.comparison import METHODS, ComparisonMethod, ComparisonProblem, CrossCheck, Role
from verifier.comparison.plot import draw
from verifier.testing import check_comparison_method
from verifier.testing.networks import KINDS, random_network

EPS = 0.1
QUICK = ["leaky", "relu6", "skip", "max pool", "branches", "dense, badly scaled"]


def names(*chosen: str) -> list[ComparisonMethod]:
    return [METHODS[name] for name in chosen]


def small(**changes: object) -> CrossCheck:
    """A cross-check of a small network on four inputs, in this process."""
    options: dict = {"exact_seconds": 30.0, "workers": 0, **changes}
    return crosscheck(small_mlp().double(), inputs(), EPS, **options)


def inputs() -> Tensor:
    return torch.rand(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def shifted(name: str, by: float, other: str | None = None) -> ComparisonMethod:
    """A method that claims the values of `other` (default its own), plus a constant."""
    source = METHODS[other or name]
    return replace(METHODS[name], run=lambda problem: source.run(problem) + by)


def laws_of(report: CrossCheck) -> set[str]:
    return {v.law for v in report.violations}


# -- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lp", "exact"])
def test_programs_without_room_leave_their_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def refused(size: float) -> None:
        raise MemoryError

    monkeypatch.setattr("verifier.encoding.encoder.ask_memory", refused)
    report = small(methods=names("dual", name), progress=said.append)
    assert report.values[name].isnan().all() and not report.values["dual"].isnan().any()
    assert not report.violations and any("no memory" in line for line in said)


def test_bounds_without_room_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.device._SMALL", 0)
    monkeypatch.setattr("verifier.device.free_memory", lambda: 0.0)
    with pytest.raises(InputError, match="needs more memory for this network"):
        small(methods=names("dual"))


def test_a_method_that_always_answers_says_that_it_has_no_room() -> None:
    def starved(problem: ComparisonProblem) -> Tensor:
        raise MemoryError

    with pytest.raises(InputError, match=r"method dual .* memory"):
        small(methods=[replace(METHODS["dual"], run=starved)])


# -- the laws hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_laws_hold_on_random_networks(name: str) -> None:
    network = random_network(name, seed=2, batch=1)
    report = crosscheck(network.model, network.x, network.eps, exact_seconds=0, workers=0)
    report.check()
    assert report.values["lp"].isfinite().all() and report.values["exact"].isnan().all()
    assert list(report.values) == list(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_laws_hold_with_exact_values_and_wide_sets(name: str) -> None:
    for seed, scale in ((3, 1.0), (4, 0.3), (5, 4.0)):
        network = random_network(name, seed, batch=1)
        crosscheck(network.model, network.x, scale * network.eps, exact_seconds=1, workers=0).check()


@pytest.mark.parametrize("seed", range(8))
def test_exact_values_of_tiny_networks_are_the_oracles(seed: int) -> None:
    generator = np.random.default_rng(seed)
    network = random_tiny(generator) if seed % 2 else random_piecewise(generator)
    x = torch.from_numpy(np.round(generator.normal(size=(1, network.inputs)) * 16) / 16)
    report = crosscheck(TinyModule(network).eval(), x, 0.25, exact_seconds=30, workers=0)
    report.check()
    label, others = int(report.rows.label[0]), report.rows.other[0].tolist()
    rows = [np.eye(3)[label] - np.eye(3)[other] for other in others]
    low, high = x[0].numpy() - 0.25, x[0].numpy() + 0.25
    truth = torch.from_numpy(np.array([exact_minimum(network, row, 0.0, low, high).value for row in rows]))
    exact = report.values["exact"][0]
    known = ~exact.isnan()  # a network that is linear on the box has no integer program
    torch.testing.assert_close(exact[known], truth[known], rtol=1e-5, atol=1e-5)


def test_all_rows_of_all_examples_are_there() -> None:
    label = torch.tensor([0, 1, 2, 3])  # also of examples that the network gets wrong
    report = small(label=label)
    report.check()
    assert report.rows.other.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert all(values.shape == (4, 3) for values in report.values.values())
    assert all(report.values[name].isfinite().all() for name in METHODS)
    assert (report.values["attack"] - report.values["exact"]).max() < 0.05, "the attack is no use as a check"


def test_lines_may_beat_the_program_where_activations_are_smooth() -> None:
    """No law there, and none reported: the program holds other lines."""
    network = random_network("branches", seed=0, batch=2)
    report = crosscheck(network.model, network.x, network.eps, methods=names("dual-adaptive", "lp", "attack"))
    report.check()
    assert report.gaps()["dual-adaptive"].worst < 0 or (report.values["dual-adaptive"] > report.values["lp"]).any()


# -- a broken law is loud -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if Role.RELAXED in m.roles])
def test_a_relaxation_above_the_program_is_reported(name: str) -> None:
    report = small(methods=[*names("lp"), shifted(name, 1e-3, "lp")])
    assert f"{name} <= lp" in laws_of(report)
    assert len([v for v in report.violations if v.law == f"{name} <= lp"]) == 12
    worst = next(v for v in report.violations if v.law == f"{name} <= lp")
    assert worst.low - worst.high == pytest.approx(1e-3) and worst.tolerance < 1e-4
    said = report.describe(worst)
    assert "example 0, row 0 (class" in said and f"{name} <= lp is broken" in said and f"{worst.low:.9g}" in said
    with pytest.raises(InternalError, match=f"{name} <= lp is broken"):
        report.check()
    assert "BREAK A LAW" in str(report.table().title)


@pytest.mark.parametrize(
    ("wrong", "with_", "law"),
    [
        (lambda: shifted("exact", -1e-3, "lp"), "lp", "lp <= exact"),
        (lambda: shifted("attack", -1e-3, "exact"), "exact", "exact <= attack"),
        (lambda: shifted("interval", 1e-3, "exact"), "exact", "interval <= exact"),
        (lambda: shifted("interval", 1e-3, "attack"), "attack", "interval <= attack"),
    ],
)
def test_the_other_laws_of_order_are_checked(wrong: Callable[[], ComparisonMethod], with_: str, law: str) -> None:
    assert law in laws_of(small(methods=[wrong(), *names(with_)]))


def test_what_is_no_law_is_not_reported() -> None:
    """Intervals above every dual bound and above the program, the zonotope below and above the dual."""
    beyond = replace(METHODS["interval"], run=METHODS["exact"].run)
    report = small(methods=[beyond, *names("dual", "zonotope", "lp", "exact", "attack")])
    report.check()
    assert (report.values["interval"] > report.values["lp"] + 1e-3).any()


def test_nan_is_reported_and_so_is_infinity() -> None:
    for value, law in ((math.nan, "dual is a number"), (math.inf, "dual <= attack")):
        wrong = replace(METHODS["dual"], run=lambda p, v=value: torch.full(p.query.open.shape, v, dtype=torch.float64))
        assert law in laws_of(small(methods=[wrong, *names("attack")]))


@pytest.mark.parametrize("name", ["interval", "zonotope", "lp", "attack"])
def test_eps_zero_is_the_forward_pass(name: str) -> None:
    def loose(problem: ComparisonProblem) -> Tensor:
        nought = bool((problem.query.inputs.box()[0] == problem.query.inputs.box()[1]).all())
        return METHODS[name].run(problem) - (1e-3 if nought else 0.0)

    report = small(methods=[replace(METHODS[name], run=loose)])
    assert laws_of(report) == {f"{name} at eps 0 = forward pass"} and len(report.violations) == 12


def test_rounding_is_not_reported() -> None:
    small(methods=[*names("lp"), shifted("dual", 1e-13, "lp")]).check()


# -- what it says -------------------------------------------------------------------------------------------------


def test_gaps_and_table() -> None:
    report = small()
    gaps = report.gaps()
    difference = report.values["lp"] - report.values["dual"]
    assert gaps["dual"].worst == pytest.approx(float(difference.max()))
    assert gaps["dual"].median == pytest.approx(float(np.median(difference.numpy())))
    assert gaps["lp"].median == gaps["lp"].worst == 0 and gaps["exact"].worst <= 0
    assert gaps["dual"].rows == 12 and gaps["dual"].proved == int((report.values["dual"] > 0).sum())
    assert all(gap.seconds > 0 for gap in gaps.values())
    table = report.table()
    assert list(table.columns[0].cells) == list(METHODS) and table.row_count == len(METHODS)
    assert "4 examples, 3 rows each, all laws hold" in str(table.title)


def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    report = small(exact_seconds=0, first_index=7)
    assert report.gaps()["exact"].rows == 0 and math.isnan(report.gaps()["exact"].median)
    report.to_csv(tmp_path / "rows.csv")
    lines = list(csv.DictReader((tmp_path / "rows.csv").open()))
    order = [(str(e), str(s)) for e in range(7, 11) for s in range(3)]
    assert [(line["example"], line["row"]) for line in lines] == order
    assert all(line["exact"] == "" and float(line["dual seconds"]) > 0 for line in lines)
    for name in ("interval", "dual", "lp", "attack"):
        assert [float(line[name]) for line in lines] == report.values[name].flatten().tolist()
    for line, label in zip(lines, report.rows.label.repeat_interleave(3).tolist(), strict=True):
        assert int(line["label"]) == label != int(line["other"])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = small(methods=names("dual", "dual-adaptive", "dual-optimised", "lp"))
    report.plot(tmp_path / "one.png")
    draw({"a": report, "b": report}, tmp_path / "two.png", ["dual"])
    for name in ("one.png", "two.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_method_of_ones_own_is_one_entry() -> None:
    lowest = ComparisonMethod(
        "worst case", lambda p: torch.full(p.query.open.shape, -1e3).double(), frozenset({Role.LOWER})
    )
    report = small(methods=[*names("lp", "attack"), lowest])
    assert set(report.values) == {"lp", "attack", "worst case"}
    assert laws_of(report) == {"worst case at eps 0 = forward pass"}


def test_bad_arguments_are_input_errors() -> None:
    for changes in ({"exact_seconds": -1.0}, {"exact_seconds": math.nan}, {"label": [0, 1]}, {"clip": (0.9, 1.0)}):
        with pytest.raises(InputError):
            small(**changes)


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("sklearn")
    from verifier.demo import held_out_digits

    monkeypatch.chdir(tmp_path)
    images, labels = (t[:60].numpy() for t in held_out_digits())
    np.savez("digits.npz", images=images, labels=labels)
    np.savez("none.npz", images=images[:0], labels=labels[:0])
    return tmp_path


def call(*changes: str) -> Result:
    given = {"--model": "verifier.demo:network", "--data": "digits.npz", "--eps": "0.06", "--clip": "0,1"}
    given |= {"--exact-seconds": "0", "--workers": "0"}
    kept = [text for option, value in given.items() if option not in changes for text in (option, value)]
    return CliRunner().invoke(app, ["crosscheck", *kept, *changes])


def test_the_command_on_the_digits_network(digits: Path) -> None:
    pytest.importorskip("matplotlib")
    result = call("--n", "1", "--csv", "rows.csv", "--plot", "figure.png")
    assert result.exit_code == 0, result.stderr
    assert "1 examples, 9 rows each, all laws hold" in result.stdout and "lp: 9 rows in" in result.stderr
    assert all(f" {name} " in result.stdout for name in METHODS)
    assert len(list(csv.DictReader((digits / "rows.csv").open()))) == 9
    assert (digits / "figure.png").stat().st_size > 1000


def test_a_broken_law_is_exit_code_1_and_names_the_row(digits: Path) -> None:
    with METHODS.standing_in({"dual": shifted("dual", 1e-3, "lp")}):
        result = call("--indices", "3:5", "--csv", "rows.csv")
    assert result.exit_code == 1 and "BREAK A LAW" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert any(line.startswith("error: example 4, row 8 (class") and "dual <= lp is broken" in line for line in lines)
    assert (digits / "rows.csv").exists()  # to find out why


def test_quiet_prints_the_table_only(digits: Path) -> None:
    with METHODS.standing_in(dict.fromkeys(set(METHODS) - {"interval", "dual"})):
        result = call("--quiet")
    assert result.exit_code == 0 and result.stderr == "" and "50 examples, 9 rows" in result.stdout


def test_ctrl_c_is_exit_code_130(digits: Path) -> None:
    def interrupted(problem: ComparisonProblem) -> Tensor:
        raise KeyboardInterrupt

    with METHODS.standing_in({"dual": replace(METHODS["dual"], run=interrupted)}):
        result = call("--n", "1")
    assert result.exit_code == 130 and "interrupted" in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--n", "61"), "--n must be 1 to 60"),
        (("--n", "2", "--indices", "0:2"), "give --n or --indices, not both"),
        (("--eps", "-1"), "eps must be"),
        (("--data", "none.npz"), "nothing to check"),
        (("--n", "1", "--exact-seconds", "-1"), "it must be a number of seconds >= 0"),
        (("--n", "1", "--exact-seconds", "inf"), "exact_seconds must be"),
        (("--n", "1", "--workers", "-1"), "workers must be 0 or more"),
        (("--csv", "nowhere/rows.csv"), "does not exist"),
        (("--clip", "0.5,1"), "clip"),
    ],
)
def test_bad_input_is_one_clear_message(digits: Path, flags: tuple[str, ...], said: str) -> None:
    result = call(*flags)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output
    assert result.stdout == ""


def test_the_exact_optimum_of_a_row_is_between_the_program_and_the_attack() -> None:
    values = small().values
    assert (values["lp"] <= values["exact"] + 1e-6).all() and (values["exact"] <= values["attack"] + 1e-6).all()


@pytest.mark.parametrize("name", list(METHODS))
def test_conformance(name: str) -> None:
    check_comparison_method(METHODS[name])


def test_every_file_of_methods_was_loaded() -> None:
    assert len(METHODS) >= 10 and not METHODS.failures


def test_a_method_that_is_too_high_is_noticed() -> None:
    with pytest.raises(Exception, match="is broken") as broken:
        check_comparison_method(shifted("dual", 1e-3, "lp"))
    assert any("breaks a law" in note for note in broken.value.__notes__)
