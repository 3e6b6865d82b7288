"""Rows of the table of trained networks: each is trained and certified by two commands, from a settings file.

    python benchmarks/training_rows.py ROW... --data DIR --out DIR [--gpu] [--print] [--first N] [--epochs N]

ROW is a file of benchmarks/rows, such as cifar10-2; `all` is all of them. A row's [train] and [certify] are options of
`verifier train` and `verifier certify`, [train.set] are settings of the method. --gpu takes ROW-gpu.toml in its place:
the same row with the network and the epochs of the literature. --print shows the commands and runs nothing. What was
stopped goes on where it was. `python benchmarks/training_table.py DIR/*.run --out table` makes the table of what is
there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.run_folder import LOG_JSON

ROWS = Path(__file__).with_name("rows")
#: how the files of a set are read: of the training set, of the test set, and what `certify` must be told of their form
FILES = {
    "mnist": ("mnist/mnist_train.npz", "mnist/mnist_test.npz", ("--shape", "1,28,28")),
    "cifar10": ("cifar10/cifar10_train_*of5.npz", "cifar10/cifar10_test.npz", ("--layout", "nhwc")),
}


@dataclass(frozen=True)
class Row:
    """A row's settings, and where its files are."""

    name: str
    settings: Mapping[str, Any]
    data: Path
    out: Path

    @property
    def weights(self) -> Path:
        return self.out / f"{self.name}.safetensors"

    @property
    def run(self) -> Path:
        return self.weights.with_name(self.weights.name + ".run")

    def train(self) -> list[str]:
        """Words of `verifier train`."""
        given = dict(self.settings["train"])
        chosen = [word for name, value in given.pop("set", {}).items() for word in ("--set", f"{name}={value}")]
        files = self.data / FILES[self.settings["set"]][0]
        return [
            "train", "--data", str(files), *_options(given), *chosen, "--out", str(self.weights), "--resume"
        ]  # fmt: skip

    def certify(self, network: str) -> list[str]:
        """Words of `verifier certify`, for the network as the run's log names it."""
        _, files, form = FILES[self.settings["set"]]
        asked = {name: self.settings["train"][name] for name in ("eps", "threat") if name in self.settings["train"]}
        return [
            "certify", "--model", network, "--weights", str(self.weights), "--data", str(self.data / files), *form,
            *_options(asked), "--clip", "0,1", *_options(self.settings["certify"]),
            "--out", f"{self.weights}.sqlite", "--resume", "--quiet",
        ]  # fmt: skip

    def network(self) -> str:
        """The trained network's factory, from the log of its run."""
        return str(json.loads((self.run / LOG_JSON).read_text(encoding="utf-8"))["about"]["network"])


def _options(given: Mapping[str, Any]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def names() -> list[str]:
    """Of all rows."""
    return sorted(path.stem for path in ROWS.glob("*.toml") if not path.stem.endswith("-gpu"))


def names_of_gpu() -> list[str]:
    """Of all rows that have a run for a GPU; what the layerwise ones are elsewhere is in layerwise_training.py."""
    return sorted(path.stem.removesuffix("-gpu") for path in ROWS.glob("*-gpu.toml"))


def read(name: str, data: Path, out: Path, epochs: int | None = None, first: int | None = None) -> Row:
    """A row from its file, with other epochs, or only the first images of both sets, where they are given."""
    settings = tomllib.loads((ROWS / f"{name}.toml").read_text(encoding="utf-8"))
    if epochs is not None:
        settings["train"]["epochs"] = epochs
    if first is not None:
        settings["train"]["first"] = settings["certify"]["first"] = first
    return Row(name, settings, data, out)


def call(words: Sequence[str], shown: bool) -> None:
    """Run a command of ours, or only show it; a command that fails ends the script with its exit code."""
    print("verifier " + shlex.join(words), flush=True)
    if not shown and (code := subprocess.run([sys.executable, "-m", "verifier", *words], check=False).returncode):
        sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "rows", nargs="+", choices=[*names_of_gpu(), "all"], metavar="ROW", help=f"{', '.join(names_of_gpu())}, all"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, logs and stores")
    parser.add_argument("--gpu", action="store_true", help="the literature's network and epochs, on CUDA")
    parser.add_argument("--print", dest="shown", action="store_true", help="show the commands, and run nothing")
    parser.add_argument("--epochs", type=int, help="in place of the row's")
    parser.add_argument("--first", type=int, help="only so many training and test images")
    options = parser.parse_args(arguments)
    known = names_of_gpu() if options.gpu else names()
    for name in set(options.rows) - {*known, "all"}:
        parser.error(f"{name} is a row for a GPU: give --gpu. On a CPU it is one of benchmarks/layerwise_training.py")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in known if "all" in options.rows else options.rows:
        name = f"{name}-gpu" if options.gpu else name
        row = read(name, options.data, options.out, options.epochs, options.first)
        call(row.train(), options.shown)
        call(row.certify("NETWORK" if options.shown else row.network()), options.shown)


if __name__ == "__main__":
    main()
