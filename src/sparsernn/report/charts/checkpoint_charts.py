"""Pictures of what a checkpoint holds: masks as heat maps, active weights as histograms."""

import base64
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsernn.core.plain import Json
from sparsernn.report.charts.chart import Axes, Series, chart
from sparsernn.report.charts.run_charts import MOST_TENSORS
from sparsernn.report.charts.svg import Figure
from sparsernn.report.story.checkpoint_tensors import Tensors, density_map, histogram, png
from sparsernn.report.story.facts import plan_of
from sparsernn.report.story.formats import fraction, three, whole
from sparsernn.report.story.history import RunRecord

INK = (
    11,
    107,
    176,
)  # the palette's first colour; its opacity carries the density, so it fits light and dark pages
BINS = 60
LOOKED_AT = 1_000_000  # positions of a matrix that a histogram counts, at least
SAMPLE = 100_000  # weights looked at to find the range of a histogram: its quantiles need no more
LETTER = 6.5  # pixels: about as wide as a letter of the names of gates
HALF = 440  # pixels: about the width of a picture that shares its row with another
WIDE = 560  # pixels: about the width of a picture on a desktop page, so that cells come out nearly square


def mask_pictures(run: RunRecord, tensors: Tensors) -> list[Figure]:
    """One heat map per masked tensor: its rows run to the right, gate after gate, its columns downwards."""
    masks = tensors.masks
    names = [name for name in masked_names(run, tensors) if masks[name].dim() == 2]
    gates = {name: gate_shares(run, name, len(masks[name])) for name in names}
    return [_picture(name, masks[name], gates[name]) for name in names[:MOST_TENSORS]]


def gate_shares(run: RunRecord, name: str, rows: int) -> dict[str, tuple[float, float]]:
    """Where each gate of a tensor begins and ends, as parts of its `rows`; all equal where the plan is silent."""
    planned = next((row.get("gate_rows") for row in _planned(run) if row["name"] == name), None)
    if planned:
        return {gate: (first / rows, end / rows) for gate, (first, end) in planned.items()}
    gates = gate_names(run).get(name, ())
    return {gate: (k / len(gates), (k + 1) / len(gates)) for k, gate in enumerate(gates)}


def masked_names(run: RunRecord, tensors: Tensors) -> list[str]:
    """The masked tensors of a checkpoint in the order of the plan."""
    order = [*(str(row["name"]) for row in _planned(run)), *tensors.masks]
    return [name for name in dict.fromkeys(order) if name in tensors.masks]


def gate_names(run: RunRecord) -> dict[str, tuple[str, ...]]:
    """The gates of each stacked tensor in the order of their rows: from the plan, else from a mask update."""
    updates = {
        name: tuple(row.get("gates") or ()) for name, row in (run.last("rewire").get("tensors") or {}).items()
    }
    planned = {row["name"]: tuple(_name(gate) for gate in row.get("gates") or ()) for row in _planned(run)}
    return updates | {name: gates for name, gates in planned.items() if gates}


def weight_histograms(run: RunRecord, tensors: Tensors) -> list[Figure]:
    """Active weights of each masked tensor (of every matrix where nothing is masked), with their averages."""
    names = masked_names(run, tensors) or [
        name for name, weight in tensors.weights.items() if weight.dim() == 2
    ]
    found = [_histogram(name, tensors) for name in names[:MOST_TENSORS] if name in tensors.weights]
    return [figure for figure in found if figure]


def _planned(run: RunRecord) -> list[Mapping[str, Json]]:
    return list(plan_of(run).get("tensors") or [])


def _name(gate: object) -> str:
    """A gate of the plan is a name, or a mapping with a name."""
    return str(gate.get("name")) if isinstance(gate, Mapping) else str(gate)


def _picture(name: str, mask: Tensor, gates: Mapping[str, tuple[float, float]]) -> Figure:
    cells = density_map(mask).t()
    top = max(float(torch.quantile(cells, 0.995)), 1e-9)
    data = base64.b64encode(png(cells / top, INK)).decode("ascii")
    height = _height(mask)
    source = f"data:image/png;base64,{data}"
    image = f'<image href="{source}" width="100%" height="{height}" preserveAspectRatio="none"/>'
    frame = f'<rect class="frame" width="100%" height="{height}"/>'
    rows, columns = mask.shape
    density = float(mask.float().mean())
    return Figure(
        title=name,
        unit=f"{whole(rows)} × {whole(columns)}, density {fraction(density)}",
        body=image + frame + _borders(gates, height) + _edges(rows, columns, height),
        alt=f"Density map of the mask of {name}: full colour is density {fraction(top)} or more.",
        height=height,
        bottom=22,
        top=24,
        caption=f"Full colour: density {fraction(min(1.0, top))} or more.{_unnamed(gates)}",
    )


def _height(mask: Tensor) -> int:
    """In proportion to the mask, inside what reads well (pixels)."""
    rows, columns = mask.shape
    return round(min(170, max(64, WIDE * columns / max(1, rows))))


def _borders(gates: Mapping[str, tuple[float, float]], height: int) -> str:
    lines = "".join(
        f'<line class="border" x1="{100 * first:.2f}%" x2="{100 * first:.2f}%" y1="-4" y2="{height}"/>'
        for first, _ in gates.values()
        if first > 0
    )
    return lines + "".join(
        f'<text class="tick" x="{50 * (first + end):.2f}%" y="-6" text-anchor="middle">{_escape(gate)}</text>'
        for gate, (first, end) in gates.items()
        if _has_room(gate, end - first)
    )


def _has_room(gate: str, share: float) -> bool:
    """Whether a gate's name fits over its part of the picture."""
    return share * HALF >= LETTER * (len(gate) + 1)


def _unnamed(gates: Mapping[str, tuple[float, float]]) -> str:
    """The gates that are too narrow for their names, for the caption.

    >>> _unnamed({"master": (0.0, 0.05), "cell": (0.05, 1.0)})
    ' Too narrow for a name: master (0 to 5 % of the width).'
    """
    narrow = {gate: ends for gate, ends in gates.items() if not _has_room(gate, ends[1] - ends[0])}
    told = [f"{gate} ({100 * first:.0f} to {100 * end:.0f} %" for gate, (first, end) in narrow.items()]
    return f" Too narrow for a name: {'), '.join(told)} of the width)." if told else ""


def _edges(rows: int, columns: int, height: int) -> str:
    return (
        f'<text class="tick" x="0" y="{height + 15}">output 1</text>'
        f'<text class="tick" x="100%" y="{height + 15}" text-anchor="end">{whole(rows)}</text>'
        f'<text class="tick" x="-8" y="10" text-anchor="end">1</text>'
        f'<text class="tick" x="-8" y="{height}" text-anchor="end">{whole(columns)}</text>'
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _histogram(name: str, tensors: Tensors) -> Figure | None:
    weight, mask, kept = tensors.weights[name], tensors.masks.get(name), tensors.averages.get(name)
    raw = _active(weight, mask)
    reach = _reach(raw)
    if not reach:
        return None
    edges = torch.linspace(-reach, reach, BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    series = [Series("raw", middles, histogram(raw, edges), 0, "area")]
    if kept is not None:
        series.append(Series("averaged", middles, histogram(_active(kept, mask), edges), 1))
    active = weight.numel() if mask is None else int(mask.sum())
    caption = f"{whole(active)} active, standard deviation {three(float(raw.std(correction=0)))}"
    axes = Axes("share per bin", "weight", zero=True, x_zero=False)
    return chart(name, series, axes, height=110, caption=caption)


def _active(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Finite active weights; of large matrices those of every n-th row, which draws the same picture."""
    rows = slice(None, None, max(1, weight.numel() // LOOKED_AT))
    values = weight[rows].float()
    values = values[mask[rows]] if mask is not None and mask.shape == weight.shape else values.flatten()
    return values[torch.isfinite(values)]


def _reach(values: Tensor) -> float:
    """Half the width of a histogram: what 99.8 % of the weights lie within."""
    if not values.numel():
        return 0.0
    sample = values[:: max(1, math.ceil(values.numel() / SAMPLE))].abs()
    return float(torch.quantile(sample, 0.998))
