"""The report on a run: rows, accuracies, a table, and exports."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor

from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow, stage_costs
from verifier.certification.store import Snapshot, Store, StorePath
from verifier.errors import StoreError
from verifier.files import json_text, text_replaced
from verifier.kernels import arithmetic_of
from verifier.tables import as_frame, as_html, as_latex
from verifier.verdict import Trust

if TYPE_CHECKING:
    import pandas


class Report:
    """What a run has found so far. Immutable: it does not follow a store that is still being written.

    Args:
        counterexample: of an example's index, [*input]; None where it has none.
    """

    def __init__(
        self, snapshot: Snapshot, counterexample: Callable[[int], Tensor | None], store: Path | None = None
    ) -> None:
        self._snapshot = snapshot
        self._counterexample = counterexample
        self._store = store  #: the file that the report is on, where there is one

    @classmethod
    def of(cls, store: Store) -> Report:
        """The report on an open store. Counterexamples are read from its file when asked for."""
        path = store.path
        return cls(store.snapshot(), store.counterexample if path is None else _CounterexampleReader(path), path)

    @classmethod
    def open(cls, path: StorePath) -> Report:
        """The report on a store file. Raises StoreError as `Store.open` does."""
        with Store.open(path) as store:
            return cls.of(store)

    def replaced(self, records: Sequence[ExampleRecord]) -> Report:
        """The same report with other rows of some examples, by index; no file knows of it."""
        new = {r.example.index: r for r in records}
        examples = tuple(new[e.index].example if e.index in new else e for e in self.rows())

        def counterexample(index: int) -> Tensor | None:  # [*input]
            return new[index].counterexample if index in new else self.counterexample(index)

        snapshot = replace(self._snapshot, examples=examples, stages=stage_costs(examples))
        return Report(snapshot, counterexample, self._store)

    @property
    def meta(self) -> Mapping[str, Any]:
        """Model, data and settings of the run with their hashes, and its sessions with their versions."""
        return self._snapshot.meta

    @property
    def digests(self) -> Mapping[int, str]:
        """Index of each example of the run -> sha256 of its image and label. None in stores of older releases."""
        return self._snapshot.data

    @property
    def store(self) -> Path | None:
        """The file that the report is on; None where the rows are in memory."""
        return self._store

    @property
    def complete(self) -> bool:
        """Whether every example of the run is in."""
        return len(self._snapshot.examples) == self.meta["examples"]

    def rows(self) -> tuple[ExampleRow, ...]:
        """One entry per example, by index."""
        return self._snapshot.examples

    def counterexample(self, index: int) -> Tensor | None:
        """The counterexample [*input] of example `index`, in the input's dtype; None where there is none."""
        return self._counterexample(index)

    def summary(self) -> dict[str, Any]:
        """Counts and accuracies over the examples in the report; accuracies of no examples are NaN.

        `attacked_accuracy` is the share of correctly classified examples that no attack broke,
        `verified_accuracy` the share proved to keep their label, `robust_error` one minus that; an example that
        raised counts against all of them. Where a question by name was asked these are the shares that it was not
        broken and proved of, and the clean accuracy is NaN. `trust` counts the proved ones by how far they are to be
        trusted. `seconds` is wall time over all sessions.
        """
        examples, seconds = self._snapshot.examples, self._snapshot.seconds
        named = self._question is not None
        verified = _share(examples, lambda e: e.outcome is ExampleOutcome.VERIFIED)
        return {
            "examples": len(examples),
            "clean_accuracy": math.nan if named else _share(examples, lambda e: e.correct),
            "attacked_accuracy": _share(examples, is_open_or_proved if named else is_unbroken),
            "verified_accuracy": verified,
            "robust_error": 1 - verified,
            "trust": {t.name: n for t in sorted(Trust, reverse=True) if (n := sum(e.trust is t for e in examples))},
            "undecided": sum(e.outcome is ExampleOutcome.UNKNOWN for e in examples),
            "errors": sum(e.outcome is ExampleOutcome.ERROR for e in examples),
            "seconds": seconds,
            "images_per_second": len(examples) / seconds if seconds > 0 else math.nan,
            "stages": {
                s.name: {"decided": s.decided, "attempted": s.attempted, "seconds": s.seconds}
                for s in self._snapshot.stages
            },
        }

    def table(self) -> Table:
        """The summary, for a terminal."""
        s = self.summary()
        table = Table(title=self._title(), title_justify="left", caption=self._caption(), caption_justify="left")
        for name in ("", "examples", "share", "seconds"):
            table.add_column(name, justify="left" if not name else "right")
        for name, key in _SHARES if self._question is None else _SHARES_OF_QUESTIONS:
            table.add_row(name, _count(s[key], s["examples"]), _percent(s[key]))
        for name, count in s["trust"].items():
            table.add_row(f"  with trust {name}", str(count), _percent(count / s["examples"]))
        table.add_row(
            "not proved (robust error)" if self._question is None else "not proved",
            _count(s["robust_error"], s["examples"]),
            _percent(s["robust_error"]),
        )
        for key in ("undecided", "errors"):
            table.add_row(key, str(s[key]), _percent(s[key] / s["examples"] if s["examples"] else math.nan))
        for name, count in self._by_network().items():
            table.add_row(name, str(count), _percent(count / s["examples"] if s["examples"] else math.nan))
        table.add_section()
        for name, stage in s["stages"].items():
            decided = f"{stage['decided']} of {stage['attempted']}"
            share = _percent(stage["decided"] / stage["attempted"] if stage["attempted"] else math.nan)
            table.add_row(f"stage {name}: decided", decided, share, f"{stage['seconds']:.2f}")
        table.add_section()
        table.add_row("in all", str(s["examples"]), f"{s['images_per_second']:.1f}/s", f"{s['seconds']:.2f}")
        return table

    def _by_network(self) -> dict[str, int]:
        """Of a cascade of networks: how many examples each decided, and at how many the cascade abstains."""
        networks = self.meta["settings"].get("networks")
        if networks is None:
            return {}
        decided = {f"decided by network {k}": sum(e.network == k for e in self.rows()) for k in range(networks)}
        return {**decided, "no answer (the cascade abstains)": sum(e.prediction == -1 for e in self.rows())}

    @property
    def _question(self) -> str | None:
        """What was asked by name; None: whether the label stays."""
        asked = self.meta["settings"].get("question")
        return None if asked is None else str(asked)

    def _title(self) -> str:
        settings = self.meta["settings"]
        given = ", ".join(
            f"{k} {v}"
            for k, v in settings.items()
            if k in ("eps", "threat", "clip", "semantics", "question", "networks", "rule")
            and v not in (None, "linf", "real")
        )
        done = "" if self.complete else f" - {len(self.rows())} of {self.meta['examples']} examples so far"
        return f"{given}{done}"

    def _caption(self) -> str | None:
        """Where bounds were computed, and how, if not on the CPU alone."""
        tried = {
            (s["device"], s["dtype"]) for one in self.meta["sessions"] if (s := one.get("settings", {})).get("device")
        }
        told = [arithmetic_of(torch.device(device), getattr(torch, dtype)) for device, dtype in sorted(tried)]
        return "\n".join(told) if any(device != "cpu" for device, _ in tried) else None

    def __len__(self) -> int:
        return len(self.rows())

    def __iter__(self) -> Iterator[ExampleRow]:
        return iter(self.rows())

    def __getitem__(self, index: int) -> ExampleRow:
        """A row by its place in the report, which in a run that is not complete need not be its `index`."""
        return self.rows()[index]

    def __getstate__(self) -> dict[str, Any]:
        """Counterexamples come along where no file has them."""
        if self._store is not None:
            return dict(self.__dict__)
        points = {e.index: point for e in self.rows() if (point := self.counterexample(e.index)) is not None}
        return {**self.__dict__, "_counterexample": points.get}

    def __repr__(self) -> str:
        return f"Report({self._title()}: {len(self)} examples)"

    def _repr_html_(self) -> str:
        cells = [[cell if isinstance(cell, str) else str(cell) for cell in c.cells] for c in self.table().columns]
        return as_html(self._title(), [str(c.header) for c in self.table().columns], list(zip(*cells, strict=True)))

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row per example (extra `pandas`): the columns of `to_csv` but the margins, by index."""
        return as_frame([fields_of(e) for e in self.rows()], "index")

    def to_latex(self, *others: Report) -> str:
        """The accuracies as a table for a paper (booktabs): a line for this run, and one for each of the others."""
        return as_latex(_PAPER, [r._paper_row() for r in (self, *others)])

    def _paper_row(self) -> list[Any]:
        s, settings = self.summary(), self.meta["settings"]
        shares = [_percent(s[key]) for key in ("clean_accuracy", "attacked_accuracy", "verified_accuracy")]
        rate = s["seconds"] / s["examples"] if s["examples"] else math.nan
        asked = settings.get("eps"), settings.get("threat", "linf"), s["examples"]
        return [*asked, *shares, s["undecided"], f"{rate:.3g}"]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """One line per example; absent values are empty. Written whole or not at all.

        Raises OSError, and StoreError where `path` is the store itself.
        """
        self._check_export(path)
        classes = max((len(e.margins) for e in self.rows() if e.margins is not None), default=0)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_FIELDS, *(f"margin_{j}" for j in range(classes))])
        for e in self.rows():
            margins = [""] * classes if e.margins is None else [repr(m) for m in e.margins]
            writer.writerow([*fields_of(e).values(), *margins])
        text_replaced(path, text.getvalue())

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Meta, summary and rows. Infinities are the strings "inf" and "-inf", NaN and absent values are null.

        Written whole or not at all. Raises OSError, and StoreError where `path` is the store itself.
        """
        self._check_export(path)
        text_replaced(path, self.json())

    def json(self) -> str:
        """The text of `to_json`."""
        rows = [{**fields_of(e), "margins": e.margins} for e in self.rows()]
        return json_text({"meta": dict(self.meta), "summary": self.summary(), "examples": rows})

    def _check_export(self, path: str | os.PathLike[str]) -> None:
        """Refuses to write over the store or the files beside it that belong to it."""
        if self._store is None:
            return
        for suffix in ("", "-journal", ".lock"):
            if same_file(path, self._store.with_name(self._store.name + suffix)):
                raise StoreError(f"{path} belongs to the store {self._store}: export to another path")


class _CounterexampleReader:
    """Reads counterexamples from a store's file, opening it each time: a report holds no file open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, index: int) -> Tensor | None:  # [*input]
        with Store.open(self._path) as store:
            return store.counterexample(index)


def is_unbroken(e: ExampleRow) -> bool:
    """Correctly classified, and no attack changed that."""
    return e.correct and e.outcome in (ExampleOutcome.VERIFIED, ExampleOutcome.UNKNOWN)


def is_open_or_proved(e: ExampleRow) -> bool:
    """No counterexample was found, whatever the label."""
    return e.outcome in (ExampleOutcome.VERIFIED, ExampleOutcome.UNKNOWN)


_SHARES = (
    ("correct (clean accuracy)", "clean_accuracy"),
    ("not broken by attack (attacked accuracy)", "attacked_accuracy"),
    ("proved (verified accuracy)", "verified_accuracy"),
)
_SHARES_OF_QUESTIONS = (("not broken by attack", "attacked_accuracy"), ("proved", "verified_accuracy"))

#: columns of `Report.to_latex`
_PAPER = ("eps", "threat", "examples", "clean", "attacked", "verified", "undecided", "s per example")

_FIELDS = (
    "index",
    "label",
    "prediction",
    "verdict",
    "margin",
    "attack_margin",
    "stage",
    "trust",
    "reason",
    "seconds",
    "float32_agrees",
    "error",
)


def fields_of(e: ExampleRow) -> dict[str, Any]:
    """The exported values of an example, in the order of _FIELDS."""
    values = {name: getattr(e, name) for name in _FIELDS if name != "verdict"}
    values["verdict"] = e.outcome.value
    values["trust"] = None if e.trust is None else e.trust.name.lower()
    values["reason"] = None if e.reason is None else e.reason.value
    return {name: values[name] for name in _FIELDS}


def _share(examples: tuple[ExampleRow, ...], counts: Callable[[ExampleRow], bool]) -> float:
    return sum(map(counts, examples)) / len(examples) if examples else math.nan


def _count(share: float, examples: int) -> str:
    return str(round(share * examples)) if examples else "0"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two paths name one file, also through links, and also where it does not exist yet."""
    first, second = Path(a).expanduser(), Path(b).expanduser()
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.resolve() == second.resolve()
