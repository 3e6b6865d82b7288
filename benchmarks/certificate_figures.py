"""Certificates on disk: how many bytes, how long their checks take, and whether all are valid.

    python benchmarks/certificate_figures.py mnist --nets DIR --data DIR [--network wk_mnist] [--images 1000]
    python benchmarks/certificate_figures.py cost --nets DIR --data DIR [--network wk_mnist] [--images 10000]
    python benchmarks/certificate_figures.py instances LIST [--timeout 60] [--filter TEXT]

`mnist` certifies test images with the default cascade and checks every certificate. `cost` holds the dual stage whose
bounds pay for every rounding, and a whole run of `certify` with it, against the same pass without. `instances` decides
a list of VNN-LIB instances; of every unsat it makes the certificates, writes, reads and checks them, and holds the time
of the check against that of the decision. One process, so that both times are of one core or of as many as numpy takes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from data_sets import images
from rich.console import Console
from rich.table import Table

from properties import LinfBall, robustness
from verifier import OnnxModel, Report, certify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.certification.certificates import missing
from verifier.checker.audit import NETWORK, Audited, audit, certificates_in
from verifier.checker.document import read_network
from verifier.query import Query
from verifier.stages.dual import DualStage
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import instances_of
from verifier.vnncomp.certificates import uncovered, write_certificates
from verifier.vnncomp.solve import solve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = parser.add_subparsers(required=True)
    for name, count, run in (("mnist", 1000, of_images), ("cost", 10_000, of_rigour)):
        mnist = kinds.add_parser(name)
        mnist.add_argument("--nets", type=Path, required=True)
        mnist.add_argument("--data", type=Path, required=True)
        mnist.add_argument("--network", default="wk_mnist")
        mnist.add_argument("--data-set", default="mnist")
        mnist.add_argument("--images", type=int, default=count)
        mnist.add_argument("--eps", type=float, default=0.1)
        mnist.set_defaults(run=run)
    listed = kinds.add_parser("instances")
    listed.add_argument("list", type=Path)
    listed.add_argument("--timeout", type=float, default=60.0)
    listed.add_argument("--filter", default="")
    listed.set_defaults(run=of_instances)
    options = parser.parse_args()
    sys.exit(1 if options.run(options) else 0)


def of_images(options: argparse.Namespace) -> bool:
    """Returns whether anything is wrong."""
    x, labels = images(options.data, options.data_set, count=options.images)
    model = OnnxModel.load(options.nets / f"{options.network}.onnx")
    x = x.reshape(-1, *model.input_shape)
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        plain = certify(model, x, labels, options.eps, clip=(0, 1), progress=False)
        middle = time.perf_counter()
        certify(model, x, labels, options.eps, clip=(0, 1), certificates=place, progress=False)
        made = time.perf_counter() - middle
        found = list(audit(certificates_in([Path(place)]), read_network(Path(place) / NETWORK)))
        lacking = missing(Path(place))
    summary = plain.summary()
    print(f"verified {summary['verified_accuracy']:.2%}, trust {summary['trust']}, in {middle - began:.1f} s")
    print(f"with certificates made, checked and written: {made:.1f} s; {len(lacking)} proofs have none {lacking}")
    _table([("images", found, middle - began)])
    _by_stage(found, plain)
    return not all(one.valid for one in found)


def of_rigour(options: argparse.Namespace) -> bool:
    """CPU seconds; both passes take each batch in turn, so that whatever else runs is beside both. Nothing is wrong."""
    x, labels = images(options.data, options.data_set, count=options.images)
    model = OnnxModel.load(options.nets / f"{options.network}.onnx")
    x, stage = x.reshape(-1, *model.input_shape), DualStage()
    labels = torch.as_tensor(labels)
    spent, proved = np.zeros(2), [0, 0]
    certify(model, x[:256], labels[:256], options.eps, clip=(0, 1), stages=["dual"], progress=False)  # to warm up
    with torch.no_grad():
        for first in range(0, len(x), 256):
            part, label = x[first : first + 256], labels[first : first + 256]
            query = Query.of(model.graph, LinfBall(part, options.eps, clip=(0, 1)), robustness(label, model.outputs))
            for k, run in enumerate((stage.plain, stage.run)):
                began = time.process_time()
                lower = run(query, Bounds(), Budget()).lower
                spent[k] += time.process_time() - began
                proved[k] += 0 if lower is None else int((lower > 0).all(1).sum())
    began = time.process_time()
    summary = certify(model, x, labels, options.eps, clip=(0, 1), stages=["dual"], progress=False).summary()
    whole = time.process_time() - began
    print(f"plain dual pass: {spent[0]:.1f} s, all margins > 0 of {proved[0]}")
    print(f"rigorous:        {spent[1]:.1f} s, all margins > 0 of {proved[1]}; {spent[1] / spent[0]:.2f} times")
    print(f"a run of certify with it: {whole:.1f} s, trust {summary['trust']}; {whole / spent[0]:.2f} times")
    return False


def _by_stage(found: Sequence[Audited], report: Report) -> None:
    """Of every stage: what a check takes against what the decision took, its share of batches included."""
    table = Table("decided by", "certificates", "decision, s: median", "check, s: median", "share", "longer checks")
    rows = {example.index: example for example in report.rows()}
    for stage in sorted({str(one.about["stage"]) for one in found}):
        own = [one for one in found if one.about["stage"] == stage]
        spent = np.array([rows[one.about["index"]].seconds for one in own])
        checks = np.array([one.seconds for one in own])
        table.add_row(
            stage, str(len(own)), f"{np.median(spent):.3f}", f"{np.median(checks):.3f}",
            f"{checks.sum() / spent.sum():.2f}", str(int((checks > spent).sum())),
        )  # fmt: skip
    Console(width=140).print(table)


def of_instances(options: argparse.Namespace) -> bool:
    """Returns whether anything is wrong."""
    wrong, rows = False, []
    for instance in instances_of(options.list, options.timeout):
        if options.filter not in instance.name:
            continue
        answer, prop = solve(instance.network, instance.property_file, options.timeout, threads=1)
        if answer.status is not InstanceStatus.UNSAT:
            print(f"{instance.name}: {answer.status.value}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            try:
                write_certificates(answer, Path(place))
            except Exception as error:  # what has no certificate is part of the figures
                print(f"{instance.name}: {answer.seconds:.2f} s, no certificate: {error}", flush=True)
                wrong = True
                continue
            made = time.perf_counter() - began
            found = list(audit(certificates_in([Path(place)]), read_network(Path(place) / NETWORK)))
            why = uncovered(found, prop) + [one.reason for one in found if not one.valid]
        seconds = sum(one.seconds for one in found)
        size = sum(one.size for one in found)
        by = "+".join(sorted({str(stage) for stage in answer.decided_by}))
        print(
            f"{instance.name}: {answer.seconds:.2f} s by {by}, made in {made:.2f} s, checked in {seconds:.2f} s "
            f"({seconds / answer.seconds:.2f}), {size} bytes {'; '.join(why)}",
            flush=True,
        )
        wrong = wrong or bool(why)
        rows.append((instance.name, found, answer.seconds))
    _table(rows)
    return wrong


def _table(rows: Sequence[tuple[str, Sequence[Audited], float]]) -> None:
    """All of them in one line: certificates, valid ones, bytes, seconds of a check, its share of the decision's."""
    found = [one for _, part, _ in rows for one in part]
    if not found:
        return
    table = Table()
    for name in (
        "certificates",
        "valid",
        "bytes: median",
        "most",
        "check, s: median",
        "most",
        "share of decision: median",
        "most",
    ):
        table.add_column(name, justify="right")
    size, seconds = np.array([one.size for one in found]), np.array([one.seconds for one in found])
    share = np.array([sum(one.seconds for one in part) / spent for _, part, spent in rows])
    table.add_row(
        str(len(found)), str(sum(one.valid for one in found)), f"{np.median(size):.0f}", str(size.max()),
        f"{np.median(seconds):.3f}", f"{seconds.max():.2f}", f"{np.median(share):.2f}", f"{share.max():.2f}",
    )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
