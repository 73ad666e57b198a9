"""What the literature knows: cards on published techniques, a file a topic, found by what a candidate lacks.

In the cards' equations vectors are columns, `*` is elementwise between them, sigma the logistic function, and S_t
the state (key dimension x value dimension), read as o_t = S_t^T q_t.
"""

from asiarch.agents.cognition.cards import Card, Source, load_cards
from asiarch.agents.cognition.retrieval import Hit, Retriever

__all__ = ["Card", "Hit", "Retriever", "Source", "load_cards"]
