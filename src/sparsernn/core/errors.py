"""The one exception that a person, not a programmer, is meant to read."""


class InputError(ValueError):
    """Bad input: one sentence that quotes the offending value and says what is allowed.

    The command line prints it without a traceback and exits with code 2.

    Example:
        >>> raise InputError("density is 1.3; it must lie in (0, 1].")
        Traceback (most recent call last):
        ...
        sparsernn.core.errors.InputError: density is 1.3; it must lie in (0, 1].
    """
