"""One table, as CSV and Markdown, and the curves of runs of `verifier train` with what `verifier certify` proved.

    python benchmarks/training_table.py NET.safetensors.run ... --out table [--keep DIR]

A run is its folder, or a record that --keep wrote. Of the folder NET.safetensors.run the store of `certify` is
NET.safetensors.sqlite beside it, as the printed command writes it, or --store's. --keep writes a record of each run:
its log and the counts of its store, some kilobytes of JSON to be kept in a repository; the store and the weights are
not needed any more. Writes table.csv, table.md and, with matplotlib, table.png.

Minutes of training are of the processor, all threads and sessions together. Those of verification are the seconds that
the stages worked on the images, all processes together.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.run_folder import LOG_JSON
from verifier.certification import Report
from verifier.errors import InputError, VerifierError

COLUMNS = (
    "set", "threat", "eps", "net", "method", "seed", "epochs", "images", "clean", "attacked", "verified", "undecided",
    "minutes train", "minutes verify", "literature",
)  # fmt: skip
LITERATURE = Path(__file__).with_name("literature.json")


@dataclass(frozen=True)
class Run:
    """A run of `train`, and what became of it."""

    name: str
    log: Mapping[str, Any]  #: log.json
    certified: Mapping[str, Any] | None  #: counts of the store; None: there is none

    def record(self) -> dict[str, Any]:
        return {"log": self.log, "certified": self.certified}

    @property
    def data_set(self) -> str:
        """By the files' names: what comes before "train"; else the first file's name; empty where nothing is known."""
        names = self.log["about"].get("data") or [""]
        stem = names[0].removesuffix(".npz")
        return stem.partition("train")[0].rstrip("_-. ") or stem

    def row(self, literature: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Of the table."""
        settings, about, found = self.log["settings"], self.log["about"], self.certified or {}
        return {
            "set": self.data_set, "threat": settings["threat"], "eps": f"{settings['eps']:.6g}",
            "net": about.get("network", "").rpartition(":")[2], "method": settings["method"],
            "seed": str(settings["seed"]), "epochs": str(len(self.log["epochs"])),
            **{name: str(found[name]) if found else "" for name in ("images", "undecided")},
            **{name: _percent(found.get(name)) for name in ("clean", "attacked", "verified")},
            "minutes train": f"{about['processor_minutes']:.1f}",
            "minutes verify": f"{found['minutes']:.1f}" if found else "",
            "literature": self._literature(literature),
        }  # fmt: skip

    def is_about(self, entry: Mapping[str, Any]) -> bool:
        """Whether a figure of the literature is on the run's set and sets."""
        settings = self.log["settings"]
        return bool(
            entry["set"] == self.data_set and entry["threat"] == settings["threat"]
            and abs(entry["eps"] - settings["eps"]) < 1e-6
        )  # fmt: skip

    def _literature(self, known: Sequence[Mapping[str, Any]]) -> str:
        return "; ".join(
            f"{100 - entry['robust_error']:.2f} % ({entry['source']})" for entry in known if self.is_about(entry)
        )


def read(place: Path, store: Path | None = None) -> Run:
    """A run from its folder, or from a record.

    Raises:
        InputError: neither of them, or a store of another radius or threat model than the run's.
    """
    try:
        if place.is_file():
            content = json.loads(place.read_text(encoding="utf-8"))
            return Run(place.stem, content["log"], content["certified"])
        log = json.loads((place / LOG_JSON).read_text(encoding="utf-8"))
        _ = log["settings"]["seed"], log["about"]["processor_minutes"], log["epochs"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{place} is neither a run's folder nor a record of one: {error!r}") from error
    name = place.name.removesuffix(".run")
    beside = place.with_name(f"{name}.sqlite") if store is None else store
    counts = _counts(Report.open(beside), beside, log["settings"]) if store is not None or beside.exists() else None
    return Run(name.removesuffix(".safetensors"), log, counts)


def _counts(report: Report, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    asked, found = report.meta["settings"], report.summary()
    for key in ("eps", "threat"):
        if asked.get(key, "linf") != settings[key]:
            raise InputError(
                f"{path} is on {key} {asked.get(key)}, and the run on {settings[key]}: give its own --store"
            )
    return {
        "images": found["examples"], "undecided": found["undecided"], "errors": found["errors"],
        "complete": report.complete, "minutes": sum(row.seconds for row in report.rows()) / 60,
        **{name: found[f"{name}_accuracy"] for name in ("clean", "attacked", "verified")},
    }  # fmt: skip


def write_table(runs: Sequence[Run], out: Path) -> None:
    """out.csv and out.md."""
    literature = json.loads(LITERATURE.read_text(encoding="utf-8"))
    rows = [run.row(literature) for run in runs]
    with out.with_name(f"{out.name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    known = [entry for entry in literature if any(run.is_about(entry) for run in runs)]
    about = [
        (e["set"], e["threat"], _radius(e["eps"]), _percent(1 - e["robust_error"] / 100), e["source"]) for e in known
    ]
    text = _markdown(COLUMNS[:-1], [[_shown(row, name) for name in COLUMNS[:-1]] for row in rows])
    if about:
        text += "\n" + _markdown(("set", "threat", "eps", "verified", "in the literature"), about)
    out.with_name(f"{out.name}.md").write_text(text, encoding="utf-8")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |\n" for row in (head, *rows)]
    return lines[0] + "|" + "---|" * len(head) + "\n" + "".join(lines[1:])


def _shown(row: Mapping[str, str], name: str) -> str:
    return _radius(float(row[name])) if name == "eps" else row[name]


def _radius(eps: float) -> str:
    """As users type it: grey levels of 255 where that is what a long number is."""
    levels = round(255 * eps)
    return f"{levels}/255" if len(f"{eps:.6g}") > 4 and abs(255 * eps - levels) < 1e-3 else f"{eps:.6g}"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss, clean and verified error on the validation images over the epochs, a line per run, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    kinds = ("loss", "clean", "attacked", "verified")
    for axis, kind in zip(figure.subplots(1, 4), kinds, strict=True):
        for run in runs:
            shown = [row for row in run.log["epochs"] if row[kind] is not None]
            values = [row[kind] if kind == "loss" else 1 - row[kind] for row in shown]
            axis.plot([row["epoch"] for row in shown], values, "o-", markersize=3, label=run.name)
        axis.set(xlabel="epoch", title="training loss" if kind == "loss" else f"1 - {kind} accuracy")
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}".replace("%", " %")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or records of them")
    parser.add_argument("--out", required=True, type=Path, help="of the files, without .csv, .md and .png")
    parser.add_argument("--store", action="append", type=Path, help="stores of `certify`, one for each run, in order")
    parser.add_argument("--keep", type=Path, help="folder for a record of each run")
    options = parser.parse_args(arguments)
    if options.store is not None and len(options.store) != len(options.runs):
        parser.error("give --store once for each run, or not at all")
    try:
        runs = [read(*pair) for pair in zip(options.runs, options.store or [None] * len(options.runs), strict=True)]
    except VerifierError as error:
        parser.error(str(error))
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        for run in runs:
            text = json.dumps(run.record(), indent=1) + "\n"
            (options.keep / f"{run.name}.json").write_text(text, encoding="utf-8")
    write_table(runs, options.out)
    if importlib.util.find_spec("matplotlib") is not None:
        draw(runs, options.out.with_name(f"{options.out.name}.png"))
    print(options.out.with_name(f"{options.out.name}.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
