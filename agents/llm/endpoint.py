"""Where the LLM is asked: the campaign's own server (`asiarch.agents.llm.server`), or one that is there already."""

import os
from dataclasses import dataclass
from typing import Protocol

from asiarch.models.errors import UserError


@dataclass(frozen=True)
class Address:
    """One life of a server: after a restart it is another address."""

    base_url: str  # ends in /v1
    key: str
    model: str  # the name under which the server has it
    life: int  # counts the server's starts


class Endpoint(Protocol):
    """A server that may be away for a while."""

    def wait(self) -> Address:
        """Where it answers now; waits while it starts.

        Raises:
            LlmError: it is not to be had ("unavailable").
        """
        ...


@dataclass(frozen=True)
class Existing:
    """A server that somebody else runs.

    Args:
        base_url: for example "http://gpu-017:8000/v1".
        model: the model's name there.
        key_variable: the environment variable that holds the key; None where the server wants none.
    """

    base_url: str
    model: str
    key_variable: str | None = None

    def wait(self) -> Address:
        """Its address; whether anybody answers there shows when it is asked. Raises UserError without its key."""
        key = os.environ.get(self.key_variable, "") if self.key_variable else "none"
        if not key:
            raise UserError(
                f"llm: the environment variable {self.key_variable} is empty; put the server's key there"
            )
        return Address(self.base_url.rstrip("/"), key, self.model, life=0)
