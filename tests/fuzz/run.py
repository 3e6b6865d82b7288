"""The standing fuzzer: draws problems until the time is up, shrinks what fails, and writes it to tests/fuzz/found.

    PYTHONPATH=tests python -m fuzz.run --minutes 10 --workers 8

A file that it writes fails tests/verdicts/test_found.py when it is moved to tests/verdicts/regressions, until the
fault is mended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.check import check
from fuzz.recipe import Recipe
from fuzz.strategies import STAGES, problems

ROOT = Path(__file__).resolve().parents[2]
FOUND = Path(__file__).parent / "found"
#: problems between two looks at the clock
ROUND = 20

SETTINGS = settings(
    max_examples=ROUND, deadline=None, database=None, derandomize=False, print_blob=False,
    phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
)  # fmt: skip


def one_round(number: int, stages: list[str | None], outcomes: Counter[str]) -> tuple[Recipe, str] | None:
    """Draw `ROUND` problems; the smallest that failed, with what was wrong, or None."""
    last: list[tuple[Recipe, str]] = []

    @seed(number)
    @settings(SETTINGS)
    @given(problems(stages))
    def attempt(recipe: Recipe) -> None:
        try:
            outcomes.update(check(recipe).split())
        except Exception:
            last.append((recipe, traceback.format_exc(limit=-6)))
            raise

    try:
        attempt()
    except Exception:
        if not last:
            raise
        return last[-1]  # hypothesis ends with the smallest
    return None


def write(recipe: Recipe, said: str, folder: Path = FOUND) -> Path:
    """The recipe and what was wrong, as a file that tests/verdicts/test_found.py replays."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = said.replace(f"{ROOT}/", "").splitlines()  # files as anybody has them
    text = json.dumps({"recipe": recipe, "said": lines}, indent=1)
    path = folder / f"{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}.json"
    path.write_text(text + "\n")
    return path


def work(
    worker: int, workers: int, until: float, first: int, stages: list[str | None]
) -> tuple[Counter[str], list[str]]:
    """Rounds first + worker, first + worker + workers, ... until the time is up."""
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    found = []
    for number in _numbers(first + worker, workers, until):
        failed = one_round(number, stages, outcomes)
        if failed is not None:
            found.append(str(write(*failed)))
            print(f"seed {number}: {failed[1].splitlines()[-1]}\n  {found[-1]}", flush=True)
    return outcomes, found


def _numbers(first: int, step: int, until: float) -> Iterator[int]:
    while time.time() < until:
        yield first
        first += step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: the time")
    parser.add_argument("--stages", nargs="*", help="only these; 'all' is the whole ladder")
    chosen = parser.parse_args()
    first = int(time.time()) % 10**6 * 1000 if chosen.seed is None else chosen.seed
    stages = STAGES if not chosen.stages else [None if s == "all" else s for s in chosen.stages]
    until = time.time() + 60 * chosen.minutes
    tasks = [(k, chosen.workers, until, first, stages) for k in range(chosen.workers)]
    print(
        f"rounds of {ROUND} problems from seed {first}, {chosen.workers} processes, {chosen.minutes:g} minutes",
        flush=True,
    )
    if chosen.workers == 1:
        results = [work(*tasks[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
            results = pool.starmap(work, tasks)
    total = sum((outcomes for outcomes, _ in results), Counter())
    found = [path for _, paths in results for path in paths]
    print(", ".join(f"{count} {name}" for name, count in total.most_common()), f"- {len(found)} failures")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
