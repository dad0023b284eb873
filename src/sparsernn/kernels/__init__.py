"""Native products for inference and inner loops for training, each with a twin in torch that gives the same numbers.

The C files are compiled when the package is built, if a compiler is there, or in place with
``python -m sparsernn.kernels.build``. They are called through ctypes on plain pointers and link nothing of
torch.
``SPARSERNN_NO_KERNELS=1`` forces the twins; ``SPARSERNN_KERNELS=plain|avx2|avx512`` forces one vector width.
"""

from sparsernn.kernels.library import available, describe
from sparsernn.kernels.weight_formats import FORMATS, Format

__all__ = ["FORMATS", "Format", "available", "describe"]
