"""A tokenizer of one's own: byte-level BPE, trained on a sample of the sources."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from asiarch.hpc.data.deduplication import document_hash, normalise
from asiarch.hpc.data.documents import Position, read_documents
from asiarch.hpc.data.preparation import Progress
from asiarch.hpc.data.sources import resolve_sources, walk
from asiarch.hpc.data.tokenizer import END_TOKENS
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_text

SMALLEST_VOCABULARY: Final = 257  # the bytes, and the token that ends a document
# as GPT-4's: words with their space, numbers of up to three digits, runs of signs (tiktoken, cl100k_base)
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    vocabulary: int,
    sample_bytes: int,
    seed: int = 0,
    suffixes: Sequence[str] = (),
    text_column: str = "text",
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Train byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) and write it as a `tokenizer.json`.

    Args:
        vocabulary: tokens in all, the 256 bytes and the end of a document among them.
        sample_bytes: about how much of the sources to learn from; which documents, hashes of their texts decide.
            They may be ones that later validate: that favours no candidate, for all share the tokenizer.
        progress: told of the reading; it counts no tokens.

    Returns:
        The number of tokens, fewer than asked for where the text has too few pairs to merge.

    Raises:
        UserError: bad arguments or sources, or a file `out` that is there already.
    """
    out = Path(out)
    if vocabulary < SMALLEST_VOCABULARY:
        raise UserError(f"a vocabulary needs {SMALLEST_VOCABULARY} tokens or more, not {vocabulary}")
    if sample_bytes < 1:
        raise UserError(f"need a positive number of bytes to learn from, not {sample_bytes}")
    if out.exists():
        raise UserError(f"{out} is there already; choose another --out, or remove it first")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} of --out does not exist")
    resolved = resolve_sources(sources, suffixes, out)
    total = sum(file.size for file in walk(resolved))

    def sample() -> Iterator[str]:
        share = sample_bytes / max(1, total)
        documents = 0
        for piece in read_documents(walk(resolved), Position(0, 0), text_column):
            if piece.text and document_hash(normalise(piece.text), seed)[1] < share:
                documents += 1
                yield piece.text
            if progress is not None:
                progress(Progress(documents, 0, piece.read, total, 0.0))

    model = _byte_level_bpe()
    model.train_from_iterator(sample(), _trainer(vocabulary))
    size = int(model.get_vocab_size())
    if size == SMALLEST_VOCABULARY < vocabulary:
        raise UserError("the sample has no text to learn from; give more sources, or raise --sample")
    atomic_write_text(out, model.to_str())
    return size


def _byte_level_bpe() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = decoders.ByteLevel()
    return model


def _trainer(vocabulary: int) -> Any:
    from tokenizers import pre_tokenizers, trainers

    return trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKENS[0]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
