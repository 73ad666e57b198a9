"""What a check assumes about the model that the candidate is meant for."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asiarch.models.language_model import ModelConfig


@dataclass(frozen=True)
class CheckSettings:
    """Sizes for the check, small for speed. `reference` names the baseline whose size is to be matched.

    `length` is the length that the model is trained at, where leaks are looked for too. With `precision` bf16 a
    program that does not run in bfloat16 is refused, with `document_boundaries` one that does not take them.
    """

    hidden_size: int = 64
    num_heads: int = 2
    layers: int = 2
    vocab_size: int = 257
    reference: str = "delta_net"
    seed: int = 0
    document_boundaries: bool = False
    length: int = 512
    precision: str = "fp32"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `CheckSettings(**d)` reads them back."""
        return asdict(self)

    @property
    def sizes(self) -> str:
        """What the mixer's constructor is given, for messages."""
        return f"hidden_size={self.hidden_size}, num_heads={self.num_heads}"

    def model(self) -> "ModelConfig":
        """The language model of these sizes. Raises UserError for sizes that no model has."""
        # imported late: the settings are read where torch is not wanted
        from asiarch.models.language_model import ModelConfig

        return ModelConfig(self.vocab_size, self.layers, self.hidden_size, self.num_heads)
