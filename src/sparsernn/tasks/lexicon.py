"""Words and characters as numbers, for readers that look at both."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsernn.data import Vocabulary
from sparsernn.data.questions import Paragraph, token_spans
from sparsernn.data.tagged_sentences import PAD
from sparsernn.data.vocabulary import UNKNOWN
from sparsernn.models.bidaf import Text

TRAINED, FIXED, CHARACTERS = "vocabulary", "fixed", "characters"
SPECIAL = (PAD, UNKNOWN)


class Lexicon:
    """What a token is to the model: the number of its word, in lower case, and those of its characters, as written.

    Args:
        vocabularies: "vocabulary" (words whose vectors are trained) and "characters", both beginning with `<pad>` and
            `<unk>`, and "fixed" (words whose vectors are given) where there are any.
        letters: characters per word; longer words are cut, shorter ones filled with `<pad>`.

    A token is first sought among the trained words, then among the given ones, whose numbers follow.

    Example:
        >>> words, signs = Vocabulary(["<pad>", "<unk>", "dog"]), Vocabulary(["<pad>", "<unk>", "D", "o"])
        >>> lexicon = Lexicon({"vocabulary": words, "characters": signs}, letters=5)
        >>> rows = lexicon.rows(["Dog", "cat"])
        >>> lexicon.words[rows].tolist(), lexicon.characters[rows].tolist()
        ([2, 1], [[2, 3, 1, 0, 0], [1, 1, 1, 0, 0]])
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary], letters: int) -> None:
        trained = vocabularies[TRAINED]
        given = vocabularies[FIXED].index if FIXED in vocabularies else {}
        self._numbers = {word: len(trained) + k for word, k in given.items()} | trained.index
        self._signs, self._letters = vocabularies[CHARACTERS].index, letters
        self._row: dict[str, int] = {}
        self.words = torch.zeros(0, dtype=torch.int64)
        """Row -> number of the word, (R,) int64."""
        self.characters = torch.zeros(0, letters, dtype=torch.int64)
        """Row -> numbers of the characters, (R, letters) int64."""
        self.rows([PAD])  # row 0 fills texts up

    def rows(self, tokens: Iterable[str]) -> Tensor:
        """The row of each token in `words` and `characters`, int64; new tokens get new rows."""
        tokens = list(tokens)
        new = [token for token in dict.fromkeys(tokens) if token not in self._row]
        if new:
            self._row |= {token: len(self._row) + k for k, token in enumerate(new)}
            numbers = [self._numbers.get(token.lower(), 1) for token in new]
            self.words = torch.cat([self.words, torch.tensor(numbers)])
            self.characters = torch.cat([self.characters, torch.tensor([self._spelt(t) for t in new])])
        return torch.tensor([self._row[token] for token in tokens], dtype=torch.int64)

    def _spelt(self, token: str) -> list[int]:
        if token == PAD:
            return [0] * self._letters
        signs = [self._signs.get(sign, 1) for sign in token[: self._letters]]
        return signs + [0] * (self._letters - len(signs))

    def text(self, texts: Sequence[Tensor]) -> Text:
        """A padded batch of texts, each given by its tokens' rows."""
        rows = pad_sequence(list(texts), padding_value=0)
        return Text(self.words[rows], self.characters[rows], torch.tensor([len(text) for text in texts]))


def tokens_of(text: str) -> list[str]:
    """The tokens of a text.

    Example:
        >>> tokens_of("Who did?")
        ['Who', 'did', '?']
    """
    return [text[a:b] for a, b in token_spans(text)]


def counts(paragraphs: Iterable[Paragraph]) -> tuple[Counter[str], Counter[str]]:
    """How often each word (in lower case) and each character is read; a paragraph once for each of its questions."""
    words, characters = Counter[str](), Counter[str]()
    for paragraph in paragraphs:
        for text, times in [(paragraph.text, len(paragraph.questions))] + [
            (question.text, 1) for question in paragraph.questions
        ]:
            for token, number in Counter(tokens_of(text)).items():
                words[token.lower()] += number * times
                for sign in token:
                    characters[sign] += number * times
    return words, characters


def frequent(counted: Counter[str], least: int, without: Iterable[str] = ()) -> Vocabulary:
    """A vocabulary of `<pad>`, `<unk>` and what is counted at least so often, the most frequent first.

    Example:
        >>> frequent(Counter("banana"), 2, without="a").tokens
        ('<pad>', '<unk>', 'n')
    """
    left_out = set(without)
    kept = [word for word, times in counted.most_common() if times >= least and word not in left_out]
    return Vocabulary([*SPECIAL, *kept])
