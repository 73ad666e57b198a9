"""Parts of the roles' answers, as their JSON schemas bound them in decoding."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from asiarch.agents.llm.text import one_line


class Answer(BaseModel):
    """An answer: nothing but its fields, in their order, which is the order in which they are thought and written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# In decoding a pattern keeps control characters out, and quotes and backslashes, so that it means the same to a
# backend that reads it as of the JSON text and to one that does not. It sets no length: xgrammar 0.2.8 takes 8 to 28 s
# to compile a repetition of 128, and fails above that. What a text may be long is cut off; max_tokens bounds the rest.
_PLAIN = StringConstraints(pattern=r'^[^"\\\x00-\x1f\x7f]+$')
Sentence = Annotated[str, _PLAIN, AfterValidator(partial(one_line, longest=300))]
Paragraph = Annotated[str, _PLAIN, AfterValidator(partial(one_line, longest=800))]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{2,47}$")]
# of a card, or c12 of a candidate
Mark = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")]
# Code has every character. No length here either: with one, xgrammar allows no escapes, and so no line ends.
Code = str
MOST_CODE = 60_000  # characters


class BlockAnswer(Answer):
    """A search-and-replace block."""

    search: Code
    replace: str


Blocks = Annotated[list[BlockAnswer], Field(min_length=1, max_length=8)]
