"""What has no types of its own: values that came from a file, or go into one."""

from typing import Any, TypeAlias

Json: TypeAlias = Any
"""What JSON and YAML can hold: null, true, false, numbers, strings, lists and mappings of these.

In the state of a part, which a checkpoint keeps, tensors stand among them. Whoever reads one names the type that it
expects; whoever takes it from a user checks it first (forms.py).
"""

Plain = dict[str, Json]
"""Records, scores, plans, the settings of a component, the state of a part."""

Part: TypeAlias = Any
"""A module, or a model, that is handed to the row of a table made for its type: the key of the row says which."""
