"""Learning to recite: how much of its training text a model can hold."""

from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from torch import Tensor

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.errors import InputError
from sparsernn.core.limits import AtLeast, DropRate, Size
from sparsernn.core.plain import Json
from sparsernn.core.states import State
from sparsernn.data.text_corpus import SPLITS, Corpus, Vocabulary
from sparsernn.data.vocabulary import ordered
from sparsernn.models.language_model import LanguageModel
from sparsernn.tasks.language import Batch, LanguageModelling, scores


class Recitation(LanguageModelling):
    """Learn a text by heart: trained, validated and tested on the same tokens, until none is missed.

    Args:
        corpus: only its training text is used.
        tokens: only so many tokens of it, from the beginning, at least 2; the vocabulary then has only their types,
            by their counts there if the corpus orders it by counts (all types where it has no `<unk>` for the rest).
            None: all.
        batch_size: parallel streams, in training and in evaluation, so that each is learnt from where it is asked.
        window: BPTT length in tokens.
        random_windows: as in `LanguageModelling`.
        tolerance: share of the tokens, in [0, 1), that may be missed when training ends before its last epoch.

    Scores, besides those of `LanguageModelling`, of a pass over the text with all dropouts off:
        accuracy: share of the tokens that are the most probable ones after the text before them.
        recital: tokens that the model recites without a mistake when it is given a stream's first token and then only
            its own words, mean over the streams (`recite_aloud` lets it do so).
        accuracy_in_training: the same share as it was while the weights changed, over the epoch that just ended.

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: it measured the accuracy in training alone, and stopped by it (`tolerance` 1e-4).
    """

    @checked
    def __init__(
        self,
        corpus: Corpus,
        *,
        tokens: Annotated[int, AtLeast(2)] | None = None,
        batch_size: Size = 20,
        window: Size = 70,
        random_windows: bool | Mapping[str, Json] | None = None,
        tolerance: DropRate = 0.0,
    ) -> None:
        super().__init__(
            text_to_learn(corpus, tokens),
            batch_size=batch_size,
            eval_batch_size=batch_size,
            window=window,
            random_windows=random_windows,
        )
        self.metric, self.tolerance = "accuracy", tolerance
        self._seen = 0
        self._right: Tensor | int = 0  # kept where it is counted until it is asked for

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """A text of random tokens, to be learnt as a whole: the vocabulary has been cut down already."""
        return {**super().stand_in(info, vocabularies), "tokens": None}

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """As in language modelling; with the first batch of an epoch the counting begins anew."""
        if start == 0:
            self._seen, self._right = 0, 0
        yield from super().batches(seed, epoch, start)

    def loss(self, model: LanguageModel, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        """Mean nats per token, twice, and the new state; the hits are counted."""
        features = model(batch.words, state)
        log_prob = model.head.log_prob(features.dropped)
        nats = -_at(log_prob, batch.targets).mean()
        self._seen += batch.targets.numel()
        self._right = self._right + (log_prob.detach().argmax(-1) == batch.targets).sum()
        return nats.detach(), nats, features.state

    @torch.no_grad()
    def evaluate(
        self,
        model: LanguageModel,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """A clean pass over the text, whatever the split is called; see the class for the scores."""
        nats, hits = 0.0, []
        for features, targets in self.passes(model, split, batch_size, tick):
            log_prob = model.head.log_prob(features.dropped)
            nats -= _at(log_prob, targets).double().sum().item()
            hits.append(log_prob.argmax(-1) == targets)
        right = torch.cat(hits)
        found = {**scores(nats, right.numel()), "accuracy": right.double().mean().item()}
        found["recital"] = right.long().cumprod(0).sum(0).double().mean().item()
        if split == "valid" and self._seen == right.numel():
            found["accuracy_in_training"] = int(self._right) / self._seen
        return found

    def state_dict(self) -> dict[str, int]:
        """The tokens of the epoch so far, and how many of them the model got right."""
        return {"seen": self._seen, "right": int(self._right)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Count on from there."""
        self._seen, self._right = state.get("seen", 0), state.get("right", 0)

    def criterion(self, scores: Mapping[str, float]) -> float:
        """The share of missed tokens."""
        return 1 - scores["accuracy"]

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether no more tokens are missed than `tolerance` allows."""
        return 1 - scores["accuracy"] <= self.tolerance


def text_to_learn(corpus: Corpus, tokens: Annotated[int, AtLeast(2)] | None = None) -> Corpus:
    """The beginning of a corpus' training text, as all three splits; see `Recitation`.

    Raises:
        InputError: more tokens than there are, or fewer than 2.

    Example:
        >>> ids = torch.tensor([0, 3, 1, 3, 2])
        >>> info = {"sha256": {"train": "a"}, "note": "", "tokens": {}}
        >>> whole = Corpus(Vocabulary(["a", "b", "c", "d", "<unk>"]), dict.fromkeys(SPLITS, ids), info)
        >>> part = text_to_learn(whole, tokens=4)
        >>> part.vocabulary.tokens, part.splits["test"]
        (('a', 'b', 'd', '<unk>'), tensor([0, 2, 1, 2]))
    """
    if not isinstance(corpus, Corpus):
        raise InputError(
            "reciting needs a corpus of running text, such as ptb or embedded, not tagged sentences."
        )
    vocabulary, ids = corpus.vocabulary, corpus.splits["train"]
    if tokens is not None and not 2 <= tokens <= len(ids):
        raise InputError(
            f"tokens is {tokens}; it must lie in 2 to {len(ids):,}, the tokens of the training text."
        )
    if tokens is not None:
        vocabulary, ids = _shrunk(corpus, ids[:tokens])
    note = "valid and test are the training text itself: it is learnt by heart"
    info = {
        **corpus.info,
        "sha256": dict.fromkeys(SPLITS, corpus.info["sha256"]["train"]),
        "tokens": dict.fromkeys(SPLITS, len(ids)),
        "note": "; ".join(filter(None, [corpus.info.get("note"), note])),
    }
    return Corpus(vocabulary, dict.fromkeys(SPLITS, ids), info)


def _shrunk(corpus: Corpus, ids: Tensor) -> tuple[Vocabulary, Tensor]:
    """The types that occur, and `<unk>`, so that the rest of the text can still be read; ordered by these counts."""
    vocabulary = corpus.vocabulary
    if vocabulary.unknown is None:
        return vocabulary, ids
    text = vocabulary.decode(ids)
    kept = {*text, vocabulary.tokens[vocabulary.unknown]}
    found = Vocabulary([token for token in vocabulary.tokens if token in kept])
    order = corpus.info.get("order", "first")
    found = ordered(found, text, order if order in ("up", "down") else "first")
    return found, found.encode(text)


def _at(log_prob: Tensor, targets: Tensor) -> Tensor:
    return log_prob.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def recite_aloud(model: LanguageModel, first: Tensor, steps: int) -> Tensor:
    """What a model says when it hears a first token and then only itself.

    Args:
        model: in evaluation mode.
        first: the first token of each stream, (B,) int64.
        steps: tokens to say, at least 1.

    Returns:
        int64, (steps, B): the most probable token at each step.

    Example:
        >>> model = LanguageModel(10, 4, [4]).eval()
        >>> recite_aloud(model, torch.tensor([1, 2]), steps=3).shape
        torch.Size([3, 2])
    """
    state, said = model.initial_state(len(first)), [first]
    for _ in range(steps):
        features = model(said[-1].unsqueeze(0), state)
        state = features.state
        said.append(model.head.log_prob(features.dropped[-1]).argmax(-1))
    return torch.stack(said[1:])
