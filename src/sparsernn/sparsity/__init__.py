"""Which weights exist: masks that are drawn, kept and rewired while a network trains."""

from sparsernn.sparsity.attach import sparsify
from sparsernn.sparsity.dynamic import DynamicSparse
from sparsernn.sparsity.optimizer_state import PerWeight, Rewirable
from sparsernn.sparsity.presets import DEFAULTS, SPARSIFIERS
from sparsernn.sparsity.projection import zero_absent
from sparsernn.sparsity.settings import Settings, parse
from sparsernn.sparsity.sparsifier import Chain, Sparsifier, summarize
from sparsernn.sparsity.timing import Length
from sparsernn.sparsity.topology import Topology, random_masks, topology_distance

__all__ = [
    "DEFAULTS",
    "SPARSIFIERS",
    "Chain",
    "DynamicSparse",
    "Length",
    "PerWeight",
    "Rewirable",
    "Settings",
    "Sparsifier",
    "Topology",
    "parse",
    "random_masks",
    "sparsify",
    "summarize",
    "topology_distance",
    "zero_absent",
]
