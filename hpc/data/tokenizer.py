"""Text to token ids: bytes, or a `tokenizers` file of Hugging Face. Both name the id that ends a document."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from asiarch.models.errors import UserError

BYTES: Final = "bytes"
END_TOKENS: Final = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "[SEP]",
)


class Tokenizer(Protocol):
    """What `prepare` needs. Ids are in [0, vocab_size); `end_id` follows each document.

    `content` is the tokenizer's file, None for bytes; `sha256` is its hash, the tokenizer's identity.
    """

    name: str
    content: bytes | None
    vocab_size: int
    end_id: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One 1-D array of ids a text, without the end id."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids, without end ids."""
        ...


class ByteTokenizer:
    """The UTF-8 bytes of the text, ids 0 to 255; 256 ends a document."""

    name = BYTES
    content: bytes | None = None
    vocab_size = 257
    end_id = 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One 1-D array of bytes a text."""
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids; a character cut at either side becomes U+FFFD."""
        return np.asarray(ids)[np.asarray(ids) < 256].astype(np.uint8).tobytes().decode(errors="replace")


class FileTokenizer:
    """A `tokenizer.json`. Its end id is that of the first name in `END_TOKENS` that it has."""

    def __init__(self, content: bytes, name: str) -> None:
        # imported here: readers of a dataset do not need it
        from tokenizers import Tokenizer as Model

        try:
            # a bad file raises a bare Exception
            model: Any = Model.from_str(content.decode())
        except Exception as error:
            raise UserError(f"tokenizer {name} is not a file of Hugging Face `tokenizers`: {error}") from None
        vocabulary = model.get_vocab(with_added_tokens=True)
        end = next((token for token in END_TOKENS if token in vocabulary), None)
        if end is None:
            raise UserError(
                f"tokenizer {name} has no token that ends a document (looked for {' '.join(END_TOKENS)});"
                f" add one as a special token, say {END_TOKENS[0]}, and save it again"
            )
        # the file may hold settings for batches of a model's inputs, which would cut or pad documents
        model.no_truncation()
        model.no_padding()
        # the name of a special token inside a document is text, not the end of the document
        model.encode_special_tokens = True
        self._model = model
        self.name = name
        self.content: bytes | None = content
        self.vocab_size = max(vocabulary.values()) + 1
        self.end_name = end
        self.end_id = vocabulary[end]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One 1-D array of ids a text, without special tokens."""
        encodings = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids, without special tokens."""
        return str(self._model.decode(np.asarray(ids).tolist(), skip_special_tokens=True))


def load_tokenizer(tokenizer: str | Path) -> Tokenizer:
    """The tokenizer of `--tokenizer`: the word `bytes`, or a file. UserError for a file that cannot serve."""
    if str(tokenizer) == BYTES:
        return ByteTokenizer()
    path = Path(tokenizer)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"tokenizer {path} cannot be read: {error.strerror}; give `bytes` or a tokenizer.json"
        ) from None
    return FileTokenizer(content, path.name)


def tokenizer_hash(tokenizer: Tokenizer) -> str | None:
    """sha256 of the tokenizer's file, None for bytes."""
    return None if tokenizer.content is None else hashlib.sha256(tokenizer.content).hexdigest()
