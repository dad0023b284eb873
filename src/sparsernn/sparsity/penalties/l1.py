"""L1: unstructured sparsity by a penalty on magnitudes and a threshold."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from sparsernn.core.checks import check_value
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative
from sparsernn.core.plain import Json
from sparsernn.kernels import lasso_kernel
from sparsernn.sparsity.optimizer_state import Optimizers
from sparsernn.sparsity.penalties.group_norms import dense_gradient
from sparsernn.sparsity.penalties.penalty import NO_PENALTY, Penalty, per_token, threshold
from sparsernn.sparsity.weight_counts import summarize

LEAST_THRESHOLD = 1e-4
"""As published."""


class L1(Penalty):
    """strength * sum of magnitudes, with its subgradient, and weights below a threshold put to 0 after every step.

    Args:
        model: whose weights are penalised.
        optimizer: not needed.
        strength: lambda, at least 0.
        lambda_scale: "per_token" or "per_sequence", see `group_lasso`.
        window: time steps of a training window; recipes know it from their task.
        threshold: None: max(1e-4, 2 * strength), as published, where a step moves a weight by `strength` and so lets
            it swing about 0; 0 for never.
        include: patterns over parameter names; all by default, biases too.
        exclude: patterns of those left out; published: the embedding.

    Raises:
        InputError: an impossible value, or a pattern that matches no trained parameter.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -0.1]]))
        >>> penalty = L1(layer, strength=0.5, threshold=0.2)
        >>> penalty.after_backward()
        >>> layer.weight.grad.tolist(), penalty.after_step(), layer.weight.tolist()
        ([[0.5, -0.5]], [], [[3.0, 0.0]])

    Source: as the baseline of W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory",
    2018, arXiv:1709.05027.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers = None,
        *,
        strength: float,
        lambda_scale: str = "per_token",
        window: int | None = None,
        threshold: float | None = None,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(model, optimizer)
        self.strength = per_token(strength, lambda_scale, window)
        check_value("threshold", threshold, NonNegative | None)
        self.threshold = max(LEAST_THRESHOLD, 2 * strength) if threshold is None else threshold
        self.parameters = _chosen(model, include, exclude)

    def value(self) -> float:
        """The penalty at the present weights."""
        return self.strength * sum(float(p.detach().abs().sum(dtype=torch.float64)) for p in self._all())

    def notes(self) -> list[str]:
        """A strength of 0 that is not there for its threshold."""
        return [] if self.strength or self.threshold else [f"l1: {NO_PENALTY}"]

    def touches(self) -> list[nn.Parameter]:
        """All that is penalised."""
        return self._all()

    def add_gradients(self, scale: float = 1.0) -> None:
        """strength * sign of every weight."""
        for parameter in self._all():
            gradient = dense_gradient(parameter)
            lasso_kernel.add_signs(gradient, parameter.detach(), self.strength * scale)

    def project(self) -> None:
        """Put to 0 what is below the threshold."""
        threshold(self._all(), self.threshold)

    def summary(self) -> dict[str, Json]:
        """As `summarize`, exact zeros counting as absent."""
        return summarize(self.model, {name: p.detach() != 0 for name, p in self.parameters.items()})

    def _all(self) -> list[nn.Parameter]:
        return list(self.parameters.values())


def _chosen(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """The trained parameters of floating point that the patterns choose; tied ones once, by their first name."""
    for what, patterns in (("include", include), ("exclude", exclude)):
        check_value(what, patterns, Sequence[str])
    known = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(f"the pattern '{pattern}' matches no parameter; those are {', '.join(known)}.")
    return {
        name: parameter
        for name, parameter in known.items()
        if any(fnmatchcase(name, pattern) for pattern in include)
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
