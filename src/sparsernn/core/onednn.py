"""oneDNN as torch has it: whether there is one, and the switch that a library may turn for a while."""

from typing import Any

import torch

onednn: Any = torch.backends.mkldnn
"""Its `enabled` is made when torch is imported, so that no stub of torch knows it."""
