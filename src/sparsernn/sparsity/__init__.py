"""Which weights exist: masks that are drawn, kept and rewired while a network trains."""

from sparsernn.nn.foreign import units_of
from sparsernn.sparsity.attach import sparsify
from sparsernn.sparsity.dynamic import DynamicSparse
from sparsernn.sparsity.frozen import Frozen
from sparsernn.sparsity.groups import Groups
from sparsernn.sparsity.l1 import L1
from sparsernn.sparsity.lasso import GroupLasso, LassoSettings, group_lasso
from sparsernn.sparsity.optimizer_state import PerWeight, Rewirable
from sparsernn.sparsity.penalty import Penalty
from sparsernn.sparsity.presets import DEFAULTS, PENALTIES, SPARSIFIERS
from sparsernn.sparsity.projection import zero_absent
from sparsernn.sparsity.settings import Settings, parse
from sparsernn.sparsity.sparsifier import Chain, Sparsifier, summarize
from sparsernn.sparsity.timing import Length
from sparsernn.sparsity.topology import Topology, random_masks, topology_distance

__all__ = [
    "DEFAULTS",
    "L1",
    "PENALTIES",
    "SPARSIFIERS",
    "Chain",
    "DynamicSparse",
    "Frozen",
    "GroupLasso",
    "Groups",
    "LassoSettings",
    "Length",
    "Penalty",
    "PerWeight",
    "Rewirable",
    "Settings",
    "Sparsifier",
    "Topology",
    "group_lasso",
    "parse",
    "random_masks",
    "sparsify",
    "summarize",
    "topology_distance",
    "units_of",
    "zero_absent",
]
