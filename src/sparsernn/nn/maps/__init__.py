"""Recurrent maps: what the matrix V of h_t = phi(U x_t + V h_{t-1}) is made of.

`MAPS` names the ones that a recipe can ask for. Each is a module of its own: `map() -> V`, `map.penalty()`,
`map.is_on_manifold(tolerance)`, `map.hidden_size`; any layer can use its V.
"""

from collections.abc import Callable

from sparsernn.nn.maps.dense_map import Dense
from sparsernn.nn.maps.map_contract import RecurrentMap, orthogonality_error
from sparsernn.nn.maps.orthogonal import Orthogonal
from sparsernn.nn.maps.rotations import Rotations
from sparsernn.nn.maps.schur_map import Normal

MAPS: dict[str, Callable[..., RecurrentMap]] = {
    "dense": Dense,
    "orthogonal": Orthogonal,
    "normal": Normal,
    "rotations": Rotations,
}

__all__ = ["MAPS", "Dense", "Normal", "Orthogonal", "RecurrentMap", "Rotations", "orthogonality_error"]
