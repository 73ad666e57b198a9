"""The cards: those that ship are sound, and a bad one is named in one clear line."""

from pathlib import Path

import pytest

from asiarch.agents.cognition import Card, load_cards
from asiarch.agents.cognition.cards import SHIPPED
from asiarch.models.errors import UserError

TOPICS = [
    "chunking", "convolution", "delta_rule", "efficiency", "feature_map", "gating", "hybrid",
    "length_generalisation", "linear_attention", "memory", "normalisation", "state_space", "test_time_training",
]  # fmt: skip

OWN = """\
- id: our-mixer
  title: Our mixer
  scenario: When nothing else was of any help
  mechanism: It mixes all tokens in our own way
  equation: y = M x
  helps: Better on all that we have measured
  costs: Twice the time of plain attention
  source: {authors: Doe, year: 2024, arxiv: "2403.12340", title: On mixing}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path


def test_every_topic_has_cards_and_they_are_a_hundred_or_more() -> None:
    assert sorted(path.stem for path in SHIPPED.glob("*.yaml")) == TOPICS
    assert all((SHIPPED / f"{topic}.yaml").read_text().count("- id: ") >= 5 for topic in TOPICS)
    assert len(load_cards()) >= 100


def test_shipped_cards_have_a_source_each_of_their_own() -> None:
    cards = load_cards()
    numbers = [card.source.arxiv for card in cards]
    assert None not in numbers
    assert len(set(numbers)) == len(cards)
    for field in ("title", "scenario", "mechanism", "equation", "helps", "costs"):
        assert len({getattr(card, field) for card in cards}) == len(cards)
    assert len({card.source.title for card in cards}) == len(cards)


def test_own_cards_are_added(own: Path) -> None:
    cards = load_cards(own)
    assert cards[:-1] == load_cards()
    assert cards[-1].id == "our-mixer"
    text = cards[-1].text()
    assert text.splitlines()[0] == "[our-mixer] Our mixer"
    assert "Equation: y = M x" in text
    assert text.endswith("Doe (2024), On mixing, arXiv:2403.12340")


def test_an_own_card_may_have_no_arxiv_number(own: Path) -> None:
    (own / "own.yaml").write_text(OWN.replace('arxiv: "2403.12340", ', ""))
    assert load_cards(own)[-1].text().endswith("Doe (2024), On mixing")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  costs:", "  cost:", ":1: card our-mixer: cost: unknown key; allowed are id, title, "),
        ("  costs: Twice the time of plain attention\n", "", ":1: card our-mixer: costs: is missing; give it a value"),
                ("year: 2024, ", "", ":1: card our-mixer: source.year: is missing; give it a value"),
        ("title: On", "place: X, title: On", "source.place: unknown key; allowed are authors, year, title, arxiv"),
        ("y = M x", "3.5", ":1: card our-mixer: equation: must be text, not 3.5; put it in quotes"),
        ('"2403.12340"', "2403.12340", "source.arxiv: must be text, not 2403.1234; put it in quotes"),
        ("2403.12340", "2413.12340", "source.arxiv: string should match pattern"),
        ("2403.12340", "2403.1234", "source: arXiv number 2403.1234 has the wrong number of digits"),
        ("2403.12340", "1412.12340", "source: arXiv number 1412.12340 has the wrong number of digits"),
        ("year: 2024", "year: 2023", "source: year 2023 is not that of arXiv number 2403.12340"),
        ("year: 2024", "year: '2024'", "source.year: input should be a valid integer, not '2024'"),
        ("id: our-mixer", "id: Our Mixer", "card Our Mixer: id: string should match pattern"),
        ("Twice the time of plain attention", "Time", "costs: string should have at least 20 characters"),
        ("  helps:", "  helps: a\n  helps:", ":1: card our-mixer: a key is there twice"),
        ("id: our-mixer", "id: linear-attention", "card linear-attention: id: is taken by another card"),
        (OWN, OWN + OWN, ":9: card our-mixer: id: is taken by another card; choose a new one"),
        (OWN, "- just words", ":1: card 1: input should be a valid dictionary"),
        (OWN, "id: our-mixer", ":1: need a list of cards"),
        (OWN, "", ":1: need a list of cards"),
        ("  title: Our", "  title: [Our", ": not valid YAML: "),
    ],
)  # fmt: skip
def test_a_bad_card_is_named_in_one_line(own: Path, old: str, new: str, said: str) -> None:
    assert old in OWN
    (own / "own.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(UserError) as error:
        load_cards(own)
    assert str(error.value).startswith(f"{own / 'own.yaml'}:")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_said(own: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no \*\.yaml with cards there"):
        load_cards(own / "nowhere")
    (own / "own.yaml").write_bytes(b"- id: \xff")
    with pytest.raises(UserError, match=r"own\.yaml: not UTF-8 text"):
        load_cards(own)


def test_a_card_is_bounded() -> None:
    """Five cards fit a prompt of some thousand words."""
    assert max(len(card.text()) for card in load_cards()) < 2000
    fields = Card.model_json_schema()["properties"]
    assert all(
        fields[name]["maxLength"] <= 600 for name in ("scenario", "mechanism", "equation", "helps", "costs")
    )
