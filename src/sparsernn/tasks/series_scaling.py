"""What training series teach about the size of their numbers, and series as what a model reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each column and of the target, of training alone.

    Attributes:
        mean: C numbers, in the columns' units.
        std: C numbers above 0; 1 for a column that does not vary.
        target: mean and standard deviation of the target; (0, 1) for labels.
        masked: missing numbers are read as the mean, and each column has one more input, 1 where it is missing.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: tuple[float, float] = (0.0, 1.0)
    masked: bool = False

    @property
    def inputs(self) -> int:
        """I, what a model reads at each step."""
        return len(self.mean) * (2 if self.masked else 1)

    @classmethod
    def learned(
        cls, values: NDArray[np.float64], columns: Sequence[str], target: NDArray[np.float64], masked: bool
    ) -> "Scaling":
        """From all training steps.

        Args:
            values: (N, C), NaN where missing.
            columns: their names, for messages.
            target: (M,) targets that are scored; (0,) for labels.
            masked: see the class.

        Raises:
            InputError: a column that has no number, or numbers too large for a standard deviation.

        Example:
            >>> Scaling.learned(np.array([[1.0], [3.0]]), ["x"], np.zeros(0), False)
            Scaling(mean=(2.0,), std=(1.0,), target=(0.0, 1.0), masked=False)
        """
        pairs = [_moments(values[:, k], f"column '{name}'") for k, name in enumerate(columns)]
        own = _moments(target, "the target") if len(target) else (0.0, 1.0)
        return cls(tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs), own, masked)

    def plain(self) -> dict[str, Json]:
        """The same as JSON can hold it, exactly.

        >>> Scaling.of(Scaling((1.0,), (0.1,)).plain())
        Scaling(mean=(1.0,), std=(0.1,), target=(0.0, 1.0), masked=False)
        """
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "target": list(self.target),
            "masked": self.masked,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Json]) -> "Scaling":
        """What `plain` returned."""
        first, second = plain["target"]
        return cls(tuple(plain["mean"]), tuple(plain["std"]), (first, second), plain["masked"])

    def read(self, values: NDArray[np.float64]) -> Tensor:
        """What a model reads of a series: (T, C) -> (T, I) in torch's default type.

        >>> Scaling((2.0,), (4.0,), masked=True).read(np.array([[4.0], [np.nan]])).tolist()
        [[0.5, 0.0], [0.0, 1.0]]
        """
        absent = np.isnan(values)
        scaled = np.where(absent, 0.0, (values - np.array(self.mean)) / np.array(self.std))
        parts = [scaled, absent.astype(np.float64)] if self.masked else [scaled]
        return torch.from_numpy(np.concatenate(parts, 1)).to(torch.get_default_dtype())

    def scaled(self, targets: NDArray[np.float64]) -> Tensor:
        """Targets (N,) in the unit of the loss, in torch's default type."""
        mean, std = self.target
        return torch.from_numpy((targets - mean) / std).to(torch.get_default_dtype())

    def unscaled(self, answers: Tensor) -> Tensor:
        """A model's answers in the target's own unit, float64.

        >>> Scaling((), (), (10.0, 2.0)).unscaled(torch.tensor([0.5])).tolist()
        [11.0]
        """
        mean, std = self.target
        return answers.double() * std + mean


def _moments(values: NDArray[np.float64], what: str) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        raise InputError(f"{what} has no number in any training series; leave it out, or take other data.")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(known.mean()), float(known.std())
    if not np.isfinite((mean, std)).all():
        raise InputError(
            f"{what} has numbers up to {np.abs(known).max():g}; they are too large for a mean and a standard "
            "deviation."
        )
    # what rounding leaves of equal numbers is no spread
    varies = std > 1e-12 * abs(mean) and std > 0
    return mean, std if varies else 1.0
