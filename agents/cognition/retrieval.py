"""Finding the cards for a text that says what is lacking, by BM25."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import bm25s
import Stemmer

from asiarch.agents.cognition.cards import Card

# the cards say "normalise", analysts often "normalize"; the change is made in both, so its false hits do no harm
_BRITISH = re.compile(r"is(?=(?:e|es|ed|er|ing|ation|ations)\b)")


@dataclass(frozen=True)
class Hit:
    """A card and its BM25 score (above 0; comparable within one search alone)."""

    card: Card
    score: float


class Retriever:
    """An index over cards. Every part but the equation and the source counts as the card's text.

    BM25 as in Lucene (Kamphuis et al., ECIR 2020): the sum over the text's words w, repeated ones as often, of
    idf(w) * tf / (tf + k1 * (1 - b + b * length / mean length)), idf = ln(1 + (N - n + 1/2) / (n + 1/2)), with
    k1 = 1.5 and b = 0.75, over English word stems of two letters or more without stop words.
    """

    def __init__(self, cards: Sequence[Card]) -> None:
        if not cards:
            raise ValueError("no cards to search")
        self._cards = tuple(cards)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64", backend="numpy")
        self._index.index(_words([_searched(card) for card in cards]), show_progress=False)

    def search(self, lacking: str, count: int = 5) -> tuple[Hit, ...]:
        """At most `count` cards that share a word with `lacking`, best first, equal scores in the order of ids."""
        (words,) = _words([lacking])
        if not self._index.get_tokens_ids(words):
            return ()
        scores = self._index.get_scores(words).tolist()
        hits = [Hit(card, score) for card, score in zip(self._cards, scores, strict=True) if score > 0]
        return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.card.id))[:count])


def _searched(card: Card) -> str:
    return " ".join((card.title, card.scenario, card.mechanism, card.helps, card.costs))


def _words(texts: list[str]) -> list[list[str]]:
    texts = [_BRITISH.sub("iz", text.lower()) for text in texts]
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
