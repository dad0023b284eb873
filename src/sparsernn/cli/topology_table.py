"""`sparsernn compare --topology`: how different the connections of two networks are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsernn.core.errors import InputError

if TYPE_CHECKING:
    from sparsernn.report import Table
    from sparsernn.sparsity import Topology


def show_topologies(runs: list[Path], markdown: bool) -> None:
    """Print the distance between the best masks of two runs, or of one run's best and last state.

    Raises:
        InputError: more than two runs, or runs that cannot be compared.
    """
    from sparsernn.cli.console_tables import drawn
    from sparsernn.report.console import output
    from sparsernn.runs.artifacts import topologies
    from sparsernn.runs.assembly import open_weights

    if len(runs) > 2:
        raise InputError(
            f"--topology compares two runs, or two states of one run; {len(runs)} runs were given."
        )
    other = runs[1] if len(runs) == 2 else None
    table = _table(*topologies(open_weights(runs[0]), other))
    if markdown:
        print(table.markdown())
        return
    names = f"{runs[0]} and {other}, best weights" if other else f"{runs[0]}, best and last weights"
    output().print(f"Topology distance: {names}; 0 is the same, 1 shares nothing", soft_wrap=True)
    output().print(drawn(table))


def _table(found: Topology, chance: Topology) -> Table:
    from sparsernn.report import Table

    rows = [
        (name, f"{found.neurons[name]:,}", f"{value:.4f}", f"{chance.layers[name]:.4f}")
        for name, value in found.layers.items()
    ]
    overall = ("overall", "", f"{found.overall:.4f}", f"{chance.overall:.4f}")
    return Table(("", "units", "distance", "to random masks"), (*rows, overall))
