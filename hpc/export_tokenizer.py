"""The dataset's tokenizer as files that `transformers.AutoTokenizer` loads."""

import json
from pathlib import Path

from asiarch.hpc.data import Dataset
from asiarch.hpc.data.tokenizer import FileTokenizer

END_NAME = "<|endoftext|>"


def write_tokenizer(dataset: Dataset, length: int, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json: the same ids as the dataset's.

    Args:
        length: of the texts that the model was trained on.
    """
    tokenizer = dataset.tokenizer()
    if tokenizer.content is None:
        content, end = _byte_tokenizer(dataset.end_id), END_NAME
    else:
        assert isinstance(tokenizer, FileTokenizer)
        content, end = tokenizer.content.decode(), tokenizer.end_name
    (folder / "tokenizer.json").write_text(content)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "padding_side": "left",
        "model_max_length": length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _byte_tokenizer(end_id: int) -> str:
    """Bytes as a byte-level BPE without merges; its letters for bytes are in the order of the bytes here."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {_letter(byte): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_NAME, special=True)])
    assert tokenizer.token_to_id(END_NAME) == end_id
    return str(tokenizer.to_str())


def _letter(byte: int) -> str:
    """The visible character that byte-level tokenizers write for a byte (Radford et al., GPT-2, 2019)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in visible:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in visible].index(byte))
