"""Which weights exist: masks that are drawn, kept and rewired while a network trains."""

from sparsernn.sparsity.attach import sparsify
from sparsernn.sparsity.dynamic.dense_to_sparse import DenseToSparse
from sparsernn.sparsity.dynamic.engine import DynamicSparse
from sparsernn.sparsity.dynamic.engine_settings import Settings, parse
from sparsernn.sparsity.dynamic.update_times import Length
from sparsernn.sparsity.frozen_zeros import Frozen
from sparsernn.sparsity.optimizer_state import PerWeight, Rewirable
from sparsernn.sparsity.penalties.group_lasso import GroupLasso, LassoSettings, group_lasso
from sparsernn.sparsity.penalties.group_norms import Groups
from sparsernn.sparsity.penalties.l1 import L1
from sparsernn.sparsity.penalties.penalty import Penalty
from sparsernn.sparsity.presets import DEFAULTS, PENALTIES, PRUNED_ON_THE_WAY, SPARSIFIERS
from sparsernn.sparsity.projection import zero_absent
from sparsernn.sparsity.sparsifier import Chain, Sparsifier
from sparsernn.sparsity.topology_distance import Topology, random_masks, topology_distance
from sparsernn.sparsity.trained.trained_pruning import Pruned, PruneSettings, prune
from sparsernn.sparsity.weight_counts import summarize
from sparsernn.structure.torch_units import units_of

__all__ = [
    "DEFAULTS",
    "L1",
    "PENALTIES",
    "PRUNED_ON_THE_WAY",
    "SPARSIFIERS",
    "Chain",
    "DenseToSparse",
    "DynamicSparse",
    "Frozen",
    "GroupLasso",
    "Groups",
    "LassoSettings",
    "Length",
    "Penalty",
    "PerWeight",
    "PruneSettings",
    "Pruned",
    "Rewirable",
    "Settings",
    "Sparsifier",
    "Topology",
    "group_lasso",
    "parse",
    "prune",
    "random_masks",
    "sparsify",
    "summarize",
    "topology_distance",
    "units_of",
    "zero_absent",
]
