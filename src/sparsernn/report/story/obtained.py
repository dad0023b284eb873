"""What a finished run obtained, as one line of a file that outlives the run's folder."""

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.core.safe_files import replacing
from sparsernn.report.story.facts import gather, metric_name, scored_epochs, valid_value
from sparsernn.report.story.history import RunRecord, load_run
from sparsernn.report.story.seeds import counts, data_of, row_settings

DIGITS = 12
"""Of a hash: enough to tell settings or data apart."""
CURVE_DIGITS = 6
"""Of a validation figure of a learning curve."""


@dataclass(frozen=True)
class Obtained:
    """The figures of one finished run and what they need beside them.

    Attributes:
        recipe: its name.
        overrides: settings that were changed, without those that change the draw alone or nothing.
        settings: hash of all settings that decide the figures, the seed aside.
        seed: the seed.
        metric: what valid, test and the curve are figures of, a key of `METRICS`.
        valid: of the best epoch's weights.
        test: of the same weights.
        curve: the validation figure of each epoch.
        total: number of parameters, absent ones included.
        active: of those that are there.
        operations: multiplications and additions per token, counted where weights are; None where not counted.
        data: name of the corpus.
        tokens: of its training split; None where it counts others.
        data_hash: of its training split.
        machine: processor, torch and Python.
        commit: of the code; "" where unknown.
        started: date and time.
    """

    recipe: str
    overrides: tuple[str, ...]
    settings: str
    seed: int
    metric: str
    valid: float
    test: float
    curve: tuple[float, ...]
    total: int | None
    active: int | None
    operations: int | None
    data: str
    tokens: int | None
    data_hash: str
    machine: str
    commit: str
    started: str

    @property
    def row(self) -> tuple[str, ...]:
        """What runs that differ in the seed alone have in common."""
        return (self.recipe, self.settings, self.data_hash, self.machine)

    @property
    def label(self) -> str:
        """The recipe and the settings that were changed, as a command has them."""
        return self.beside(())

    @property
    def packed_bytes(self) -> int | None:
        """About what a packed file takes in float32; None of a run whose size is unknown.

        4 bytes for a parameter that is there and, where some are not, a bit for each that could be.
        """
        if self.active is None:
            return None
        bits = (self.total or 0) if self.active < (self.total or 0) else 0
        return 4 * self.active + bits // 8

    def beside(self, common: Sequence[str]) -> str:
        """The label without those changes that stand elsewhere."""
        return shlex.join((self.recipe, *(change for change in self.overrides if change not in common)))


def obtained(run: RunRecord) -> Obtained | None:
    """The figures of a run; None of one that has not been tested yet.

    Args:
        run: as read by `load_run`.

    Raises:
        InputError: it has no recipe, or one without a seed, so that nobody knows what its figures are of.
    """
    facts, metric, data = gather(run), metric_name(run), run.environment.get("data") or {}
    name, data_hash = data_of(run)
    if facts.quality.test is None or facts.quality.valid is None:
        return None
    seed = run.recipe.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        missing = f"a seed of {seed!r} in its recipe" if run.recipe else "no recipe.yaml"
        raise InputError(
            f"the run '{run.folder}' has {missing}; put back what it was trained with, or leave it out."
        )
    return Obtained(
        recipe=facts.name,
        overrides=_overrides(run),
        settings=settings_hash(run.recipe),
        seed=seed,
        metric=metric,
        valid=facts.quality.valid,
        test=facts.quality.test,
        curve=tuple(_rounded(valid_value(event, metric)) for event in scored_epochs(run)),
        total=facts.size.total,
        active=facts.size.active,
        operations=run.last("sizes").get("macs_per_token"),
        data=name,
        tokens=(data.get("tokens") or {}).get("train"),
        data_hash=data_hash[:DIGITS],
        machine=_machine(run.environment),
        commit=str(run.environment.get("commit") or ""),
        started=str(run.environment.get("started") or ""),
    )


def settings_hash(recipe: Mapping[str, Json]) -> str:
    """A hash of the settings of a resolved recipe that decide its figures, the seed aside."""
    told = json.dumps(sorted(row_settings(recipe).items()), default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:DIGITS]


def _overrides(run: RunRecord) -> tuple[str, ...]:
    given = (str(word) for word in run.recipe.get("overrides") or ())
    return tuple(word for word in given if counts(word.split("=")[0]))


def _rounded(value: float) -> float:
    return float(f"{value:.{CURVE_DIGITS}g}") if math.isfinite(value) else value


def _machine(environment: Mapping[str, Json]) -> str:
    """Processor, or device where it is none, and versions.

    >>> _machine({"processor": "a processor", "torch": "2.13.0+cpu", "python": "3.11.7", "device": "cpu"})
    'a processor, torch 2.13.0, Python 3.11.7'
    """
    device = str(environment.get("device") or "cpu")
    place = environment.get("processor") if device.startswith("cpu") else device
    torch = str(environment.get("torch", "")).partition("+")[0]
    return f"{place}, torch {torch}, Python {environment.get('python', '')}"


def find_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs in some folders, each of which is a run or holds runs at any depth.

    Raises:
        InputError: there is no run in one of them.
    """
    found = []
    for folder in folders:
        inside = sorted(path.parent for path in folder.rglob("metrics.jsonl"))
        if not inside:
            raise InputError(f"'{folder}' holds no run; give folders of runs, or one that has them inside.")
        found += [load_run(run) for run in inside]
    return found


def read_book(path: Path) -> list[Obtained]:
    """The results that a file keeps; none where there is no file.

    Raises:
        InputError: a line is no result.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_entry(line, f"'{path}', line {k}") for k, line in enumerate(lines, 1)]


def _entry(line: str, origin: str) -> Obtained:
    try:
        values: dict[str, Json] = json.loads(line)
        parts: dict[str, Json] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Obtained(**parts)
    except (ValueError, TypeError, AttributeError):
        wanted = ", ".join(field.name for field in fields(Obtained))
        raise InputError(f"{origin}: this is no result; it must be a JSON object of {wanted}.") from None


def write_book(path: Path, results: Iterable[Obtained]) -> None:
    """Write results to a file, one a line, in the order of their names."""
    ordered = sorted(results, key=lambda r: (r.label, r.row, r.seed))
    with replacing(path) as beside:
        beside.write_text("".join(json.dumps(asdict(result)) + "\n" for result in ordered), encoding="utf-8")


def merged(old: Iterable[Obtained], new: Iterable[Obtained]) -> list[Obtained]:
    """Both, where a new result takes the place of an old one of the same settings, seed, data and machine."""
    by_key = {(*result.row, result.seed): result for result in old}
    by_key |= {(*result.row, result.seed): result for result in new}
    return list(by_key.values())
