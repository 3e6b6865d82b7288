"""Every command with every backend, in a process of its own: its standard output holds what we print, and no more.

The backend makes noise on descriptor 1 at every step, so that the test does not hang on what some version prints.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from helpers.environment import importing
from helpers.models import labelled, small_image_mlp
from helpers.onnx_files import vnnlib, write_absolute

import verifier.commands.app
from solvers import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 3, 4)
MODEL = ["--model", "helpers.models:small_image_mlp", "--data", "data.npz"]

#: the command line with "highs" replaced by the backend that the first argument names, and its noise
LAUNCH = """
import sys
real = sys.argv.pop(1)
sys.argv[0] = "verifier"
from verifier.__main__ import main
from verifier.commands.stdout import own_stdout
own_stdout()
from helpers.fake_backends import noisy_in_place_of_highs
noisy_in_place_of_highs(real)
main()
"""

#: commands that solve programs, by a name: their arguments
SOLVING = {
    "certify": ["certify", *MODEL, "--eps", "0.05", "--stages", "clean,lp,milp", "--out", "run.sqlite"],
    "explain": ["explain", *MODEL, "--eps", "0.05", "--stages", "clean,lp"],
    "crosscheck": ["crosscheck", *MODEL, "--eps", "0.05", "--n", "1", "--workers", "0", "--csv", "rows.csv"],
    "vnnlib": ["vnnlib", "net.onnx", "unsat.vnnlib", "--stages", "lp,branch-input"],
    "bench": ["bench", "list.csv", "--stages", "lp,branch-input", "--in-process", "--out", "results"],
}
#: and those that solve none
OTHERS = {
    "show": ["show", "run.sqlite", "--failures"],
    "check": ["check", "certs"],
    "train": ["train", "--list"],
    "merge": ["merge", "run.sqlite", "again.sqlite", "--out", "all.sqlite"],
    "report": ["report", "run.sqlite", "--out", "run.html"],
    "verify": ["verify", *MODEL, "--eps", "0.05", "--stages", "clean,dual"],
    "attack": ["attack", *MODEL, "--eps", "0.05"],
    "bounds": ["bounds", *MODEL, "--eps", "0.05", "--first", "1"],
    "radius": ["radius", *MODEL, "--first", "1", "--stages", "clean,dual"],
}


#: those of them that read what `certify` wrote
READING = {"show", "check", "merge", "report"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    images, labels = labelled(small_image_mlp(SHAPE), SHAPE, 4)
    np.savez(folder / "data.npz", images=images.numpy(), labels=labels.numpy())
    write_absolute(folder / "net.onnx")
    box = [("0", "0.5"), ("-0.5", "0.5")]
    (folder / "unsat.vnnlib").write_text(vnnlib(box, 2, "(>= Y_0 1.5)"))
    (folder / "sat.vnnlib").write_text(vnnlib(box, 2, "(>= Y_0 0.5)"))
    (folder / "list.csv").write_text("net.onnx,unsat.vnnlib,60,unsat\n")
    return folder


def environment() -> dict[str, str]:
    return {**importing(ROOT, ROOT / "tests"), "COLUMNS": "100", "PYTHONUTF8": "1", "NO_COLOR": "1"}


def ran(place: Path, arguments: list[str], *start: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *(start or ("-m", "verifier")), *arguments], cwd=place, env=environment(),
        capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def fresh(place: Path) -> None:
    for name in ("run.sqlite", "results/results.csv"):
        (place / name).unlink(missing_ok=True)


#: what a table of ours is made of; titles and notes come before or after it
TABLE = r"[┏┃┡│├└ ].*"


def only(*patterns: str) -> Callable[[Path, str], None]:
    """Each line is one of these, and the first is first."""

    def check(place: Path, text: str) -> None:
        lines = text.splitlines()
        assert lines and re.fullmatch(patterns[0], lines[0]), text
        strange = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in patterns)]
        assert not strange, strange

    return check


def rows_of_crosscheck(place: Path, text: str) -> None:
    only(r"eps 0.05, 1 examples, 3 rows each, all laws hold *", TABLE)(place, text)
    with (place / "rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 3


def silent(place: Path, text: str) -> None:
    assert text == ""


def unsat(place: Path, text: str) -> None:
    assert text == "unsat\n"


LOOKS: dict[str, Callable[[Path, str], None]] = {
    "certify": only(r"eps 0.05 *", TABLE),
    "explain": only(
        r"network: \[1, 3, 4\] -> .*",
        r"stages, in .*",
        r"order was given\) *",
        TABLE,
        r"arithmetic: .*",
        r"(clean|lp): .*",
    ),
    "crosscheck": rows_of_crosscheck,
    "vnnlib": unsat,
    "bench": only(r" *", r" network  n  sat .*", r" ─+ *", r" net +1 .*"),
    "show": only(r"eps 0.05 *", TABLE, r"index label prediction .*", r"\d+ \d+ .*"),
    "check": only(r"valid    \d{6}\.cert  > .*", r"(\d) of \1 certificates are valid", r"network \w{64}", r"bytes: .*"),
    "merge": only(r"eps 0.05 *", TABLE),
    "report": silent,
    "verify": only(r"verdict: .*", r"[\w ']+: .*"),
    "attack": only(r"attack: .*", r"[\w ()]+: .*"),
    "bounds": only(r"dual-adaptive, .*", TABLE),
    "radius": only(r".*", TABLE),
    "train": only(r"methods \(--method; .*", r"architectures \(--arch\):", r"  [\w-]+ +\S.*"),
}


@pytest.mark.parametrize(
    "real", [pytest.param(name, marks=() if name == "highs" else pytest.mark.slow) for name in sorted(REGISTRY)]
)
@pytest.mark.parametrize("command", sorted(SOLVING))
def test_a_command_that_solves_prints_only_its_own_output(command: str, real: str, place: Path) -> None:
    if not REGISTRY[real]().available():
        pytest.skip(f"{real} is not installed")
    fresh(place)
    done = ran(place, SOLVING[command], "-c", LAUNCH, real)
    LOOKS[command](place, done.stdout)
    if command != "bench":  # which has workers ask the solvers
        assert "NOISE asked\n" in done.stderr and "NOISE asked, held back\n" in done.stderr


def test_as_it_is_called_by_a_user(place: Path) -> None:
    """With the backend as it is, and nothing on the standard error where nothing was asked for."""
    done = ran(place, [*SOLVING["vnnlib"], "--quiet"])
    assert (done.stdout, done.stderr) == ("unsat\n", "")
    done = ran(place, ["vnnlib", "net.onnx", "sat.vnnlib", "--quiet"])
    assert done.stdout.startswith("sat\n((X_0 ") and done.stderr == ""


@pytest.mark.slow
def test_commands_that_read_what_others_wrote(place: Path) -> None:
    fresh(place)
    done = ran(place, [*SOLVING["certify"], "--certificates", "certs", "--quiet"])
    LOOKS["certify"](place, done.stdout)
    assert done.stderr == ""
    shutil.copy(place / "run.sqlite", place / "again.sqlite")
    for command in READING:
        LOOKS[command](place, ran(place, OTHERS[command]).stdout)


@pytest.mark.slow  # what they print is looked at in one process by their own tests
@pytest.mark.parametrize("command", sorted(OTHERS.keys() - READING))
def test_commands_that_read_nothing_of_ours(command: str, place: Path) -> None:
    LOOKS[command](place, ran(place, OTHERS[command]).stdout)


def test_no_command_is_left_out() -> None:
    group = typer.main.get_command(verifier.commands.app.app)
    assert isinstance(group, typer.core.TyperGroup)
    assert set(group.list_commands(typer.Context(group))) == {*SOLVING, *OTHERS}


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes descriptors")
def test_without_standard_streams(place: Path) -> None:
    asked = [*SOLVING["vnnlib"], "--out", "r.txt"]
    for closed, printed in (("2>&-", "unsat\n"), (">&-", "")):
        (place / "r.txt").unlink(missing_ok=True)
        command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "verifier", *asked]
        done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
        assert (place / "r.txt").read_text() == "unsat\n"


LATE = """
import threading, time
from verifier.commands.stdout import own_stdout
own_stdout()
from helpers.fake_backends import Fake, shout
from verifier.testing.programs import random_program
from verifier.vnncomp.watchdog import Watchdog

asked = threading.Event()
def hang(program, cost):
    shout("asked")
    asked.set()
    time.sleep(60)

def late():
    asked.wait(60)
    print("timeout")

Watchdog(0.01, late)
program = random_program(0)
with Fake(hang).load(program) as session:
    session.minimise(program.lower)
"""


def test_what_is_late_is_said_while_a_solver_is_at_work(place: Path) -> None:
    """By a thread that prints while the descriptor is pointed away."""
    done = ran(place, [], "-c", LATE)
    assert done.stdout == "timeout\n" and "NOISE asked\n" in done.stderr
