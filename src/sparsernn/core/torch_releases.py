"""What differs between the releases of torch that are supported."""

from collections.abc import Callable

import torch

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""True inside torch.export. Before torch 2.7, which first tells the two apart, inside torch.compile as well."""
