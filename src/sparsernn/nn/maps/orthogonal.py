"""An orthogonal recurrent matrix through a skew one."""

from typing import Annotated

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf, Size
from sparsernn.nn.maps.exponential import cayley, exp_skew
from sparsernn.nn.maps.initialisers import ANGLES, Init, orthogonal_matrix
from sparsernn.nn.maps.map_contract import RecurrentMap, orthogonality_error
from sparsernn.nn.maps.skew import planar_vector, skew_matrix, upper_places

FROM_SKEW = {"exp": exp_skew, "cayley": cayley}


class Orthogonal(RecurrentMap):
    """V = base map(A) in SO(H), with A skew: any optimizer step on A leaves V orthogonal.

    source: Mario Lezcano-Casado, David Martinez-Rubio, "Cheap Orthogonal Constraints in Neural Networks: A Simple
    Parametrization of the Orthogonal and Unitary Group" (expRNN), 2019, arXiv:1901.08428; with `rebase_every`, Mario
    Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds" (dtriv), 2019, arXiv:1909.09501.
    The authors let A learn at a tenth of the learning rate of the rest.

    Differs from the original: only the entries above the diagonal of A are stored; the Cayley map is the one that
    agrees with exp near 0; "random" is kept as base, without a matrix logarithm; at every change of base one
    Newton-Schulz step takes the rounding away, in place of a singular value decomposition now and then.

    Args:
        hidden_size: H.
        map: "exp", or "cayley", which is cheaper and cannot reach half turns from its base.
        init: of V: "henaff", "cayley" or another name of `initialisers.ANGLES`, or "random" (Haar).
        rebase_every: K >= 1, every K optimizer steps V becomes the base and A zero; null never. Steps are counted
            as forward passes in training mode with gradients on. An optimizer's moments are kept.

    Parameters: `skew` (H (H-1)/2,), A above its diagonal, row by row. Buffers: `base` (H, H) and `steps`, where the
    settings need them.

    Raises:
        InputError: an unknown map or init, or K below 1.

    Example:
        A recurrent matrix for a cell of torch's own:

        >>> map, cell = Orthogonal(4), torch.nn.RNNCell(3, 4)
        >>> h = torch.func.functional_call(cell, {"weight_hh": map()}, (torch.zeros(2, 3), torch.ones(2, 4)))
        >>> h.sum().backward()
        >>> map.is_on_manifold(1e-5), map.skew.grad.shape
        (True, torch.Size([6]))
    """

    base: Tensor | None
    steps: Tensor | None
    places: Tensor

    @checked
    def __init__(
        self,
        hidden_size: Size,
        *,
        map: Annotated[str, OneOf(FROM_SKEW)] = "exp",
        init: Init = "henaff",
        rebase_every: Size | None = None,
    ) -> None:
        super().__init__(hidden_size)
        self.map, self.rebase_every = map, rebase_every
        self.register_buffer("places", upper_places(hidden_size), persistent=False)
        base, skew = _start(hidden_size, map, init)
        kind = torch.get_default_dtype()
        if base is None and rebase_every:
            base = torch.eye(hidden_size)
        self.register_buffer("base", base if base is None else base.to(kind))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long) if rebase_every else None)
        self.skew = nn.Parameter(skew.to(kind))

    def forward(self) -> Tensor:
        """V (H, H)."""
        if self.rebase_every and self.training and torch.is_grad_enabled():
            self._count(self.rebase_every)
        return self._matrix()

    def _matrix(self) -> Tensor:
        turned = FROM_SKEW[self.map](skew_matrix(self.skew, self.places, self.hidden_size))
        return turned if self.base is None else self.base @ turned

    def _count(self, rebase_every: int) -> None:
        assert self.steps is not None
        taken = int(self.steps)
        if taken and taken % rebase_every == 0:
            self.rebase()
        self.steps += 1

    @torch.no_grad()
    def rebase(self) -> None:
        """Make V the base and A zero: the same V, with the plain gradient of the manifold at it.

        Raises:
            InputError: the map was built without a base (`rebase_every` null and an init that is not "random").
        """
        if self.base is None:
            raise InputError("rebase_every is None; a map that is to be rebased needs a number of steps.")
        q = self._matrix()
        self.base.copy_(1.5 * q - 0.5 * q @ (q.mT @ q))
        self.skew.zero_()

    def manifold_error(self) -> float:
        """The largest entry of |V'V - I|."""
        with torch.no_grad():
            return orthogonality_error(self._matrix())


def _start(size: int, map: str, init: str) -> tuple[Tensor | None, Tensor]:
    """Base and skew vector whose map is `init`: the base only where the skew vector cannot hold it."""
    nothing = torch.zeros(size * (size - 1) // 2)
    if init == "random" or (map == "cayley" and init != "cayley"):
        return orthogonal_matrix(init, size), nothing
    angles = ANGLES[init](size, None)
    return None, planar_vector(angles if map == "exp" else 2 * angles, size)
