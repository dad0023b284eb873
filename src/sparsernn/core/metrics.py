"""The figures that models are judged by: how each is called and written, and which direction is better.

Nothing here imports torch: the command line, the recipes and the reports all read this one table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

SCIENTIFIC = 1e6
"""Figures of this size and more are written with an exponent: their digits say nothing, and 300 of them hide it."""


@dataclass(frozen=True)
class Metric:
    """One kind of score.

    Attributes:
        label: as headings call it.
        unit: what stands behind a figure.
        digits: decimals of a figure while a run trains.
        scale: factor between the figure that `Task.evaluate` gives and the one that is shown; 100 for a percentage.
        higher_is_better: False for losses.
        of_loss: the figure from mean nats per target; None where it does not follow from them.
        trained_by: the row by which a loss is shown where the figure does not follow from it.
    """

    label: str
    unit: str = ""
    digits: int = 2
    scale: float = 1.0
    higher_is_better: bool = False
    of_loss: Callable[[float], float] | None = None
    trained_by: str = "loss"

    @property
    def axis(self) -> str:
        """The label of figures that stand without their unit.

        >>> METRICS["accuracy"].axis, METRICS["perplexity"].axis
        ('accuracy, %', 'perplexity')
        """
        return f"{self.label}, %" if self.scale != 1 else self.label

    def shown(self, value: float) -> str:
        """A figure with its unit; in scientific form from `SCIENTIFIC` on.

        >>> METRICS["perplexity"].shown(71.654), METRICS["accuracy"].shown(0.98125)
        ('71.65 ppl', '98.12 %')
        >>> METRICS["perplexity"].shown(1.5e300)
        '1.50e+300 ppl'
        """
        figure = value * self.scale
        kind = "e" if abs(figure) >= SCIENTIFIC else "f"
        return f"{figure:.{self.digits}{kind}} {self.unit}".rstrip()

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`.

        >>> METRICS["loss"].better(1.0, 2.0), METRICS["accuracy"].better(0.5, 0.9)
        (True, False)
        """
        return a > b if self.higher_is_better else a < b


def _share(label: str) -> Metric:
    """A score between 0 and 1, shown in per cent, of which more is better."""
    return Metric(label, "%", scale=100.0, higher_is_better=True)


METRICS: dict[str, Metric] = {
    # exp overflows a double at 709
    "perplexity": Metric(
        "perplexity", "ppl", of_loss=lambda loss: math.exp(loss) if loss < 700 else math.inf
    ),
    "bits": Metric("bits per token", "bits", 3, of_loss=lambda loss: loss / math.log(2)),
    "loss": Metric("loss", "nats", 3, of_loss=lambda loss: loss),
    "mse": Metric("mean squared error", "", 4, of_loss=lambda loss: loss),
    "scaled": Metric("squared error of the scaled target", "", 4, of_loss=lambda loss: loss),
    "rmse": Metric("RMSE", "", 4, trained_by="scaled"),
    "mae": Metric("mean absolute error", "", 4, trained_by="scaled"),
    "accuracy": _share("accuracy"),
    "f1": _share("F1"),
    "em": _share("exact match"),
}


def metric(name: str) -> Metric:
    """The row of `METRICS`; a name that is not there speaks for itself, and less of it is better.

    >>> metric("perplexity").unit, metric("hops").label
    ('ppl', 'hops')
    """
    return METRICS.get(name, Metric(name, name, 4))


def shown_loss(loss: float, name: str) -> str:
    """Mean nats per target in the unit of a metric; as the metric's `trained_by` where it does not follow from them.

    >>> shown_loss(math.log(80), "perplexity"), shown_loss(math.log(2), "bits"), shown_loss(0.25, "accuracy")
    ('80.00 ppl', '1.000 bits', '0.250 nats')
    >>> shown_loss(0.25, "rmse")
    '0.2500'
    """
    row = metric(name) if metric(name).of_loss else METRICS[metric(name).trained_by]
    return row.shown(row.of_loss(loss) if row.of_loss else loss)
