"""How right an answer is: exact match and F1, as SQuAD 1.1 is judged officially."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from sparsernn.data.questions import Paragraph

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """What of an answer counts: lower case, no ASCII punctuation, no articles, single spaces.

    Example:
        >>> normalised("The  Broncos' (24-10) an win.")
        'broncos 2410 win'
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(given: str, right: str) -> float:
    """1.0 where two answers are the same once normalised, else 0.0.

    Example:
        >>> exact_match("The dog!", "dog")
        1.0
    """
    return float(normalised(given) == normalised(right))


def f1(given: str, right: str) -> float:
    """Harmonic mean of the shares of words that two answers have in common; 0.0 without a common word.

    Example:
        >>> f1("the big dog", "dog")   # 1 of 2 words, 1 of 1
        0.6666666666666666
    """
    mine, theirs = normalised(given).split(), normalised(right).split()
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0


def score_answers(paragraphs: Iterable[Paragraph], given: Mapping[str, str]) -> dict[str, float]:
    """Mean exact match and F1 over all questions, each against the right answer that fits best.

    Args:
        paragraphs: with the right answers.
        given: question id -> answer. A question without one counts as wrong.

    Returns:
        "em" and "f1", between 0 and 1, and "questions", how many there are.

    Source: P. Rajpurkar, J. Zhang, K. Lopyrev and P. Liang, "SQuAD: 100,000+ Questions for Machine Comprehension of
    Text", 2016, arXiv:1606.05250.
    """
    questions = [question for paragraph in paragraphs for question in paragraph.questions]

    def mean(score: Callable[[str, str], float]) -> float:
        found = (
            max(score(given[q.id], answer.text) for answer in q.answers) for q in questions if q.id in given
        )
        return sum(found) / len(questions) if questions else 0.0

    return {"f1": mean(f1), "em": mean(exact_match), "questions": len(questions)}
