"""Numbers as people read them. Everything that is missing or not a number becomes an en dash or 'NaN'."""

import math
from collections.abc import Iterable, Mapping

from sparsernn.core.metrics import SCIENTIFIC
from sparsernn.core.metrics import metric as row_of
from sparsernn.core.plain import Json
from sparsernn.report.story.history import number

MISSING = "–"
KIBI = 1024


def whole(value: object) -> str:
    """A count with thousands separators.

    >>> whole(21780000), whole(None)
    ('21,780,000', '–')
    """
    if value is None:
        return MISSING
    return f"{round(number(value)):,}" if math.isfinite(number(value)) else "NaN"


def short(value: object) -> str:
    """A count in three digits and a unit.

    >>> short(21_780_000), short(999), short(15_200)
    ('21.8 M', '999', '15.2 k')
    """
    if value is None or not math.isfinite(number(value)):
        return MISSING
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number(value)) >= 0.9995 * size:
            return f"{three(number(value) / size)}{unit}"
    return f"{number(value):g}"


def three(value: float) -> str:
    """Three significant digits without an exponent for values from 0.001 to 99,999.

    >>> three(0.33), three(1234.5), three(7.0)
    ('0.330', '1,234', '7.00')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if value and not 1e-3 <= abs(value) < SCIENTIFIC:
        return f"{value:.2e}"
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def quality(value: object, metric: str = "loss") -> str:
    """A score: two decimals, three below 10; two and a per cent sign where the metric is a share.

    >>> quality(71.654), quality(1.2345), quality(None), quality(float("nan")), quality(0.98125, "accuracy")
    ('71.65', '1.234', '–', 'NaN', '98.12 %')
    >>> quality(3e9)
    '3.00e+09'
    """
    if value is None:
        return MISSING
    value = number(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if row_of(metric).scale != 1:
        return row_of(metric).shown(value)
    if abs(value) >= SCIENTIFIC:
        return f"{value:.2e}"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.2f}"


def fraction(value: object) -> str:
    """A density or a rate between 0 and 1, with three or four decimals.

    >>> fraction(0.33), fraction(0.0051), fraction(None)
    ('0.330', '0.0051', '–')
    """
    if value is None:
        return MISSING
    value = number(value)
    if not math.isfinite(value):
        return "NaN"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.3f}"


def size(value: object) -> str:
    """Bytes in binary units.

    >>> size(512), size(1536), size(3 * 1024**2), size(None)
    ('512 B', '1.50 KiB', '3.00 MiB', '–')
    """
    if value is None or not math.isfinite(number(value)):
        return MISSING
    amount = number(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < KIBI:
            return f"{amount:.0f} B" if unit == "B" else f"{three(amount)} {unit}"
        amount /= KIBI
    return f"{three(amount)} GiB"


def duration(seconds: object) -> str:
    """A time span.

    >>> duration(0.25), duration(42), duration(3671), duration(90000), duration(None)
    ('0.25 s', '42 s', '1 h 01 min', '1 d 1 h', '–')
    """
    if seconds is None or not math.isfinite(number(seconds)):
        return MISSING
    seconds = number(seconds)
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 2:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if days < 1:
        return f"{int(hours)} h {int(minutes) % 60:02d} min"
    return f"{int(days)} d {int(hours) % 24} h"


def milliseconds(value: object) -> str:
    """A latency.

    >>> milliseconds(0.0423), milliseconds(12.345)
    ('0.0423 ms', '12.3 ms')
    """
    return MISSING if value is None else f"{three(number(value))} ms"


def milliseconds_spread(row: Mapping[str, Json]) -> str:
    """The latency of a row, and where half of its steps lie.

    >>> milliseconds_spread({"ms_per_token": 0.5, "spread_ms": [0.4, 0.6]}), milliseconds_spread({})
    ('0.500 ms (0.400 to 0.600)', '–')
    """
    spread = row.get("spread_ms")
    around = f" ({' to '.join(three(number(value)) for value in spread)})" if spread else ""
    return milliseconds(row.get("ms_per_token")) + around


def ratio(part: object, whole_: object) -> str:
    """How many times smaller `part` is than `whole_`; '' where that says nothing.

    >>> ratio(25, 100), ratio(None, 3)
    ('4.00×', '')
    """
    part, total = number(part), number(whole_)
    return f"{three(total / part)}×" if part > 0 and math.isfinite(total) else ""


def times_smaller(part: float, total: float) -> str:
    """How `part` compares with a larger `total`, or with a smaller one: small files hold more words than numbers.

    >>> times_smaller(25, 100), times_smaller(110, 100)
    ('4.00 times smaller', '1.10 times larger')
    """
    return f"{total / part:.2f} times smaller" if part <= total else f"{part / total:.2f} times larger"


def plain(value: object) -> str:
    """A setting of a recipe or of the environment, on one line.

    >>> plain(True), plain(None), plain([1500, 1500]), plain(1.2e-6)
    ('yes', '–', '1500, 1500', '1.2e-06')
    """
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def flatten(tree: object, prefix: str = "") -> dict[str, Json]:
    """Nested mappings as dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    flat: dict[str, Json] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def origin(epoch: int | None) -> str:
    """Where the best weights come from.

    >>> origin(3), origin(0), origin(None)
    ('epoch 3', 'the weights it started from', '')
    """
    if epoch is None:
        return ""
    return f"epoch {epoch}" if epoch else "the weights it started from"


def products(rows: Iterable[Mapping[str, Json]]) -> list[str]:
    """How modules multiply with masked weights, alike ones in one line.

    >>> products([{"module": "head", "setting": "sparse", "sparse": True, "seconds": None}])
    ['head: sparse, as set']
    """
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(_product(row), []).append(row["module"] or "the model")
    return [f"{', '.join(modules)}: {what}" for what, modules in said.items()]


def _product(row: Mapping[str, Json]) -> str:
    if row["sparse"] is None:
        return "auto, measured at the first window"
    if row["seconds"] is None:
        here = f"dense, for there are no others here (product: {row['setting']})"
        return "sparse, as set" if row["sparse"] else here
    dense, sparse = row["seconds"]
    if row["sparse"]:
        return f"sparse (auto), {dense / sparse:.1f} times as fast as dense"
    slower = (
        "dense is faster at this size" if dense <= sparse else "sparse products would save less than a tenth"
    )
    return f"dense (auto); no gain: {slower}"
