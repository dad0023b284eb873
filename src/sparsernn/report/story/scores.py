"""The scores of a task beyond the one figure that it is judged by."""

from sparsernn.core.metrics import METRICS
from sparsernn.report.story.facts import best_epoch, test_event
from sparsernn.report.story.formats import MISSING, quality, whole
from sparsernn.report.story.history import RunRecord
from sparsernn.report.story.tables import Table

EVERYWHERE = {*METRICS, "tokens"}
"""Scores that the cards, the curves and the table of epochs have already."""
FACTS = {"event", "epoch", "step", "split", "averaged", "time", "batch_size"}
"""What a record of a test says besides its scores."""
SMALL = 0.0005
"""Below it three decimals would say 0.000."""


def scores_tables(run: RunRecord) -> tuple[Table, ...]:
    """All scores of the best weights, validation and test; none where the task has only those shown elsewhere."""
    valid, test = best_epoch(run).get("valid") or {}, test_event(run)
    names = [name for name in dict.fromkeys([*test, *valid]) if name not in FACTS]
    if set(names) <= EVERYWHERE:
        return ()
    rows = tuple((_label(n), _shown(n, valid.get(n)), _shown(n, test.get(n))) for n in names)
    return (Table(("of the best weights", "validation", "test"), rows),)


def _label(name: str) -> str:
    row = METRICS.get(name)
    return row.label if row else name.replace("_", " ")


def _shown(name: str, value: float | None) -> str:
    """A count, a share in per cent where the name says it is an accuracy, or a number.

    >>> _shown("unknown_accuracy", 0.5), _shown("recital", 29.25), _shown("tokens", 1234), _shown("recital", None)
    ('50.00 %', '29.25', '1,234', '–')
    >>> _shown("manifold_error", 4.8e-7)
    '4.8e-07'
    """
    if value is None:
        return MISSING
    if isinstance(value, int):
        return whole(value)
    share = "accuracy" in name.split("_")
    if 0 < abs(value) < SMALL and not share:
        return f"{value:.1e}"
    return quality(value, "accuracy" if share else name)
