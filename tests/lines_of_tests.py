"""Which test runs which line: noted by a plugin of pytest, asked by `mutants.py`."""

import ast
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from coverage import Coverage, CoverageData

WHOLE_FILE = range(1, 1000)


class LinesOfTests:
    """A plugin of pytest: notes which lines each test runs, and how long the ones that pass take.

    Args:
        files: whose lines are of interest.
        lines, times: where to keep both; what is there already stays.
    """

    def __init__(self, files: Sequence[Path], lines: Path, times: Path) -> None:
        self.cover, self.times = Coverage(data_file=str(lines), include=[str(path) for path in files]), times
        self.seconds: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
        if lines.exists():
            self.cover.load()
        self.cover.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """What a shared fixture runs belongs to all tests of its file."""
        self.cover.switch_context(item.nodeid.split("::")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.cover.switch_context(item.nodeid)
        self.began = time.process_time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = time.process_time() - self.began

    def pytest_sessionfinish(self) -> None:
        self.cover.stop()
        self.cover.save()
        self.times.write_text(json.dumps(self.seconds))


def enclosing(path: Path, line: int) -> range:
    """The lines of the innermost function or class around a line, else of the whole file."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    spans = [range(min([n.lineno, *(d.lineno for d in n.decorator_list)]), n.end_lineno + 1) for n in nodes]
    return min((span for span in spans if line in span), key=len, default=WHOLE_FILE)


def tests_of(
    path: Path, line: int, lines: CoverageData, seconds: Mapping[str, float], most: float
) -> list[str]:
    """The tests that run a line, fastest first, until they take `most` seconds.

    A line that runs on import alone (a default, a decorator) is tried on those of its function, then on all tests of
    the files that have one that gets into its file: what a decorator refuses runs no line there.
    """
    contexts, chosen = lines.contexts_by_lineno(str(path)), dict[str, float]()
    for wanted in ([line], enclosing(path, line), WHOLE_FILE):
        reached = {context for one in wanted for context in contexts.get(one, ())} - {""}
        if wanted == WHOLE_FILE:
            reached = {context.split("::")[0] for context in reached}
        tests = [test for test in seconds if test in reached or test.split("::")[0] in reached]
        for test in sorted(tests, key=lambda test: (seconds[test], test)):
            if sum(chosen.values()) < most:
                chosen.setdefault(test, seconds[test])
        if chosen and len(wanted) == 1:
            break
    return list(chosen)
