"""Which small changes of the code do the tests miss? Samples cosmic-ray's mutants, runs the tests that reach them.

    make mutants                               all of it; hours on 2 cores
    python tests/mutants.py map tests/optim    which test runs which line, and how long it takes; adds to the map
    python tests/mutants.py sample --seed 1    a new session: a sample of all mutants
    python tests/mutants.py run optim          tries those of a room, or all; it can be stopped and taken up
    python tests/mutants.py again tests/optim  whether these tests, as they stand now, kill survivors
    python tests/mutants.py report             shares and survivors; cosmic-ray's own cr-report reads the session too

Mutants live in a copy of the tree, below build/mutants. Of all mutants at one place in the code one is drawn: ten
ways to spoil the same comparison count once. Each is tried on the tests that run its line, fastest first, up to
SECONDS of them: a mutant that only a longer test would kill counts as alive, so that shares are lower bounds.
"""

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import hypothesis  # noqa: F401  what tests need is imported once: each mutant is tried in a fork
import numpy as np  # noqa: F401
import pytest
import torch  # noqa: F401
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from coverage import CoverageData

from lines_of_tests import LinesOfTests, tests_of

ROOT = Path(__file__).resolve().parent.parent
SHOP = Path(os.environ.get("MUTANTS", ROOT / "build" / "mutants"))
TREE, SESSION, LINES, TIMES = (SHOP / name for name in ("tree", "session.sqlite", "lines", "seconds.json"))
PLACES = ("runs", "sparsity", "optim", "deploy", "data/windows.py")
SECONDS = 8.0
PATIENCE = 40, 600
"""Seconds of the processor, and of the clock, after which a mutant counts as one that never ends, so as noticed."""


def copy(part: str = "") -> None:
    """The tree as it stands now, or a part of it, into the shop; without what was built or written in it."""

    def leave(folder: str, names: list[str]) -> set[str]:
        made = {"build", "dist", "site", "__pycache__", *(["runs"] if Path(folder) == ROOT else [])}
        return {name for name in names if name in made or name.startswith(".")}

    shutil.copytree(ROOT / part, TREE / part, ignore=leave, dirs_exist_ok=True)


def verdict(words: Sequence[str], noting: bool = False) -> int:
    """Pytest's exit code in a fork of this process that works in the copy, or the signal that ended it."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(TREE)
        if not noting:
            quiet = os.open(SHOP / "last-output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE[0], PATIENCE[0]))
            signal.alarm(PATIENCE[1])
        sys.path.insert(0, str(TREE / "src"))
        options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        plugins = [LinesOfTests(files(), LINES, TIMES)] if noting else []
        os._exit(pytest.main([*options, *words], plugins=plugins))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def place_of(mutation: MutationSpec) -> str:
    """The room that a mutant's file belongs to."""
    inner = mutation.module_path.relative_to(TREE / "src" / "sparsernn").as_posix()
    return next(place for place in PLACES if inner == place or inner.startswith(place + "/"))


def files() -> list[Path]:
    """The files whose mutants are of interest."""
    roots = [TREE / "src" / "sparsernn" / place for place in PLACES]
    return [path for root in roots for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]


class Found(list[WorkItem]):
    """Takes the place of cosmic-ray's data base while it looks: to write all mutants would take minutes."""

    def add_work_items(self, items: Iterable[WorkItem]) -> None:
        self.extend(items)


def sample(seed: int, count: int) -> None:
    """Make the session: `count` places in the code of each room, one mutant at each."""
    init(files(), found := Found(), {})
    spots: dict[str, dict[object, list[WorkItem]]] = {place: {} for place in PLACES}
    for item in found:
        (mutation,) = item.mutations
        spot = mutation.module_path, mutation.start_pos
        spots[place_of(mutation)].setdefault(spot, []).append(item)
    chance = random.Random(seed)
    with use_db(str(SESSION)) as database:
        database.clear()
        for place, items in spots.items():
            drawn = chance.sample(list(items.values()), min(count, len(items)))
            database.add_work_items([chance.choice(mutants) for mutants in drawn])
            print(f"{place}: {len(drawn)} of {len(items)} places, {sum(map(len, items.values()))} mutants")


def outcome(mutation: MutationSpec, tests: Sequence[str]) -> WorkResult:
    """Whether tests notice a mutant; one with which none can be collected (int // float) is called incompetent."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
        code = verdict(["-x", *tests]) if tests else 0
    found = {0: TestOutcome.SURVIVED, 2: TestOutcome.INCOMPETENT, 4: TestOutcome.INCOMPETENT}
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    changed = [f"    - {old.strip()}\n    + {new.strip()}" for old, new in lines if old != new][:1]
    where = f"{mutation.module_path.relative_to(TREE)}:{mutation.start_pos[0]}, {len(tests)} tests"
    result = WorkResult(WorkerOutcome.NORMAL, where, found.get(code, TestOutcome.KILLED), "\n".join(changed))
    print(result.test_outcome.value, where, f"code {code}", *changed, sep="\n", flush=True)
    return result


def run(database: WorkDB, rooms: Sequence[str]) -> None:
    """Try what has no result yet, of some rooms or of all."""
    lines, seconds = CoverageData(str(LINES)), json.loads(TIMES.read_text())
    lines.read()
    for item in database.pending_work_items:
        (mutation,) = item.mutations
        if place_of(mutation) in (rooms or PLACES):
            tests = tests_of(mutation.module_path, mutation.start_pos[0], lines, seconds, SECONDS)
            database.set_result(item.job_id, outcome(mutation, tests))


def again(database: WorkDB, words: Sequence[str]) -> None:
    """Try the survivors on the tests named, which have to pass without a mutant."""
    copy("tests")
    if code := verdict(words):
        sys.exit(f"these tests do not pass on the code as it is (code {code})")
    for item, result in database.completed_work_items:
        if result.test_outcome is TestOutcome.SURVIVED:
            database.set_result(item.job_id, outcome(item.mutations[0], words))


def report(database: WorkDB, _: Sequence[str]) -> None:
    """The share killed, room by room, and the survivors."""
    counts = collections.Counter[tuple[str, TestOutcome | None]]()
    for item, result in database.completed_work_items:
        counts[place_of(item.mutations[0]), result.test_outcome] += 1
        if result.test_outcome is TestOutcome.SURVIVED:
            print(result.output, result.diff, sep="\n")
    for place in PLACES:
        print(f"{place:16}", *(f"{counts[place, kind]:4} {kind.value}" for kind in TestOutcome))


def main() -> None:
    asked = argparse.ArgumentParser(description="see the top of this file")
    asked.add_argument("what", choices=("map", "sample", "run", "again", "report"))
    asked.add_argument("words", nargs="*", help="tests for map and again, rooms for run")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--count", type=int, default=50, help="mutants for each place")
    given = asked.parse_args()
    os.environ.update(
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONPATH=str(TREE / "src"),  # for the processes that tests start
        OMP_NUM_THREADS="1",
        OMP_WAIT_POLICY="passive",
    )
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the file that is changed is put back
    if given.what == "map":
        copy()
        sys.exit(verdict(given.words, noting=True))
    if given.what == "sample":
        sys.exit(sample(given.seed, given.count))
    with use_db(str(SESSION), WorkDB.Mode.open) as database:
        {"run": run, "report": report, "again": again}[given.what](database, given.words)


if __name__ == "__main__":
    main()
