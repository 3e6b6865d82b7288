"""What commands share: options that are described once, read in one way, and given once."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from properties.named import QUESTIONS
from training.cli import train
from verifier.commands.app import app
from verifier.commands.attack import attack
from verifier.commands.bench import bench
from verifier.commands.bounds import bounds
from verifier.commands.certify import certify
from verifier.commands.check import check
from verifier.commands.command import add
from verifier.commands.crosscheck import crosscheck
from verifier.commands.explain import explain
from verifier.commands.options import seconds
from verifier.commands.radius import radius
from verifier.commands.show import show
from verifier.commands.verify import verify
from verifier.errors import InputError

COMMANDS = (
    "certify",
    "verify",
    "attack",
    "bounds",
    "radius",
    "explain",
    "crosscheck",
    "check",
    "show",
    "bench",
    "train",
)
SECONDS = ("timeout", "budget", "example_budget", "exact_seconds")
SHARED = ("data", "images_key", "labels_key", "scale", "shape", "first", "indices", "eps", "threat", "clip")


def options_of(command: str) -> dict[str, Any]:
    """The options of a command by their parameters' names."""
    group: Any = typer.main.get_command(app)
    found = group.get_command(None, command)
    return {one.name: one for one in found.params if one.param_type_name == "option"}


def call(*texts: str) -> Any:
    return CliRunner().invoke(app, list(texts))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_takes_one_value_is_refused_a_second_time(command: str) -> None:
    options = [one for one in options_of(command).values() if not one.is_flag and not one.multiple]
    assert options
    for option in options:
        result = call(command, option.opts[-1], "1", option.opts[0], "2")
        assert result.exit_code == 2 and result.stdout == "", result.output
        assert f"{option.opts[0]} is given more than once" in result.stderr


def test_the_options_of_vnnlib_too() -> None:
    for option in ("--timeout", "--out", "--certificates", "--threads", "--stages"):
        result = call("vnnlib", "net.onnx", "some.vnnlib", option, "1", option, "2")
        assert result.exit_code == 2 and result.stdout == ""
        assert f"{option} is given more than once" in result.stderr


def test_seconds_are_written_in_every_form_everywhere() -> None:
    asked = {(command, name) for command in COMMANDS for name in options_of(command) if name in SECONDS}
    assert len(asked) == 8
    texts = ("10s", "1.5 min", "2h", "inf", "60")
    assert [seconds(text) for text in texts] == [10, 90, 7200, float("inf"), 60]
    for command, name in asked:
        option = options_of(command)[name]
        result = call(command, option.opts[0], "soon")
        assert result.exit_code == 2 and "such as 60 or \"10s\", got 'soon'" in result.stderr, result.output
        assert "10s or 2min" in option.help and ("inf for no limit" in option.help) == (command != "crosscheck")


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_option_says_the_same_everywhere(name: str) -> None:
    found = [options_of(command) for command in COMMANDS if command not in ("bench", "show")]
    texts = [options[name].help for options in found if name in options]
    assert len(texts) >= 4 and len(set(texts)) == 1


def test_help_lists_the_questions() -> None:
    for command in ("certify", "explain"):
        assert QUESTIONS in options_of(command)["question"].help


@pytest.mark.parametrize(
    "function", [certify, explain, crosscheck, check, show, bench, train, verify, attack, bounds, radius]
)
def test_a_command_takes_few_parameters(function: Any) -> None:
    assert len(inspect.signature(function).parameters) <= 11


BAD = {
    "no such array": ("--images-key", "pictures"),
    "no scale": ("--scale", "0"),
    "no shape": ("--shape", "1,x"),
    "another shape": ("--shape", "7,7"),
    "no range": ("--clip", "1"),
    "no slice": ("--indices", "3:99"),
    "no number": ("--eps", "8/0"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_the_same_error_everywhere(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "data.npz", images=np.zeros((9, 1, 4, 4)), labels=np.zeros(9, int))
    given = {"--data": str(tmp_path / "data.npz"), "--eps": "0.1"}
    given[BAD[name][0]] = BAD[name][1]
    texts = [text for pair in given.items() for text in pair]
    network = ["--model", "training.architectures:small"]
    said = {
        call(command, *texts, *more).stderr.splitlines()[-1]
        for command, more in (
            ("certify", [*network, "--out", str(tmp_path / "run.sqlite")]), ("explain", network),
            ("crosscheck", network),
            ("train", ["--method", "standard", "--arch", "small", "--out", str(tmp_path / "net.safetensors")]),
        )
    }  # fmt: skip
    assert len(said) == 1 and "rror" in said.pop()


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: Annotated[int, typer.Option(help="A number.")] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    text: Annotated[str, typer.Option(help="A text.")]
    inner: Inner


def test_groups_of_options_are_flat_on_the_command_line() -> None:
    """And an error of the user's is one line, whoever wrote the command."""
    taken: list[tuple[Outer, bool]] = []

    def command(outer: Outer, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Does nothing."""
        taken.append((outer, loud))
        if loud:
            raise InputError("too loud")

    command.__annotations__ = {"outer": Outer, "loud": Annotated[bool, typer.Option("--loud")], "return": None}
    own = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    add(own, command)
    assert CliRunner().invoke(own, ["--text", "a"]).exit_code == 0
    failed = CliRunner().invoke(own, ["--text", "b", "--number", "4", "--loud"])
    assert (failed.exit_code, failed.stderr) == (2, "error: too loud\n")
    assert taken == [(Outer(text="a", inner=Inner()), False), (Outer(text="b", inner=Inner(number=4)), True)]
    assert CliRunner().invoke(own, []).exit_code == 2
