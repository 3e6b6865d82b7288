"""`certify --shard k/n`, and what `merge` makes of the parts: the store of a run that was not shared out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_mlp
from helpers.reports import assert_equal
from typer.testing import CliRunner

from verifier import Sweep, certify, merge, merge_sweeps
from verifier.certification import Report
from verifier.commands.app import app
from verifier.errors import InputError, StoreError

EXAMPLES = 40
STAGES = ["clean", "interval", "dual", "attack", "branch"]


def run(path: Path | None = None, **options: Any) -> Any:
    model = small_mlp()
    images, labels = labelled(model, (12,), EXAMPLES)
    settings = {"eps": 0.05, "progress": False, "store": path, "stages": STAGES, "batch_size": 8, **options}
    return certify(model, images, labels, **settings)


@pytest.fixture(scope="module")
def expected() -> Report:
    return run()


@pytest.mark.parametrize("of", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_shards_are_the_run(tmp_path: Path, expected: Report, of: int) -> None:
    reports = [run(tmp_path / f"{k}.sqlite", shard=(k, of)) for k in range(1, of + 1)]
    assert [len(r.rows()) for r in reports] == [len(range(k, EXAMPLES, of)) for k in range(of)]
    assert not any(r.complete for r in reports)
    report = merge(sorted(tmp_path.glob("*.sqlite")), tmp_path / "all.sqlite")
    assert report.complete
    assert_equal(report, expected)


def test_a_store_goes_on_under_another_shard_or_none(tmp_path: Path, expected: Report) -> None:
    store = tmp_path / "run.sqlite"
    run(store, shard="2/3")
    again = run(store, shard="1/2", resume=True)
    assert {e.index for e in again.rows()} == {i for i in range(EXAMPLES) if i % 3 == 1 or i % 2 == 0}
    run(tmp_path / "other.sqlite", shard="3/3", certificates=None)
    merge([store, tmp_path / "other.sqlite"], tmp_path / "all.sqlite")
    assert_equal(run(tmp_path / "all.sqlite", resume=True), expected)


def test_the_index_is_that_of_the_whole_data() -> None:
    assert [e.index for e in run(first_index=5, shard="1/8").rows()] == [8, 16, 24, 32, 40]


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "1/0", "3", "a/b", "-1/3", (1, 2, 3), (1.0, 2), 3, True])
def test_what_is_no_shard_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="a shard is k of n"):
        run(shard=wrong)


def test_stores_of_other_settings_do_not_merge(tmp_path: Path) -> None:
    run(tmp_path / "a.sqlite", shard="1/2")
    run(tmp_path / "b.sqlite", shard="2/2", eps=0.06)
    with pytest.raises(StoreError, match=r"eps: 0\.05 -> 0\.06"):
        merge([tmp_path / "a.sqlite", tmp_path / "b.sqlite"], tmp_path / "all.sqlite")


def command(tmp_path: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates, whose folders become one, and checked as one."""
    model = small_mlp()
    images, labels = labelled(model, (12,), 12)
    torch.export.save(torch.export.export(model, (images[:2],), dynamic_shapes=({0: None},)), tmp_path / "net.pt2")
    np.savez(tmp_path / "data.npz", images=images.numpy(), labels=labels.numpy())
    monkeypatch.chdir(tmp_path)
    about = ["--model", "net.pt2", "--data", "data.npz", "--eps", "0.02", "--stages", "clean,dual,attack", "--quiet"]
    for k in "12":
        command(tmp_path, "certify", *about, "--shard", f"{k}/2", "--out", f"{k}.sqlite", "--certificates", f"certs{k}")
    together = ["--certificates", "certs1", "--certificates", "certs2", "--certificates-out", "certs"]
    said = command(tmp_path, "merge", "1.sqlite", "2.sqlite", "--out", "all.sqlite", *together)
    assert "in all" in said and "so far" not in said
    proved = [e.index for e in Report.open("all.sqlite").rows() if e.outcome.value == "verified"]
    assert [p.stem for p in sorted(Path("certs").glob("*.cert"))] == [f"{i:06d}" for i in proved] and len(proved) > 3
    said = command(tmp_path, "check", "certs", "--data", "data.npz", "--eps", "0.02", "--quiet")
    assert f"{len(proved)} of {len(proved)} certificates are valid" in said
    assert not list(tmp_path.glob("*.tmp*"))


def test_folders_of_different_certificates_do_not_join(tmp_path: Path) -> None:
    a, b = (tmp_path / f"{k}.sqlite" for k in "ab")
    run(a, shard="1/2", certificates=tmp_path / "a")
    run(b, shard="2/2", certificates=tmp_path / "b")

    def merged(*folders: str) -> None:
        merge([a, b], tmp_path / "all.sqlite", certificates=[tmp_path / f for f in folders],
              certificates_out=tmp_path / "out")  # fmt: skip

    run(tmp_path / "c.sqlite", eps=0.01, certificates=tmp_path / "c")
    with pytest.raises(StoreError, match="claim different things"):
        merged("a", "c")
    shutil.copytree(tmp_path / "a", tmp_path / "broken")
    (tmp_path / "broken" / "network.rampart").write_bytes(b"no network")
    with pytest.raises(InputError, match="no folder of certificates"):
        merged("a", "broken")
    with pytest.raises(InputError, match="there is no folder"):
        merged("a", "none")
    assert not (tmp_path / "out").exists() and not (tmp_path / "all.sqlite").exists()
    merged("a", "b", "a")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        p.name for folder in "ab" for p in (tmp_path / folder).iterdir()
    }


def test_sweeps_are_merged_radius_by_radius(tmp_path: Path) -> None:
    """Shards with other radii, and certificates; the sweep that goes on with them is that of one machine."""
    stages, radii = ["clean", "dual", "attack"], (0.02, 0.1)
    parts = {1: radii, 2: radii[:1]}
    for k, own in parts.items():
        run(tmp_path / str(k), eps=own, shard=(k, 2), stages=stages, certificates=tmp_path / f"proofs{k}")
    arguments = ["merge", *(str(tmp_path / str(k)) for k in parts), "--out", str(tmp_path / "all")]
    proofs = [f"--certificates={tmp_path / f'proofs{k}'}" for k in parts]
    proofs.append(f"--certificates-out={tmp_path / 'proofs'}")
    done = CliRunner().invoke(app, [*arguments, *proofs])
    assert done.exit_code == 0, done.output
    merged, whole = Sweep.open(tmp_path / "all"), run(eps=radii, stages=stages)
    assert merged.eps == radii and [len(report.rows()) for report in merged] == [EXAMPLES, EXAMPLES // 2]
    sweep = run(tmp_path / "all", eps=radii, stages=stages, resume=True)
    assert [[e.outcome for e in report.rows()] for report in sweep] == [
        [e.outcome for e in one.rows()] for one in whole
    ]
    for eps, report in zip(merged.eps, merged, strict=True):
        made = {int(path.stem) for path in (tmp_path / "proofs" / f"eps-{eps!r}").glob("*.cert")}
        assert made == {e.index for e in report.rows() if e.outcome.value == "verified"}
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_other_sweeps_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "a", eps=[0.02, 0.05], stages=["clean", "dual"])
    run(tmp_path / "b", eps=[0.05], stages=["clean", "interval"])
    run(tmp_path / "c", eps=[0.1], stages=["clean", "dual"], clip=(0.0, 1.5))
    for other, said in (("b", "one run, and cannot(.|\n)*stages"), ("c", "one sweep, and cannot(.|\n)*clip")):
        with pytest.raises(StoreError, match=f"not of {said}"):
            merge_sweeps([tmp_path / "a", tmp_path / other], tmp_path / "all")
    with pytest.raises(InputError, match="named twice"):
        merge_sweeps([tmp_path / "a", tmp_path / "a"], tmp_path / "all")
    with pytest.raises(StoreError, match="holds no sweep"):
        merge_sweeps([tmp_path / "a", tmp_path], tmp_path / "all")
    mixed = CliRunner().invoke(app, ["merge", str(tmp_path / "a"), "x.sqlite", "--out", str(tmp_path / "all")])
    assert mixed.exit_code == 2 and "only what is of one kind is merged" in " ".join(mixed.stderr.split())
    assert not [path for path in tmp_path.iterdir() if "all" in path.name]
