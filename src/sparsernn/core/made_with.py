"""Objects that know how they were made, so that a file can say how to make them again."""

import inspect
from typing import Self


class MadeWith:
    """A base for classes whose objects remember the arguments of their constructor.

    Attributes:
        made_with: the arguments by name, as they were given.

    Example:
        >>> class Layer(MadeWith):
        ...     def __init__(self, size, bias=True):
        ...         self.size = size
        >>> Layer(3, bias=False).made_with
        {'size': 3, 'bias': False}
    """

    made_with: dict[str, object]

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Before any constructor, so that none has to remember."""
        made = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs).arguments
        except TypeError:  # which the constructor is about to say, or copies that have their attributes later
            bound = {}
        # a module of torch takes no attributes before its constructor
        made.__dict__["made_with"] = {name: value for name, value in bound.items() if value is not made}
        return made
