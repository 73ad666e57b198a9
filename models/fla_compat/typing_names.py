"""Names that programs import for annotations alone."""

from typing_extensions import Unpack

__all__ = ["Unpack"]
