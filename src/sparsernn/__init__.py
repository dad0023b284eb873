"""Recurrent networks that are sparse by training or construction, and really smaller.

Two lines for any torch model and any loop:

    from sparsernn import sparsify
    sparsifier = sparsify(model, optimizer, method="selfish", density=0.33)

The names below are imported on first use, so that `import sparsernn` does not import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "sparsernn.core.errors",
    "Recipe": "sparsernn.runs.recipe",
    "list_recipes": "sparsernn.runs.recipe",
    "load_recipe": "sparsernn.runs.recipe",
    "sparsify": "sparsernn.sparsity",
    "NTASGD": "sparsernn.optim",
    "gate_blocks": "sparsernn.structure.gates",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsernn' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
