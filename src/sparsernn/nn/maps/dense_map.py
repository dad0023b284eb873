"""A recurrent matrix without structure."""

from typing import Annotated

import torch
from torch import Tensor, nn

from sparsernn.core.checks import checked
from sparsernn.core.limits import OneOf, Size
from sparsernn.nn.drive.held_places import HoldsPlaces
from sparsernn.nn.maps.initialisers import (
    ANGLES,
    glorot_normal,
    kaiming_normal,
    orthogonal_matrix,
)
from sparsernn.nn.maps.map_contract import RecurrentMap


class Dense(HoldsPlaces, RecurrentMap):
    """V itself is the parameter; an orthogonal beginning is not kept.

    Args:
        hidden_size: H.
        init: "xavier" (Glorot normal), "kaiming" (normal), "random" (Haar on SO(H)) or one of the rotations of
            `initialisers.ANGLES` ("henaff", "cayley" ...).

    Parameters: `weight` (H, H).

    Raises:
        InputError: an unknown init.

    Example:
        >>> v = Dense(4, init="henaff")()
        >>> torch.allclose(v @ v.T, torch.eye(4), atol=1e-6)
        True
    """

    @checked
    def __init__(
        self,
        hidden_size: Size,
        *,
        init: Annotated[str, OneOf(("xavier", "kaiming", "random", *ANGLES))] = "xavier",
    ) -> None:
        super().__init__(hidden_size)
        self.own_places = {}
        if init == "xavier":
            first = glorot_normal(hidden_size, hidden_size)
        elif init == "kaiming":
            first = kaiming_normal(hidden_size, hidden_size)
        else:
            first = orthogonal_matrix(init, hidden_size)
        self.weight = nn.Parameter(first.to(torch.get_default_dtype()))

    def forward(self) -> Tensor:
        """V (H, H)."""
        return self.weight
