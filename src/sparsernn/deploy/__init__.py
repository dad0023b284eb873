"""Trained models made small and fast: packed files, a sparse runtime, and honest measurements of both."""

from sparsernn.deploy.measure import compare, macs_per_token, measure_latency, sizes
from sparsernn.deploy.packed import Packed, pack, read_packed, unpack
from sparsernn.deploy.runtime import LSTMRuntime, runtime
from sparsernn.deploy.stream import ModuleRuntime, Stream

__all__ = [
    "LSTMRuntime",
    "ModuleRuntime",
    "Packed",
    "Stream",
    "compare",
    "macs_per_token",
    "measure_latency",
    "pack",
    "read_packed",
    "runtime",
    "sizes",
    "unpack",
]
