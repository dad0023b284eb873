"""The key figures of a run, gathered from its events and its recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.core.registry import name_of
from sparsernn.report.story.formats import MISSING
from sparsernn.report.story.history import Event, RunRecord, number, tensors_now


@dataclass(frozen=True)
class Quality:
    """How good the model is, by `metric` (a key of the evaluations: "perplexity" ...). None: unknown."""

    metric: str = "perplexity"
    valid: float | None = None
    valid_epoch: int | None = None
    test: float | None = None
    averaged: bool = False
    published_valid: float | None = None
    published_test: float | None = None


@dataclass(frozen=True)
class Size:
    """How many parameters there are and how many of them are active; `masked_*` count masked tensors only."""

    total: int | None = None
    active: int | None = None
    masked_total: int | None = None
    masked_active: int | None = None

    @property
    def density(self) -> float | None:
        """Active fraction of the masked tensors; of the whole model where nothing is masked."""
        if self.masked_total:
            return (self.masked_active or 0) / self.masked_total
        return self.active / self.total if self.total and self.active is not None else None


@dataclass(frozen=True)
class Cost:
    """Bytes, operations, milliseconds per token and seconds of training. None: not measured.

    `products` says in words how training multiplied with masked weights; "" where a run has none, or does not say.
    """

    dense_bytes: int | None = None
    packed_bytes: int | None = None
    latency: tuple[Mapping[str, Json], ...] = ()
    seconds: float | None = None
    seconds_per_epoch: float | None = None
    products: str = ""

    @property
    def fastest(self) -> Mapping[str, Json]:
        """The row of the fastest exact runtime at the smallest batch that was measured; {} where there is none.

        Runtimes with 8-bit weights are in the latency table, but the run's perplexity is not theirs.
        """
        rows = [
            row
            for row in self.latency
            if math.isfinite(number(row.get("ms_per_token"))) and "int8" not in str(row.get("runtime"))
        ]
        return min(rows, key=lambda row: (number(row.get("batch")), number(row["ms_per_token"])), default={})


@dataclass(frozen=True)
class Progress:
    """How far the run got."""

    epochs: int = 0
    planned: int | None = None
    steps: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Facts:
    """The key figures of one run.

    `method` is the name of its sparsity method ("dense" for none), `counts` what the task's targets are called.
    """

    name: str
    about: str
    method: str
    quality: Quality
    size: Size
    cost: Cost
    progress: Progress
    counts: str = "tokens"


def gather(run: RunRecord) -> Facts:
    """Collect the key figures; whatever the run did not record is None.

    Args:
        run: as read by `load_run`.
    """
    return Facts(
        name=run.name,
        about=str(run.recipe.get("about") or ""),
        method=name_of(run.recipe.get("sparsity")) or ("dense" if run.recipe else MISSING),
        quality=_quality(run),
        size=_size(run),
        cost=_cost(run),
        progress=_progress(run),
        counts=counts_name(run),
    )


def metric_name(run: RunRecord) -> str:
    """What the run is judged by: as its plan or its recipe says, else perplexity, else the first figure it has."""
    task = run.recipe.get("task")
    named = plan_of(run).get("metric") or (task.get("metric") if isinstance(task, Mapping) else None)
    offered = [key for event in scored_epochs(run) for key in _valid(event)]
    if named and (named in offered or not offered):
        return str(named)
    return "perplexity" if "perplexity" in offered or not offered else offered[0]


def batch_of(row: Mapping[str, Json]) -> int:
    """How many sequences a latency is of.

    >>> batch_of({"batch": 4}), batch_of({})
    (4, 1)
    """
    return int(number(row.get("batch", 1)))


def step_name(facts: Sequence[Facts]) -> str:
    """What a latency of these runs is of: a token where all read text, else a time step."""
    return "token" if all(f.counts == "tokens" for f in facts) else "step"


def counts_name(run: RunRecord) -> str:
    """What the task's targets are called in the plural."""
    return str(plan_of(run).get("counts") or "tokens")


def scored_epochs(run: RunRecord) -> list[Event]:
    """The epochs with their scores; the weights that a finetuning started from come first, as epoch 0."""
    return [*run.of("before")[-1:], *run.of("epoch")]


def best_epoch(run: RunRecord) -> Event:
    """The record of `scored_epochs` whose weights were kept as the best, {} where there is none.

    That is the last one that was marked so; where none was, the one with the best figure.
    """
    metric = metric_name(run)
    scored = [event for event in scored_epochs(run) if math.isfinite(valid_value(event, metric))]
    kept = [event for event in scored if event.get("best")]
    sign = -1 if row_of(metric).higher_is_better else 1
    return kept[-1] if kept else min(scored, key=lambda e: sign * valid_value(e, metric), default={})


def valid_value(event: Event, metric: str) -> float:
    """The validation figure of an epoch event; NaN where there is none."""
    return number(_valid(event).get(metric))


def plan_of(run: RunRecord) -> Mapping[str, Json]:
    """The plan that the run printed when it started; {} where it is missing."""
    plan = run.last("start").get("plan")
    return plan if isinstance(plan, Mapping) else {}


def test_event(run: RunRecord) -> Event:
    """The newest evaluation on the test split, or {}."""
    tests = [event for event in run.of("test") if event.get("split", "test") == "test"]
    return tests[-1] if tests else {}


def _valid(event: Event) -> Mapping[str, Json]:
    valid = event.get("valid")
    return valid if isinstance(valid, Mapping) else {}


def _quality(run: RunRecord) -> Quality:
    metric = metric_name(run)
    best = best_epoch(run)
    test = test_event(run)
    published = run.recipe.get("published") or {}
    return Quality(
        metric=metric,
        valid=valid_value(best, metric) if best else None,
        valid_epoch=best.get("epoch"),
        test=number(test[metric]) if metric in test else None,
        averaged=bool(test.get("averaged", best.get("averaged", False))),
        published_valid=published.get(f"valid_{metric}"),
        published_test=published.get(f"test_{metric}"),
    )


def _size(run: RunRecord) -> Size:
    plan, tensors = plan_of(run), tensors_now(run)
    active, masked = plan.get("parameters_active"), plan.get("masked_active")
    if tensors and not masked:  # a penalty: at the start everything is there
        masked = sum(row.get("numel", 0) for row in tensors.values())
    if tensors and all("active" in row for row in tensors.values()):
        now = sum(row["active"] for row in tensors.values())
        active = None if active is None or masked is None else active - masked + now
        masked = now
    total = plan.get("masked_total") or sum(row.get("numel", 0) for row in tensors.values()) or None
    return Size(plan.get("parameters_total"), active, total, masked)


def _cost(run: RunRecord) -> Cost:
    sizes, epochs = run.last("sizes"), run.of("epoch")
    seconds = number(epochs[-1].get("seconds")) if epochs else math.nan  # counted from the start of the run
    return Cost(
        dense_bytes=sizes.get("dense_bytes"),
        packed_bytes=sizes.get("packed_bytes"),
        latency=tuple(row for row in sizes.get("latency") or () if isinstance(row, Mapping)),
        seconds=seconds if math.isfinite(seconds) else None,
        seconds_per_epoch=seconds / len(epochs) if math.isfinite(seconds) else None,
        products=products_in_words(plan_of(run)),
    )


def products_in_words(plan: Mapping[str, Json]) -> str:
    """How a run multiplies with its masked weights, by its plan.

    >>> products_in_words({"products": [{"module": "head", "sparse": False, "seconds": (0.1, 0.2)}]})
    'dense is faster'
    """
    rows = [row for row in plan.get("products") or () if row.get("sparse") is not None]
    sparse = [row.get("module") or "the model" for row in rows if row["sparse"]]
    if sparse:
        return "sparse" if len(sparse) == len(rows) else f"sparse in {', '.join(sparse)}"
    if not rows:
        return ""
    return "dense is faster" if any(row.get("seconds") for row in rows) else "dense"


def _progress(run: RunRecord) -> Progress:
    epochs = len(run.of("epoch"))
    planned = plan_of(run).get("epochs") or run.recipe.get("epochs")
    steps = [number(event.get("step")) for kind in ("step", "epoch") for event in run.of(kind)]
    reached = max((step for step in steps if math.isfinite(step)), default=0)
    # a run may end before its last epoch; it is tested at its end and never before
    finished = bool(test_event(run) or (planned and epochs >= planned))
    return Progress(epochs, planned, int(reached), finished)
