"""Training on with the zeros that are there: what a penalty removed stays removed."""

from collections.abc import Mapping

from torch import Tensor, nn

from sparsernn.core.errors import InputError
from sparsernn.core.plain import Json
from sparsernn.sparsity.optimizer_state import Optimizers, project
from sparsernn.sparsity.saved_state import check_keys, check_tensors
from sparsernn.sparsity.sparsifier import Sparsifier


class Frozen(Sparsifier):
    """Every weight of a matrix that is exactly 0 when training begins stays 0; the others are trained as usual.

    For finetuning a network that a penalty made sparse. Vectors, such as biases, are left alone.

    Args:
        model: whose zeros are kept.
        optimizer: whose buffers follow.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
        >>> frozen = Frozen(layer)
        >>> frozen.after_backward()
        >>> _ = layer.weight.data.add_(1.0)
        >>> frozen.after_step(), layer.weight.tolist()
        ([], [[4.0, 0.0]])

    Source: the finetuning of W. Wen et al., "Learning Intrinsic Sparse Structures within Long Short-Term Memory",
    2018, arXiv:1709.05027.
    Differs from the original: that one freezes what lies below 1e-4 at each step; here a weight that has not been 0
    before may cross 0.
    """

    in_zeros: bool = True

    def __init__(self, model: nn.Module, optimizer: Optimizers = None) -> None:
        super().__init__(model, optimizer)
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
        self._masks: dict[str, Tensor] = {}
        self._drawn = False

    def after_backward(self) -> None:
        """The first time: see where the zeros are, before a step can change them."""
        self._draw()

    def after_step(self) -> list[dict[str, Json]]:
        """Put the zeros back, in the weights and in the optimizer's buffers."""
        self._project()
        return []

    def finalize(self) -> None:
        """Leave hard zeros behind."""
        self._draw()
        self._project()

    def masks(self) -> dict[str, Tensor]:
        """Those of the matrices with zeros; none before training begins."""
        return self._masks

    def state_dict(self) -> dict[str, Json]:
        """The masks."""
        return {"masks": {name: mask.clone() for name, mask in self._masks.items()}, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from `state_dict`.

        Raises:
            InputError: a mask of another shape or name.
        """
        check_keys(state, ("masks", "drawn"))
        check_tensors("masks", state["masks"], {})
        for name, mask in state["masks"].items():
            if (
                name not in self._named
                or not isinstance(mask, Tensor)
                or mask.shape != self._named[name].shape
            ):
                raise InputError(
                    f"the saved zeros do not fit: there is no '{name}' of shape {tuple(getattr(mask, 'shape', ()))}."
                )
        self._masks = {n: mask.to(self._named[n].device).clone() for n, mask in state["masks"].items()}
        self._drawn = bool(state["drawn"])

    def _draw(self) -> None:
        if not self._drawn:
            found = {name: p.detach() != 0 for name, p in self._named.items()}
            self._masks = {name: mask for name, mask in found.items() if not bool(mask.all())}
            self._drawn = True

    def touches(self) -> list[nn.Parameter]:
        """The matrices."""
        return list(self._named.values())

    def _project(self) -> None:
        project(self.optimizers, [self._named[name] for name in self._masks], list(self._masks.values()))
