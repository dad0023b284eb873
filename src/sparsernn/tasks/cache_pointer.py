"""The neural cache: after training, words that followed similar hidden vectors a while ago become likelier."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from sparsernn.contracts import Model, Task
from sparsernn.core.checks import checked
from sparsernn.core.limits import DropRate, NonNegative, Size
from sparsernn.data.windows import window_bounds, window_of
from sparsernn.models.language_model import LanguageModel
from sparsernn.tasks.language import scores
from sparsernn.tasks.segments import dropouts_off, text_of

CELLS = 1 << 21
"""Similarities held at a time: 8 MB in float32, and a few buffers of that size."""
SHORTEST_BLOCK = 64
"""Positions read at once even where the window is shorter: a product of a few rows is mostly overhead."""

# Where `tuned` looks unless told otherwise: our choice, around the published settings.
THETAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
MIXINGS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)


@checked
@dataclass(frozen=True)
class NeuralCache:
    """Evaluation with a continuous cache, of any language model, whatever its layers and head.

        a_i = softmax over i of theta * <h_i, h_t>,  i the last `window` positions before t
        P_cache(w) = sum of a_i over the i that were followed by w
        P(w) = mixing * P_cache(w) + (1 - mixing) * P_model(w)

    h is the raw output of the last layer, without dropout. Every stream has a cache of its own, empty at its start,
    where P is P_model. Nothing is trained, and no vector as long as the vocabulary is made for the cache: only the
    probability of the word that really follows is needed.

    Args:
        window: pairs (h_i, word that followed) that are remembered, at least 1.
        theta: sharpness of the match, at least 0; at 0 the cache counts words.
        mixing: share of the cache (lambda), in [0, 1).
        partly_filled: use the cache from its first pair on; False: only at positions with more than `window` before
            them, as the original.
        chunk: positions read at once, at least 1; it changes speed and memory, never the result. None: by `window`.

    Raises:
        InputError: a setting out of range.

    Example:
        >>> from sparsernn.data.text_styles import Style
        >>> from sparsernn.data.text_corpus import build_corpus
        >>> from sparsernn.tasks import LanguageModelling
        >>> texts = dict.fromkeys(("train", "valid", "test"), "one two three two " * 40)
        >>> task = LanguageModelling(build_corpus(texts, Style("whitespace"), {"level": "word"}))
        >>> model = LanguageModel(len(task.corpus.vocabulary), 4, [4])
        >>> found = NeuralCache(window=100, theta=0.3).evaluate(task, model, "valid")
        >>> sorted(found)
        ['bits', 'loss', 'perplexity', 'tokens']

    Source: E. Grave, A. Joulin, N. Usunier, "Improving Neural Language Models with a Continuous Cache", 2016,
    arXiv:1612.04426.
    Differs from the original (the script of the AWD-LSTM authors): the loss is divided by the scored tokens, not by
    the rows of the text; a partly filled cache is used; memory grows with `window`, not with window x vocabulary.
    """

    window: Size = 500
    theta: NonNegative = 1.0
    mixing: DropRate = 0.1
    partly_filled: bool = True
    chunk: Size | None = None

    def evaluate(
        self,
        task: Task,
        model: Model,
        split: str,
        *,
        batch_size: int | None = None,
        masks: Mapping[str, Tensor] | None = None,
        tick: Callable[[float], None] = lambda fraction: None,
    ) -> dict[str, float]:
        """Scores of a split with the cache, as `LanguageModelling.evaluate` returns them.

        Args:
            task: language modelling.
            model: a `LanguageModel`; left in the mode in which it came.
            split: "train", "valid" or "test".
            batch_size: streams; 1 when missing.
            masks: not needed here.
            tick: told the fraction done.

        Raises:
            InputError: not a language model.
        """
        rows = text_of(task, model, split, batch_size or 1, "the neural cache")
        nats = self._nats(cast(LanguageModel, model), rows, [self.theta], [self.mixing], tick)
        return scores(nats.item(), (len(rows) - 1) * rows.shape[1])

    def tuned(
        self,
        task: Task,
        model: Model,
        *,
        batch_size: int | None = None,
        thetas: Sequence[float] = THETAS,
        mixings: Sequence[float] = MIXINGS,
        tick: Callable[[float], None] = lambda fraction: None,
    ) -> "NeuralCache":
        """This cache with the theta and mixing that are best on the validation split, never on another.

        The model reads the split once; similarities are computed once for all pairs of settings.

        Args:
            task, model, batch_size, tick: as in `evaluate`.
            thetas, mixings: what is tried, each with each.
        """
        for theta, mixing in zip(thetas, mixings, strict=False):
            replace(self, theta=theta, mixing=mixing)  # refuses what is out of range
        rows = text_of(task, model, "valid", batch_size or 1, "the neural cache")
        nats = self._nats(cast(LanguageModel, model), rows, thetas, mixings, tick)
        best_theta, best_mixing = divmod(int(nats.argmin()), len(mixings))
        return replace(self, theta=thetas[best_theta], mixing=mixings[best_mixing])

    @torch.no_grad()
    def _nats(
        self,
        model: LanguageModel,
        rows: Tensor,
        thetas: Sequence[float],
        mixings: Sequence[float],
        tick: Callable[[float], None],
    ) -> Tensor:
        """Summed negative log-likelihood of the rows under every pair of settings, (thetas, mixings) float64."""
        shares = torch.tensor(mixings, dtype=torch.float64, device=rows.device).view(-1, 1)
        total = rows.new_zeros(len(thetas), len(mixings), dtype=torch.float64)
        with dropouts_off(model):
            for log_model, cache, usable in self._read(model, rows, thetas, tick):
                share = shares * usable
                mixed = torch.logaddexp((share * cache.unsqueeze(1)).log(), torch.log1p(-share) + log_model)
                total -= mixed.sum(-1)
        return total

    def _read(
        self, model: LanguageModel, rows: Tensor, thetas: Sequence[float], tick: Callable[[float], None]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each chunk of N scored tokens: log P_model (N,), P_cache (thetas, N), whether there is a cache (N,)."""
        streams = rows.shape[1]
        state, memory = model.initial_state(streams), _Memory(self.window, self.partly_filled)
        bounds = window_bounds(len(rows), self.chunk or chunk_length(self.window, streams))
        for number, (first, length) in enumerate(bounds, 1):
            words, following = window_of(rows, first, length)
            features = model(words, state)
            state = features.state
            cache, usable = memory.read(features.raw, following, thetas)
            log_model = -model.head.nll(features.dropped, following).double()
            yield log_model, cache.flatten(1).double(), usable.repeat_interleave(streams)
            tick(number / len(bounds))


def chunk_length(window: int, streams: int) -> int:
    """Positions read at once: about as many as the window is long, fewer where that would take much memory.

    Each position meets `window` pairs, but a chunk of n is multiplied with window + n of them.

    >>> chunk_length(500, 1), chunk_length(3785, 1), chunk_length(500, 20)
    (500, 544, 185)
    """
    return max(1, min(max(window, SHORTEST_BLOCK), CELLS // (streams * (window + SHORTEST_BLOCK))))


class _Memory:
    """The last `window` hidden vectors of every stream, each with the word that followed."""

    def __init__(self, window: int, partly_filled: bool) -> None:
        self.window, self.partly_filled = window, partly_filled
        self.keys: Tensor | None = None
        self.words: Tensor | None = None
        self.seen = 0

    def read(self, hidden: Tensor, following: Tensor, thetas: Sequence[float]) -> tuple[Tensor, Tensor]:
        """P_cache of what follows, then remember it.

        Args:
            hidden: (L, B, H).
            following: (L, B) int64.
            thetas: sharpnesses.

        Returns:
            P_cache (thetas, L, B), 0 where the cache is not used; and where it is used, (L,) bool.
        """
        queries, wanted = hidden.transpose(0, 1), following.t()
        keys = queries if self.keys is None else torch.cat([self.keys, queries], 1)
        words = wanted if self.words is None else torch.cat([self.words, wanted], 1)
        reach = self._reach(len(hidden), keys.shape[1], keys.device)
        similarity = queries @ keys.transpose(1, 2)
        highest = similarity.masked_fill(~reach, -math.inf).amax(-1, keepdim=True)
        # Differences from the highest: exp cannot overflow. Out of reach they are 0, since inf * 0 is no number.
        similarity.sub_(highest).masked_fill_(~reach, 0.0)
        hits = words.unsqueeze(1) == wanted.unsqueeze(2)
        found = torch.stack([_share(similarity, theta, reach, hits) for theta in thetas])
        self.keys, self.words = keys[:, -self.window :].clone(), words[:, -self.window :].clone()
        self.seen += len(hidden)
        return found.transpose(1, 2), reach.any(-1)

    def _reach(self, length: int, stored: int, device: torch.device) -> Tensor:
        """Which pairs each of the newest `length` positions may look at, (length, stored) bool."""
        row, column = (torch.arange(count, device=device) for count in (length, stored))
        row = row.unsqueeze(1)
        age = row + (stored - length) - column
        reach = (age >= 1) & (age <= self.window)
        return reach if self.partly_filled else reach & (row + self.seen > self.window)


def _share(similarity: Tensor, theta: float, reach: Tensor, hits: Tensor) -> Tensor:
    """Attention that falls on the hits, (B, L): similarity (B, L, M), reach (L, M), hits (B, L, M)."""
    weight = (similarity * theta).exp_().mul_(reach)
    whole_weight = weight.sum(-1).clamp_(min=torch.finfo(weight.dtype).tiny)  # 0 where nothing is in reach
    return weight.mul_(hits).sum(-1) / whole_weight


PRESETS: dict[str, NeuralCache] = {
    "ptb": NeuralCache(window=500, theta=1.0, mixing=0.1),
    "wikitext-2": NeuralCache(window=3785, theta=0.6625523432485668, mixing=0.12785920428335693),
}
"""Settings published with the AWD-LSTM code for its own models (S. Merity et al., 2017, arXiv:1708.02182)."""
