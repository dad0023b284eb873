"""Trained models made small and fast: dead units removed, packed files, a sparse runtime, honest measurements."""

from sparsernn.deploy.compiled_runtime import CompiledRuntime, TaggerRuntime
from sparsernn.deploy.dead_units import dead_units
from sparsernn.deploy.measurement import compare, gain, macs_per_token, measure_latency, sizes
from sparsernn.deploy.packed import Packed, pack, read_packed, unpack
from sparsernn.deploy.proof import Proof, prove
from sparsernn.deploy.runtime import LSTMRuntime, runtime
from sparsernn.deploy.shrink import Compaction, compact, compacted
from sparsernn.deploy.token_stream import ModuleRuntime, Stream

__all__ = [
    "Compaction",
    "CompiledRuntime",
    "LSTMRuntime",
    "ModuleRuntime",
    "Packed",
    "Proof",
    "Stream",
    "TaggerRuntime",
    "compact",
    "compacted",
    "compare",
    "dead_units",
    "gain",
    "macs_per_token",
    "measure_latency",
    "pack",
    "prove",
    "read_packed",
    "runtime",
    "sizes",
    "unpack",
]
