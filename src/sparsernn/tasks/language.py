"""Language modelling: windows of text, the loss with its activation penalties, perplexity per scored token."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sparsernn.contracts import Model, Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved, resident
from sparsernn.core.errors import InputError
from sparsernn.core.limits import NonNegative, Size
from sparsernn.core.plain import Json
from sparsernn.core.states import State
from sparsernn.data import stand_ins
from sparsernn.data.text_corpus import Corpus
from sparsernn.data.vocabulary import Vocabulary
from sparsernn.data.windows import random_windows as parse_random_windows
from sparsernn.data.windows import streams, window_bounds, window_of
from sparsernn.models.language_model import Features, LanguageModel
from sparsernn.tasks.batch_parts import check_share, columns
from sparsernn.tasks.gradient_record import lag_record
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.task import Task


@dataclass(frozen=True)
class Batch:
    """One BPTT window.

    Attributes:
        words: what is read, (T, B) int64.
        targets: what is predicted, (T, B) int64.
        lr_scale: factor on the learning rate of this step: T over the nominal window where windows are random
            (Merity et al., 2017, arXiv:1708.02182, section 5), else 1.
    """

    words: Tensor
    targets: Tensor
    lr_scale: float = 1.0


class LanguageModelling(Task):
    """Predict the next token of a text; the state is carried from window to window.

    Args:
        corpus: vocabulary and the splits train, valid, test.
        batch_size: parallel streams B in training.
        eval_batch_size: streams in evaluation; 1 gives every token its full context.
        window: BPTT length in tokens.
        random_windows: false, true or settings of `RandomWindows`.
        alpha: activation regularisation (AR): alpha * mean(h^2) of the top output; at least 0.
        beta: temporal activation regularisation (TAR): beta * mean((h_{t+1} - h_t)^2) of the raw top output;
            at least 0.
        alpha_on: the top output that AR reads: "dropped" (after the output dropout, as AWD-LSTM has it) or "raw"
            (before it, as the ON-LSTM code has it).
        metric: how results are shown, "perplexity" (per token) or "bits" (per token; per character at character
            level).

    Source of AR and TAR: S. Merity et al., "Revisiting Activation Regularization for Language RNNs", 2017,
    arXiv:1708.01009.
    Differs from the original: evaluation divides by the number of predicted tokens, whatever the window.
    """

    counts = "tokens"
    eval_batch_size: int

    corpus: Corpus
    window: int

    @checked
    def __init__(
        self,
        corpus: Corpus,
        *,
        batch_size: Size = 20,
        eval_batch_size: Size = 20,
        window: Size = 35,
        random_windows: bool | Mapping[str, Json] | None = None,
        alpha: NonNegative = 0.0,
        beta: NonNegative = 0.0,
        alpha_on: Literal["dropped", "raw"] = "dropped",
        metric: Literal["perplexity", "bits"] = "perplexity",
    ) -> None:
        if not isinstance(corpus, Corpus):
            raise InputError("language modelling needs a corpus of running text, such as ptb or embedded.")
        self.corpus, self.window, self.metric = corpus, window, metric
        self.eval_batch_size, self.alpha, self.beta, self.alpha_on = eval_batch_size, alpha, beta, alpha_on
        self.random_windows = parse_random_windows(random_windows)
        self.batch_size, self.train_streams = batch_size, streams(corpus.splits["train"], batch_size, "train")
        for split in ("valid", "test"):
            streams(corpus.splits[split], eval_batch_size, split)
        self.info, self.vocabularies = corpus.info, {"vocabulary": corpus.vocabulary}
        self.sizes = {"vocabulary_size": len(corpus.vocabulary)}
        self.examples = {split: len(ids) for split, ids in corpus.splits.items()}

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """A text of random tokens."""
        return {"corpus": stand_ins.text(info, vocabularies["vocabulary"])}

    def settle(self, device: torch.device) -> None:
        """The text lies on the device where it fits: its windows are views."""
        self.corpus = replace(self.corpus, splits=resident(self.corpus.splits, device))
        self.train_streams = streams(self.corpus.splits["train"], self.batch_size, "train")

    def check_model(self, model: Model) -> None:
        """Refuse an embedding that takes the last words for the most frequent where order is that of appearance."""
        trusting = isinstance(model, LanguageModel) and model.embedding.trusts_order
        if trusting and self.corpus.info.get("order", "first") == "first":
            raise InputError(
                "the block embedding gives the longest vectors to the last words, but task.corpus.order is 'first'; "
                "it must be 'up' (or 'down' or 'random', to see what that costs)."
            )

    def bounds(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        """Start and length of each training window of an epoch."""
        rows = len(self.train_streams)
        return window_bounds(rows, self.window, random=self.random_windows, seed=seed, epoch=epoch)

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Windows of an epoch; with random windows, of the first one of a run with this seed."""
        return len(self.bounds(seed, epoch=0))

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Training windows of an epoch from number `start` on: a pure function of its arguments."""
        for first, length in self.bounds(seed, epoch)[start:]:
            yield Batch(*window_of(self.train_streams, first, length), self._lr_scale(length))

    def _lr_scale(self, length: int) -> float:
        return length / self.window if self.random_windows else 1.0

    def check_parts(self, parts: int) -> None:
        """See `Task`: the streams are divided."""
        check_share("batch_size", self.batch_size, parts)

    def part(self, batch: Batch, number: int, parts: int) -> Batch:
        """See `Task`: streams side by side."""
        words, targets = (columns(tensor, number, parts) for tensor in (batch.words, batch.targets))
        return replace(batch, words=words, targets=targets)

    def loss(self, model: LanguageModel, batch: Batch, state: State) -> tuple[Tensor, Tensor, State]:
        """Mean nats per token to report, the same with AR and TAR to minimise, and the new state."""
        features = model(batch.words, state)
        # a sum sends one number back to all tokens, and heads can tell that there is only one; a mean sends many
        nats = model.head.nll(features.dropped, batch.targets).sum() / batch.targets.numel()
        return nats.detach(), nats + self._activation_penalty(features), features.state

    def _activation_penalty(self, features: Features) -> Tensor | float:
        penalty: Tensor | float = 0.0
        if self.alpha:
            penalty = penalty + self.alpha * getattr(features, self.alpha_on).square().mean()
        if self.beta and len(features.raw) > 1:
            penalty = penalty + self.beta * features.raw.diff(dim=0).square().mean()
        return penalty

    @torch.no_grad()
    def evaluate(
        self,
        model: LanguageModel,
        split: str,
        batch_size: int | None = None,
        tick: Tick = lambda fraction: None,
    ) -> dict[str, float]:
        """Mean nats per predicted token of a split, from a zero state, dropouts off.

        Args:
            model: left in the mode in which it came.
            split: "train", "valid" or "test".
            batch_size: streams; `eval_batch_size` when missing.
            tick: told the fraction done after each window.

        Returns:
            {"loss": nats per token, "perplexity": exp(loss), "bits": loss / ln 2, "tokens": tokens scored}; where the
            metric is "bits" also "accuracy", the share of tokens that the model finds the most probable; of subwords
            also "word_perplexity": exp(loss * subwords / words of the split), where a word is what stands between
            white space, and an end of line, as at level "word".
        """
        total, tokens, right = 0.0, 0, 0
        for features, targets in self.passes(model, split, batch_size, tick):
            total += model.head.nll(features.dropped, targets).double().sum().item()
            tokens += targets.numel()
            if self.metric == "bits":  # vocabularies of characters: next to no work
                right += int((model.head.log_prob(features.dropped).argmax(-1) == targets).sum())
        accuracy = {"accuracy": right / tokens} if self.metric == "bits" else {}
        return {**scores(total, tokens), **accuracy, **self._per_word(split, total / tokens)}

    def _per_word(self, split: str, loss: float) -> dict[str, float]:
        """Of subwords: the perplexity per word, by how many of them the split has for each word."""
        words = self.info.get("words", {}).get(split)
        if not words:
            return {}
        return {"word_perplexity": scores(loss * len(self.corpus.splits[split]) / words, 1)["perplexity"]}

    def look(self, model: LanguageModel, closely: bool = False) -> list[dict[str, Json]]:
        """With recurrent maps, or at the level of characters, also the gradient of a window's last token's loss."""
        found = super().look(model, closely)
        if closely and (found or self.metric == "bits"):
            rows = streams(self.corpus.splits["valid"], self.eval_batch_size, "valid")
            words, targets = moved(window_of(rows, 0, min(self.window, len(rows) - 1)), device_of(model))
            with dropouts_off(model):
                read = model.embedding(words).detach()
            found.append(lag_record(model, read, lambda h: model.head.nll(h[None], targets[-1:]).mean()))
        return found

    def passes(
        self, model: LanguageModel, split: str, batch_size: int | None, tick: Tick
    ) -> Iterator[tuple[Features, Tensor]]:
        """Read a split from a zero state, dropouts off: what the model makes of each window, and its targets.

        Args as in `evaluate`.
        """
        rows = streams(self.corpus.splits[split], batch_size or self.eval_batch_size, split)
        device, state = device_of(model), model.initial_state(rows.shape[1])
        bounds = window_bounds(len(rows), self.window)
        with dropouts_off(model):
            for number, (first, length) in enumerate(bounds, 1):
                words, targets = moved(window_of(rows, first, length), device)
                features = model(words, state)
                state = features.state
                yield features, targets
                tick(number / len(bounds))


def scores(total_nats: float, tokens: int) -> dict[str, float]:
    """The ways to read a summed negative log-likelihood.

    >>> scores(10 * math.log(4), 10) == {"loss": math.log(4), "perplexity": 4.0, "bits": 2.0, "tokens": 10}
    True
    """
    loss = total_nats / tokens
    perplexity = math.exp(loss) if loss < 700 else math.inf  # exp overflows a double at 709
    return {"loss": loss, "perplexity": perplexity, "bits": loss / math.log(2), "tokens": tokens}
