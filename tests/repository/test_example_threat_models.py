"""The example of threat models in two dimensions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.environment import importing

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "threat_models.py"
PNG = b"\x89PNG\r\n\x1a\n"


def run(folder: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, after some statements."""
    code = f"{before}\nimport runpy\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, encoding="utf-8",
        env={**importing(), "PYTHONUTF8": "1"}, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_it_draws_and_prints_what_holds(tmp_path: Path) -> None:
    done = run(tmp_path, "--quick", "--out", "new/sets.png")
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "new" / "sets.png").read_bytes()
    assert picture.startswith(PNG) and len(picture) > 20_000
    sets, radii = done.stdout.split("\n\n")[:2]

    rows = {name: (float(reach), told) for name, reach, told in re.findall(r"^(\S+) +(\d\.\d+)  (\w.+)$", sets, re.M)}
    # the largest first entry by hand: ends of the valid range, or center plus radius
    expected = {"linf": 1.0, "l2": 1.0, "l1": 1.0, "union": 0.33, "polytope": 0.35, "zonotope": 0.34}
    # brightness-contrast: 0.64 * 1.15 + 0.06; wasserstein: 0.2 from the middle pixel to the right one
    expected |= {"brightness-contrast": 0.796, "wasserstein": 0.06 * 0.5 + 0.5 * 0.1 + 0.94 * 0.4}
    assert {name: reach for name, (reach, _) in rows.items()} == pytest.approx(expected, abs=1e-4)
    for name in ("linf", "l2", "l1"):
        assert re.search(r"falsified anywhere by .*, verified within \[0, 1\] by", rows[name][1]), name
    assert rows["union"][1].startswith("falsified by") and rows["polytope"][1].startswith("verified by")

    found = re.findall(r"^(linf|l2|l1) +(\d\.\d+) +(\d\.\d+)  (\S+) %$", radii, re.M)
    assert [name for name, *_ in found] == ["linf", "l2", "l1"]
    certified, attacked = ([float(row[i]) for row in found] for i in (1, 2))
    assert all(0.05 < a < b < 0.5 for a, b in zip(certified, attacked, strict=True))
    assert certified == sorted(certified) and attacked == sorted(
        attacked
    )  # linf balls contain l2 balls, and these l1's
    assert {share for *_, share in found} == {"100.0"}


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    hidden = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'matplotlib' else find(n)"
    )
    done = run(tmp_path, before=hidden)
    assert done.returncode == 2 and "rampart-verifier[plot]" in done.stderr
    assert not list(tmp_path.iterdir())
