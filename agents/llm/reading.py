"""From what the LLM wrote to an answer."""

import json
import unicodedata
from typing import Any

from asiarch.agents.llm.model import Answer


def read_answer(answer: type[Answer], text: str) -> Answer:
    """The answer in `text`, without what no text and no program has: control characters but newline and tab.

    Raises:
        ValueError: it is not JSON, or not such an answer (pydantic's ValidationError).
    """
    try:
        found = _clean(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return answer.model_validate_json(json.dumps(found))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(
            letter for letter in value if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs")
        )
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value
