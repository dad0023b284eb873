"""How good the synthetic gradients of a run were, from what the boundary told the log."""

import math

from sparsernn.report.charts.chart import Axes, Marks, Series, chart
from sparsernn.report.charts.run_charts import column, thin
from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.history import RunRecord

NOTE = (
    "Estimate and target at the start of the windows, means between two records. Cosine 1 and R² 1 are perfect, "
    "R² below 0 is worse than no estimate. The target is itself bootstrapped: what is injected tends to it. "
    "The third picture is about the weights, in one window between two records: the gradient that reaches them "
    "from beyond it, over that of the window's own loss."
)
COSINE = (("cosine", "sg_cosine"), ("R²", "sg_r2"))
SIZES = (("estimate", "sg_rms_ratio"), ("injected", "sg_injected"))
WEIGHTS = (("from beyond the window", "sg_share"),)
FLOOR = -1.0  # R^2 is drawn down to here: before a synthesizer has learnt it can be anything below


def synthetic_charts(run: RunRecord) -> list[Figure]:
    """Cosine and R^2, sizes relative to the target, share of the weights' gradient; [] for other runs."""
    steps = [event for event in run.of("step") if "sg_rms_ratio" in event]
    marks = Marks(tuple((float(e.get("step", 0)), str(e.get("source"))) for e in run.of("phase")))
    charts = []
    for title, rows, axes in (
        ("Estimate and target", COSINE, Axes("agreement", "step", shown=(0.0, 1.0))),
        ("Size against the target", SIZES, Axes("ratio", "step", zero=True)),
        ("Gradient of the weights", WEIGHTS, Axes("share of the window's own", "step", zero=True)),
    ):
        curves = [_curve(steps, name, key, k) for k, (name, key) in enumerate(rows)]
        charts.append(chart(title, curves, axes, marks=marks, height=150))
    return [figure for figure in charts if figure]


def _curve(steps: list[dict[str, object]], name: str, key: str, colour: int) -> Series:
    x, y, _ = thin(column(steps, "step"), column(steps, key))
    return Series(name, x, [max(v, FLOOR) if math.isfinite(v) else v for v in y], colour)
