"""Question answering: the span of a paragraph that answers a question."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from sparsernn.contracts import Tick
from sparsernn.core.checks import checked
from sparsernn.core.devices import device_of, moved
from sparsernn.core.errors import InputError
from sparsernn.core.limits import Size
from sparsernn.core.peers import share_of
from sparsernn.core.plain import Json
from sparsernn.core.streams import draws
from sparsernn.data import Vocabulary, stand_ins
from sparsernn.data.answer_scores import score_answers
from sparsernn.data.questions import QuestionCorpus, token_spans
from sparsernn.data.word_vectors import read_vectors
from sparsernn.models.bidaf import BiDAF, Pointers, Text
from sparsernn.tasks.batch_parts import check_shares
from sparsernn.tasks.encoded_questions import Encoded, Found, found
from sparsernn.tasks.lexicon import CHARACTERS, FIXED, TRAINED, Lexicon, counts, frequent, tokens_of
from sparsernn.tasks.segments import dropouts_off
from sparsernn.tasks.task import Task


class Limits(TypedDict, total=False):
    """The longest paragraph and question, in words, and word, in letters, that training reads."""

    context: Size
    question: Size
    letters: Size


class MinCount(TypedDict, total=False):
    """How often a word or a character must occur to have a vector of its own."""

    word: Size
    character: Size


LIMITS = {"context": 400, "question": 30, "letters": 16}
MIN_COUNT = {"word": 11, "character": 51}

POOL = 20
"""Batches whose questions are drawn together and then sorted by length: little padding, batches still mixed."""


@dataclass(frozen=True)
class Questions:
    """A batch.

    Attributes:
        context: the paragraphs.
        question: what is asked about each.
        targets: number of the answer's first word, (B,) int64.
        last: number of its last word, (B,) int64.
        lr_scale: always 1.
    """

    context: Text
    question: Text
    targets: Tensor
    last: Tensor
    lr_scale: float = 1.0


class QuestionAnswering(Task):
    """Point to the first and the last word of the answer; questions have nothing to do with each other.

    Trained on: questions of at most `limits.question` tokens whose answers all lie in the first `limits.context`
    tokens of the paragraph, which is cut there. Evaluated: all questions, with whole paragraphs.

    Args:
        corpus: of the corpora squad, squad-articles, python-questions.
        batch_size: questions per training batch; the last one of an epoch has what is left.
        eval_batch_size: questions evaluated at once; no score depends on it.
        limits: `context` and `question`, tokens that are trained on, and `letters`, characters that are read of a
            word; 400, 30 and 16 unless given.
        min_count: `word` and `character`: what training reads less often is `<unk>`; 11 and 51 unless given. A
            paragraph is read once for each of its questions.
        vectors: text file of word vectors, such as GloVe's; words that it has keep its vectors, the others are
            trained. None: all are trained.
        vocabularies: of an earlier run.

    Scores: "f1" and "em" as SQuAD 1.1 is judged officially (`score_answers`, between 0 and 1), "loss" per question
    and the count "questions". The best checkpoint is the one of the best validation F1.

    Source: M. Seo, A. Kembhavi, A. Farhadi and H. Hajishirzi, "Bidirectional Attention Flow for Machine
    Comprehension", 2016, arXiv:1611.01603.
    Differs from the original: every sign that is no letter or digit is a token of its own; an answer may end with the
    paragraph's last word; batches are sorted by length inside pools of 20, not over all the data; the weights that
    are tested were the best on validation.
    """

    metric, counts = "f1", "questions"
    eval_batch_size: int

    given: Tensor | None
    """Vectors of the given words, (F, E), in a new run."""

    @checked
    def __init__(
        self,
        corpus: QuestionCorpus,
        *,
        batch_size: Size = 60,
        eval_batch_size: Size = 60,
        limits: Limits | None = None,
        min_count: MinCount | None = None,
        vectors: str | None = None,
        vocabularies: Mapping[str, Vocabulary] | None = None,
    ) -> None:
        if not isinstance(corpus, QuestionCorpus):
            raise InputError(
                "question answering needs paragraphs; take squad, squad-articles or python-questions."
            )
        self.batch_size, self.eval_batch_size, self.info = batch_size, eval_batch_size, corpus.info
        self.limits = _over(LIMITS, limits)
        self.paragraphs, self.given = corpus.splits, None
        if vocabularies is None:
            vocabularies = self._collect(_over(MIN_COUNT, min_count), vectors)
        self.vocabularies = vocabularies
        self.sizes = {
            "vocabulary_size": len(vocabularies[TRAINED]),
            "characters": len(vocabularies[CHARACTERS]),
        }
        self.sizes["fixed_words"] = len(vocabularies[FIXED]) if FIXED in vocabularies else 0
        self.lexicon = Lexicon(vocabularies, self.limits["letters"])
        self.data = {split: Encoded(chosen, self.lexicon) for split, chosen in corpus.splits.items()}
        self.trained = self.data["train"].within(self.limits["context"], self.limits["question"])
        if not self.trained:
            raise InputError(f"no training question is within the limits {self.limits}; raise task.limits.")
        self.examples = {split: len(data.asked) for split, data in self.data.items()}
        self.examples["train"] = len(self.trained)

    def _collect(self, least: Mapping[str, int], vectors: str | None) -> dict[str, Vocabulary]:
        words, characters = counts(self.paragraphs["train"])
        signs = {CHARACTERS: frequent(characters, least["character"])}
        if vectors is None:
            return {TRAINED: frequent(words, least["word"]), **signs}
        texts = (p for paragraphs in self.paragraphs.values() for p in paragraphs)
        known = read_vectors(vectors, counts(texts)[0])
        self.given = torch.stack(list(known.values()))
        return {
            TRAINED: frequent(words, least["word"], without=known),
            FIXED: Vocabulary(list(known)),
            **signs,
        }

    @classmethod
    def stand_in(cls, info: Mapping[str, Json], vocabularies: Mapping[str, Vocabulary]) -> dict[str, Json]:
        """Paragraphs of random words."""
        words = [
            word for name in (TRAINED, FIXED) if name in vocabularies for word in vocabularies[name].tokens
        ]
        return {"corpus": stand_ins.paragraphs(info, words)}

    def check_model(self, model: BiDAF) -> None:
        """Raise InputError unless the model reads what this task gives; a new run's given word vectors are put in."""
        if not isinstance(model, BiDAF):
            raise InputError("question answering needs a model that points to a span; take model.name=bidaf.")
        if model.characters.width > self.limits["letters"]:
            raise InputError(
                f"a filter sees {model.characters.width} characters and words have {self.limits['letters']}; "
                "raise task.limits.letters or lower model.character_cnn.width."
            )
        if self.given is not None:
            _give(self.given, model.words.fixed)

    def steps_per_epoch(self, seed: int = 0) -> int:
        """Batches of an epoch."""
        return -(-len(self.trained) // self.batch_size)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[Questions]:
        """The training questions in an order of this seed and epoch; of several right answers one, drawn anew."""
        draw = draws("questions", seed, epoch)
        order = draw.sample(self.trained, len(self.trained))
        chosen: list[list[int]] = []
        for pool in _pieces(order, POOL * self.batch_size):
            chosen += _pieces(sorted(pool, key=self.data["train"].length), self.batch_size)
        draw.shuffle(chosen)
        for number, questions in enumerate(chosen):
            drawn = [draw.choice(self.data["train"].asked[k].spans) for k in questions]
            if number >= start:
                yield self._batch(self.data["train"], questions, drawn, self.limits["context"])

    def _batch(
        self, data: Encoded, numbers: Sequence[int], spans: Sequence[tuple[int, int]], limit: int | None
    ) -> Questions:
        asked = [data.asked[k] for k in numbers]
        first, last = torch.tensor(spans).unbind(1)
        contexts = self.lexicon.text([data.texts[a.paragraph][:limit] for a in asked])
        return Questions(contexts, self.lexicon.text([a.rows for a in asked]), first, last)

    def check_parts(self, parts: int) -> None:
        """See `Task`: the questions are divided, those of the last and smaller batch, too."""
        check_shares(self.batch_size, len(self.trained), parts)

    def part(self, batch: Questions, number: int, parts: int) -> Questions:
        """See `Task`; texts of a part are as long as its longest one."""
        share = share_of(len(batch.targets), number, parts)
        texts = (_texts(batch.context, share), _texts(batch.question, share))
        return Questions(*texts, batch.targets[share], batch.last[share])

    def loss(self, model: BiDAF, batch: Questions, state: None) -> tuple[Tensor, Tensor, None]:
        """Mean over questions of the nats of the first word and those of the last; nothing is carried."""
        nats = _nats(model(batch.context, batch.question), batch).mean()
        return nats.detach(), nats, None

    def evaluate(
        self, model: BiDAF, split: str, batch_size: int | None = None, tick: Tick = lambda fraction: None
    ) -> dict[str, float]:
        """The scores of a split; see the class."""
        answers, loss = self._answers(model, split, batch_size, tick)
        return {"loss": loss, **score_answers(self.paragraphs[split], answers)}

    def predictions(
        self, model: BiDAF, split: str, batch_size: int | None = None, tick: Tick = lambda fraction: None
    ) -> dict[str, str]:
        """Question id -> the model's answer: what the official evaluation script reads, as JSON."""
        return self._answers(model, split, batch_size, tick)[0]

    @torch.no_grad()
    def _answers(
        self, model: BiDAF, split: str, batch_size: int | None, tick: Tick
    ) -> tuple[dict[str, str], float]:
        """All answers, and the mean loss against the first right answer (0 where it has no place)."""
        data, answers, nats = self.data[split], dict[str, str](), list[Tensor]()
        order = sorted(range(len(data.asked)), key=data.length)
        parts = _pieces(order, batch_size or self.eval_batch_size)
        with dropouts_off(model):
            for number, questions in enumerate(parts, 1):
                asked = [data.asked[k] for k in questions]
                spans = [(a.spans or [(0, 0)])[0] for a in asked]
                batch = moved(self._batch(data, questions, spans, None), device_of(model))
                pointers = model(batch.context, batch.question)
                placed = torch.tensor([bool(a.spans) for a in asked])
                nats.append(_nats(pointers, batch).cpu()[placed])
                answers |= {a.id: f.text for a, f in zip(asked, data.found(pointers, questions), strict=True)}
                tick(number / len(parts))
        return answers, torch.cat(nats).double().mean().item()

    @torch.no_grad()
    def answer(self, model: BiDAF, paragraph: str, question: str) -> Found:
        """The likeliest answer to a question about any paragraph.

        Raises:
            InputError: a paragraph or a question without a word.
        """
        for name, text in (("paragraph", paragraph), ("question", question)):
            if not tokens_of(text):
                raise InputError(f"the {name} is {text!r}; it needs at least one word.")
        texts = [self.lexicon.text([self.lexicon.rows(tokens_of(t))]) for t in (paragraph, question)]
        context, asked = moved(texts, device_of(model))
        with dropouts_off(model):
            return found(model(context, asked), [paragraph], [token_spans(paragraph)])[0]

    def criterion(self, scores: Mapping[str, float]) -> float:
        """What F1 lacks to 1."""
        return 1 - scores["f1"]


def _nats(pointers: Pointers, batch: Questions) -> Tensor:
    """Of each question, (B,)."""
    start = functional.cross_entropy(pointers.start, batch.targets, reduction="none")
    return start + functional.cross_entropy(pointers.end, batch.last, reduction="none")


def _texts(texts: Text, share: slice) -> Text:
    """Some of the texts of a batch."""
    lengths = texts.lengths[share]
    steps = int(lengths.max())
    return Text(
        texts.words[:steps, share].contiguous(), texts.characters[:steps, share].contiguous(), lengths
    )


def _give(vectors: Tensor, fixed: Tensor) -> None:
    if vectors.shape[1] != fixed.shape[1]:
        raise InputError(
            f"the word vectors have {vectors.shape[1]} numbers and the model's {fixed.shape[1]}; "
            f"set model.word_size={vectors.shape[1]}."
        )
    fixed.copy_(vectors)


def _pieces(numbers: Sequence[int], size: int) -> list[list[int]]:
    return [list(numbers[k : k + size]) for k in range(0, len(numbers), size)]


def _over(usual: Mapping[str, int], given: Mapping[str, Json] | None) -> dict[str, int]:
    """`usual`, changed by what is given."""
    return {**usual, **(given or {})}
