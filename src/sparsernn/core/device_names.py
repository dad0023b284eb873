"""How devices and precisions are called in recipes and on the command line. Nothing here imports torch."""

from typing import Annotated, Literal

from sparsernn.core.limits import Spelling

SPELLING = Spelling(
    r"auto|cpu|mps|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:N with the number of a device, or mps"
)
DeviceName = Annotated[str, SPELLING]
PrecisionName = Literal["float32", "tf32", "bfloat16"]


def is_device_name(value: object) -> bool:
    """Whether a value has the form of a device's name, be there such a device or not.

    >>> is_device_name("cuda:1"), is_device_name("gpu"), is_device_name(0)
    (True, False, False)
    """
    return isinstance(value, str) and SPELLING.holds(value)
