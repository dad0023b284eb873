"""Recurrent networks that are sparse by training or construction, and really smaller.

Two lines for any torch model and any loop:

    from sparsernn import sparsify
    sparsifier = sparsify(model, optimizer, method="selfish", density=0.33)

Experiments:

    import sparsernn as sr
    run = sr.train("demo/selfish", {"epochs": 2})
    run.scores, run.history, run.generate("the value of")

The names below, and the rooms `sr.nn`, `sr.optim` and so on, are imported on first use: `import sparsernn` imports no
torch. `__init__.pyi` says the same to editors and type checkers.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "InputError": "sparsernn.core.errors",
    "NTASGD": "sparsernn.optim",
    "Recipe": "sparsernn.runs.recipe",
    "compact": "sparsernn.deploy",
    "compare": "sparsernn.experiments",
    "export": "sparsernn.deploy.graph_export",
    "gate_blocks": "sparsernn.structure.gates",
    "list_recipes": "sparsernn.runs.recipe",
    "load": "sparsernn.experiments",
    "load_recipe": "sparsernn.runs.recipe",
    "pack": "sparsernn.deploy",
    "prune": "sparsernn.sparsity",
    "runtime": "sparsernn.deploy",
    "sparsify": "sparsernn.sparsity",
    "sweep": "sparsernn.experiments",
    "train": "sparsernn.experiments",
    "unpack": "sparsernn.deploy",
}
_ROOMS = (
    *(
        "core",
        "data",
        "deploy",
        "gradients",
        "kernels",
        "models",
        "nn",
        "optim",
        "report",
        "runs",
        "sparsity",
    ),
    *("structure", "tasks"),
)
__all__ = ["__version__", *sorted((*_HOMES, *_ROOMS))]


def __getattr__(name: str) -> object:
    """Import a public name from its home, or a room, once."""
    if name in _ROOMS:
        return import_module(f"sparsernn.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsernn' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
