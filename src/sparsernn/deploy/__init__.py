"""Trained models made small and fast: dead units removed, packed files, a sparse runtime, honest measurements."""

from sparsernn.deploy.compiled_runtime import CompiledRuntime, StepRuntime
from sparsernn.deploy.dead_units import dead_units
from sparsernn.deploy.latency import compare, gain, measure_latency
from sparsernn.deploy.measurement import macs_per_token, sizes
from sparsernn.deploy.packed import Packed, pack, read_packed, unpack
from sparsernn.deploy.proof import Proof, prove
from sparsernn.deploy.runtime import LSTMRuntime, runtime
from sparsernn.deploy.sequence_runtime import SequenceRuntime
from sparsernn.deploy.shrink import Compaction, compact, compacted
from sparsernn.deploy.tagger_runtime import TaggerModuleRuntime, TaggerRuntime
from sparsernn.deploy.token_stream import ModuleRuntime, Stream
from sparsernn.deploy.vector_stream import VectorModuleRuntime, VectorStream

__all__ = [
    "Compaction",
    "CompiledRuntime",
    "LSTMRuntime",
    "ModuleRuntime",
    "Packed",
    "Proof",
    "SequenceRuntime",
    "StepRuntime",
    "Stream",
    "TaggerModuleRuntime",
    "TaggerRuntime",
    "VectorModuleRuntime",
    "VectorStream",
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
