"""Parts of the roles' answers, as their JSON schemas bound them in decoding."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Answer(BaseModel):
    """An answer: nothing but its fields, in their order, which is the order in which they are thought and written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# Patterns bound a text in decoding; a maxLength alone lets control characters through. Quotes and backslashes are
# left out, so that a pattern means the same to a backend that reads it as of the JSON text and to one that does not.
_PLAIN = r'[^"\\\x00-\x1f\x7f]'
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{2,47}$")]
Mark = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")
]  # of a card, or c12 of a candidate
Sentence = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}{{1,300}}$")]
Paragraph = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}{{1,800}}$")]
# code has every character; what bounds it in decoding is the call's max_tokens
Code = Annotated[str, Field(min_length=1)]
MOST_CODE = 60_000  # characters


class BlockAnswer(Answer):
    """A search-and-replace block."""

    search: Code
    replace: str


Blocks = Annotated[list[BlockAnswer], Field(min_length=1, max_length=8)]
