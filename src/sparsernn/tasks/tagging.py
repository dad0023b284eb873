"""Tagging: a label for every word of a sentence, such as its part of speech."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved
from sparsernn.core.errors import InputError
from sparsernn.core.limits import OneOf, Share, Size
from sparsernn.core.peers import share_of
from sparsernn.core.plain import Json
from sparsernn.core.streams import draws
from sparsernn.data import Sentence, TaggedCorpus, Vocabulary, stand_ins
from sparsernn.data.tagged_sentences import PAD
from sparsernn.data.vocabulary import ORDERS, UNKNOWN, ordered
from sparsernn.models.tagger import Tagger
from sparsernn.tasks.batch_parts import check_shares
from sparsernn.tasks.confusion_counts import confusion
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.task import Task


@dataclass(frozen=True)
class Sentences:
    """A batch.

    Attributes:
        words: (T, B) int64, `<pad>` beyond a sentence's end.
        lengths: (B,) int64, on the CPU.
        targets: tags of all words, (N,) int64, in the order of `inside`.
        inside: (T, B) bool, where there are words.
        places: (N,) int64, where they stand among the T * B of the batch.
        lr_scale: always 1.
    """

    words: Tensor
    lengths: Tensor
    targets: Tensor
    inside: Tensor
    places: Tensor
    lr_scale: float = 1.0

    def of_words(self, values: Tensor) -> Tensor:
        """What of (T, B, ...) belongs to words, (N, ...); how many they are is known without asking the device."""
        return values.flatten(0, 1).index_select(0, self.places)


@dataclass
class Tally:
    """What an evaluation counts.

    Attributes:
        confusion: (K, K) int64, row: right tag, column: the model's.
        nats: summed negative log-likelihood.
        unknown: words that training never saw.
        unknown_right: those of them that got their right tag.
    """

    confusion: Tensor
    nats: float = 0.0
    unknown: int = 0
    unknown_right: int = 0

    def scores(self) -> dict[str, float]:
        """The figures of `Tagging.evaluate`."""
        tokens, right = int(self.confusion.sum()), int(self.confusion.trace())
        known = tokens - self.unknown
        shares = {
            "accuracy": right / tokens,
            "known_accuracy": (right - self.unknown_right) / known if known else 0.0,
            "unknown_accuracy": self.unknown_right / self.unknown if self.unknown else 0.0,
        }
        return {"loss": self.nats / tokens, **shares, "tokens": tokens, "unknown": self.unknown}


class Tagging(Task):
    """Give every word of a sentence its tag; sentences have nothing to do with each other.

    Words that the training sentences lack are read as `<unk>`. Nothing trains the vector of `<unk>` unless
    `replace_singletons` says so.

    Args:
        corpus: tagged sentences, from one of the corpora conll, ud-ewt, python-roles.
        batch_size: sentences per training batch; the last one of an epoch has what is left.
        eval_batch_size: sentences evaluated at once; no score depends on it.
        order: of the words in the vocabulary, by their counts in the training sentences: "up" (the rarest first, as a
            block embedding wants it), "down", "first" (as they appear) or "random" (always the same shuffle); see
            `ordered`. `<pad>` and `<unk>` count as the rarest.
        replace_singletons: probability in [0, 1] that a word which training has once is read as `<unk>` in an epoch,
            so that `<unk>` learns to stand for rare words.
        vocabularies: of an earlier run.

    Scores: "accuracy" per word, "known_accuracy" and "unknown_accuracy" (of words in and not in the training
    sentences, 0 where there are none), "loss", and the counts "tokens" and "unknown". The best checkpoint is the one
    of the best validation accuracy.

    Source: T. Demeester, J. Deleu, F. Godin and C. Develder, "Predefined Sparseness in Recurrent Sequence Models",
    2018, arXiv:1808.08720.
    Differs from the original: the last, smaller batch of an epoch is trained on too; seed and epoch decide in which
    order the sentences come, which was the same in all runs; the weights that are tested were the best on validation.
    """

    metric, counts = "accuracy", "words"
    eval_batch_size: int

    @checked
    def __init__(
        self,
        corpus: TaggedCorpus,
        *,
        batch_size: Size = 20,
        eval_batch_size: Size = 100,
        order: Annotated[str, OneOf(("first", *ORDERS))] = "up",
        replace_singletons: Share = 0.0,
        vocabularies: Mapping[str, Vocabulary] | None = None,
    ) -> None:
        if not isinstance(corpus, TaggedCorpus):
            raise InputError(
                "tagging needs a corpus of tagged sentences; take conll, ud-ewt or python-roles."
            )
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.replace_singletons, self.info = replace_singletons, corpus.info
        self.vocabularies = vocabularies or _collect(corpus.splits, order)
        self.words, self.tags = self.vocabularies["vocabulary"], self.vocabularies["tags"]
        self.sizes = {"vocabulary_size": len(self.words), "tags": len(self.tags)}
        self.data = {
            split: _Encoded.of(found, self.words, self.tags) for split, found in corpus.splits.items()
        }
        self.examples = {split: len(data.words) for split, data in self.data.items()}
        times = torch.bincount(self.data["train"].words, minlength=len(self.words))
        self.once = times[self.data["train"].words] == 1

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """Sentences of random words with random tags."""
        return {"corpus": stand_ins.sentences(info, vocabularies["vocabulary"], vocabularies["tags"])}

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of an epoch."""
        return -(-len(self.data["train"].starts) // self.batch_size)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Sentences]:
        """The training sentences in an order of this seed and epoch."""
        data, number = self.data["train"], draws("sentences", seed, epoch).getrandbits(63)
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(len(data.starts), generator=generator)
        replaced = self.once & (torch.rand(len(data.words), generator=generator) < self.replace_singletons)
        words = data.words.masked_fill(replaced, self.words.index[UNKNOWN])
        for chosen in torch.split(order, self.batch_size)[start:]:
            yield self._batch(data, words, chosen.tolist())

    def _batch(self, data: "_Encoded", words: Tensor, chosen: Sequence[int]) -> Sentences:
        lengths = data.lengths[chosen]
        padding = self.words.index[PAD]
        padded = pad_sequence([words[data.slice(k)] for k in chosen], padding_value=padding)
        tags = pad_sequence([data.tags[data.slice(k)] for k in chosen])
        inside = torch.arange(len(padded)).unsqueeze(1) < lengths
        return Sentences(padded, lengths, tags[inside], inside, inside.flatten().nonzero().squeeze(1))

    def check_parts(self, parts: int) -> None:
        """See `Task`: the sentences are divided, those of the last and smaller batch, too."""
        check_shares(self.batch_size, len(self.data["train"].starts), parts)

    def part(self, batch: Sentences, number: int, parts: int) -> Sentences:
        """See `Task`; a part is as long as its longest sentence."""
        share = share_of(len(batch.lengths), number, parts)
        lengths = batch.lengths[share]
        steps = int(lengths.max())
        tags = batch.inside.long().masked_scatter(batch.inside, batch.targets)[:steps, share]
        words, inside = batch.words[:steps, share].contiguous(), batch.inside[:steps, share].contiguous()
        return Sentences(words, lengths, tags[inside], inside, inside.flatten().nonzero().squeeze(1))

    def loss(self, model: Tagger, batch: Sentences, state: None) -> tuple[Tensor, Tensor, None]:
        """Mean nats per word; nothing is carried."""
        scores = batch.of_words(model(batch.words, batch.lengths))
        nats = functional.cross_entropy(scores, batch.targets)
        return nats.detach(), nats, None

    def evaluate(
        self,
        model: Tagger,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """The scores of a split; see the class."""
        return self.tally(model, split, batch_size, tick).scores()

    @torch.no_grad()
    def tally(
        self,
        model: Tagger,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> Tally:
        """Tag a split, dropouts off, and count."""
        data, tags = self.data[split], len(self.tags)
        tally = Tally(torch.zeros(tags, tags, dtype=torch.int64))
        parts = torch.split(torch.arange(len(data.starts)), batch_size or self.eval_batch_size)
        with dropouts_off(model):
            for number, chosen in enumerate(parts, 1):
                batch = moved(self._batch(data, data.words, chosen.tolist()), device_of(model))
                self._count(model, batch, tally)
                tick(number / len(parts))
        return tally

    def _count(self, model: Tagger, batch: Sentences, tally: Tally) -> None:
        scores, tags = batch.of_words(model(batch.words, batch.lengths)), len(self.tags)
        found, unknown = scores.argmax(1), batch.of_words(batch.words) == self.words.index[UNKNOWN]
        pairs = torch.bincount(batch.targets * tags + found, minlength=tags * tags)
        tally.confusion += pairs.view(tags, tags).cpu()
        tally.nats += functional.cross_entropy(scores.double(), batch.targets, reduction="sum").item()
        tally.unknown += int(unknown.sum())
        tally.unknown_right += int((unknown & (found == batch.targets)).sum())

    def records(self, model: Tagger, split: str) -> list[dict[str, Json]]:
        """Which tags are taken for which.

        Returns:
            one record "confusion": the `split`, and what `sparsernn.tasks.confusion_counts.confusion` makes of its
            counts.
        """
        found = confusion(self.tally(model, split).confusion, self.tags.tokens)
        return [{"event": "confusion", "split": split, **found}]

    def criterion(self, scores: Mapping[str, float]) -> float:
        """The share of wrong tags."""
        return 1 - scores["accuracy"]


@dataclass(frozen=True)
class _Encoded:
    """Sentences as numbers, one after the other."""

    words: Tensor
    tags: Tensor
    lengths: Tensor
    starts: list[int] = field(repr=False)

    @classmethod
    def of(cls, sentences: Sequence[Sentence], words: Vocabulary, tags: Vocabulary) -> "_Encoded":
        lengths = torch.tensor([len(sentence.words) for sentence in sentences])
        return cls(
            words.encode(word for sentence in sentences for word in sentence.words),
            tags.encode(tag for sentence in sentences for tag in sentence.tags),
            lengths,
            (lengths.cumsum(0) - lengths).tolist(),
        )

    def slice(self, number: int) -> slice:
        return slice(self.starts[number], self.starts[number] + int(self.lengths[number]))


def _collect(splits: Mapping[str, Sequence[Sentence]], order: str) -> dict[str, Vocabulary]:
    """The words of the training sentences, and the tags of all: which tags there are is no secret of the test."""
    read = [word for sentence in splits["train"] for word in sentence.words]
    tags = dict.fromkeys(tag for found in splits.values() for sentence in found for tag in sentence.tags)
    words = Vocabulary(list(dict.fromkeys((PAD, UNKNOWN, *read))))
    return {"vocabulary": ordered(words, read, order), "tags": Vocabulary(list(tags))}
