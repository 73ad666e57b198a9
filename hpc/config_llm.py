"""The `llm` section of a campaign's configuration: the language model that proposes, repairs, analyses and judges."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from asiarch.hpc.config_evaluation import Section
from asiarch.hpc.config_values import AbsolutePath, Count, Fraction, Natural, absolute, number

# what asiarch.agents.llm.client says in each request itself, under any name that vLLM has for it
_ASKED = {"model", "messages", "seed", "temperature", "max_tokens", "max_completion_tokens", "stream", "n"}
_ASKED |= {"response_format", "structured_outputs"}


class LlmConfig(Section):
    """Where the LLM is, and what it is asked; without `model` and `base_url` there is none.

    `model`: a folder of weights, which the head serves through vLLM, from the interpreter `python` where one is
    named; or, with `base_url`, the name that a model has at a server that is there already, whose key is in the
    environment's variable `api_key`. `context`
    and `answer` are in tokens; `parallel` requests are answered at a time. `tries`: proposals that turn out not to
    be new. `repairs`: of a program that a check refuses, or that fails in training. `sampling`: further fields of
    every request, as the server names them.
    """

    model: Annotated[str, Field(min_length=1)] | None
    python: AbsolutePath | None
    base_url: Annotated[str, Field(pattern=r"^https?://")] | None
    api_key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None
    tensor_parallel: Count
    context: Annotated[int, BeforeValidator(number), Field(ge=1024)]
    answer: Annotated[int, BeforeValidator(number), Field(ge=128)]
    parallel: Count
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    gpu_memory: Fraction
    arguments: tuple[str, ...]
    temperature: Annotated[float, BeforeValidator(number), Field(ge=0, le=2)]
    sampling: dict[str, JsonValue]
    edits: Literal["whole", "blocks"]
    tries: Count
    repairs: Natural
    analyst: bool
    judge: bool
    prompts: AbsolutePath | None
    cards: AbsolutePath | None

    @property
    def is_there(self) -> bool:
        """Whether a campaign has an LLM at all."""
        return self.model is not None

    @model_validator(mode="before")
    @classmethod
    def _folder_from_anywhere(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(values.get("model"), str) and values.get("base_url") is None:
            return {**values, "model": absolute(values["model"])}
        return values

    @field_validator("sampling")
    @classmethod
    def _leaves_the_question_alone(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_ASKED & fields.keys()):
            raise ValueError(f"{taken[0]} is not to be set here: it follows from who asks what")
        return fields

    @model_validator(mode="after")
    def _fits(self) -> "LlmConfig":
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url needs the name that the model has there: give it as model")
        if self.answer >= self.context:
            raise ValueError(
                f"answer {self.answer} leaves no room for a question in a context of {self.context}"
            )
        return self
