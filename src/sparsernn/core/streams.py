"""Streams of random numbers: one for every use, so that no two uses of one seed draw the same numbers.

Two generators that start from one seed give one sequence. Masks and weights that are drawn from it know each other:
a mask that keeps the small numbers of a sequence keeps, of weights made of the same sequence, the negative ones. So
every use starts a generator of its own, from a hash of its name, the run's seed and whatever else it depends on.

The weights are the exception that the others keep clear of: they begin at the seed itself, as after
`torch.manual_seed(seed)`, so that a network built by hand, here or by another program, begins like that of a run.

What decides about a run is drawn on the CPU: a seed gives the same numbers whatever the device.
"""

import hashlib
import random

import torch


def stream_seed(use: str, *words: object) -> int:
    """A seed of 56 bits that depends on the words and on nothing else.

    torch's generators for the CPU use the last 32 bits of it.

    Example:
        >>> stream_seed("masks", 1) == stream_seed("masks", 1), stream_seed("masks", 1) == stream_seed("growth", 1)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(_name(use, *words).encode()).digest()[:7], "big")


def stream(use: str, *words: object, device: torch.device | None = None) -> torch.Generator:
    """A generator that depends on the words and on nothing else.

    Args:
        use: what is drawn, such as "masks".
        words: the run's seed, and what tells this stream from others of the same use (epoch, number of the step).
        device: None: the CPU. Other devices draw other numbers: only for what has to be drawn there.

    Example:
        >>> torch.rand(1, generator=stream("masks", 1)) == torch.rand(1, generator=stream("masks", 1))
        tensor([True])
    """
    return torch.Generator(device=device or "cpu").manual_seed(stream_seed(use, *words))


def draws(use: str, *words: object) -> random.Random:
    """The same for Python's own generator, for a few numbers that must be alike with every version of torch.

    Example:
        >>> draws("windows", 1, 0).random() == draws("windows", 1, 0).random()
        True
    """
    return random.Random(_name(use, *words))  # a text as seed goes through SHA-512


def begin_weights(seed: int) -> None:
    """Let torch's global generators begin at the seed itself, for the weights that are drawn next.

    Example:
        >>> state = torch.get_rng_state()
        >>> begin_weights(3)
        >>> torch.initial_seed()
        3
        >>> torch.set_rng_state(state)
    """
    torch.manual_seed(seed)


def begin_dropout(seed: int, *words: object) -> None:
    """Let torch's global generators, which dropouts draw from, begin a stream that is not that of the weights.

    `words` tell it from others of the seed, such as the number of a process.

    Example:
        >>> state = torch.get_rng_state()
        >>> begin_dropout(3)
        >>> torch.initial_seed() == stream_seed("dropout", 3)
        True
        >>> torch.set_rng_state(state)
    """
    torch.manual_seed(stream_seed("dropout", seed, *words))


def _name(*words: object) -> str:
    return " ".join(map(str, words))
