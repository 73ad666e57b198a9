"""The reader: windows, batches and their order."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asiarch.hpc.data import Batches, Split, evaluation_windows, open_dataset, prepare
from asiarch.hpc.data.batches import permute
from asiarch.models.errors import UserError

LENGTH = 7


def make_split(folder: Path, sizes: tuple[int, ...], dtype: str = "<u2") -> Split:
    """A dataset whose token at place p of shard s is 1000 s + p, written by hand."""
    folder.mkdir(exist_ok=True)
    shards = []
    for number, size in enumerate(sizes):
        raw = (1000 * number + np.arange(size)).astype(dtype).tobytes()
        (folder / f"train-{number:05d}.bin").write_bytes(raw)
        digest = hashlib.sha256(raw).hexdigest()
        shards.append(
            {
                "file": f"train-{number:05d}.bin",
                "tokens": size,
                "documents": 1,
                "bytes": size,
                "sha256": digest,
            }
        )
    manifest = {
        "format": "asiarch-tokens",
        "version": 2,
        "tokenizer": {"name": "bytes", "sha256": None, "bytes": 0},
        "vocab_size": 65536,
        "dtype": dtype,
        "end_id": 0,
        "splits": {"train": shards},
        "sources": [],
        "arguments": {},
        "dropped": {},
        "skipped": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_dataset(folder, verify=True).split("train")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    # 14, 0, 1 and 28 windows of 7 + 1 tokens
    return make_split(tmp_path / "d", (100, 5, 8, 200))


@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(count: int, key: int) -> None:
    assert sorted(permute(np.arange(count), count, key)) == list(range(count))


@given(st.integers(2**20, 2**61), st.integers(0, 2**64 - 1), st.integers(0, 2**20))
def test_permutation_of_large_ranges_stays_inside_without_collisions(
    count: int, key: int, start: int
) -> None:
    positions = np.arange(start, min(count, start + 200), dtype=np.int64)
    result = permute(positions, count, key)
    assert len(np.unique(result)) == len(positions)
    assert result.size == 0 or (result.min() >= 0 and result.max() < count)


def test_permutation_spreads_evenly_over_keys() -> None:
    count, keys = 23, 1150
    for position in (0, 22):
        hits = np.zeros(count)
        for key in range(keys):
            hits[permute(np.array([position]), count, key)] += 1
        chi_square = ((hits - keys / count) ** 2 / (keys / count)).sum()
        # mean 22, standard deviation 6.6; keys are fixed, so this is not left to chance
        assert chi_square < 55


def test_windows_of_an_epoch_cover_each_shard_once_and_never_cross(split: Split) -> None:
    batches = Batches(split, LENGTH, batch_size=43, seed=1)
    expected = {
        tuple(1000 * shard + place + np.arange(LENGTH + 1))
        for shard, size in enumerate((100, 5, 8, 200))
        for place in range(0, size - LENGTH, LENGTH)
    }
    assert len(expected) == 43
    for epoch in range(3):
        inputs, targets = batches[epoch]
        windows = np.concatenate([inputs, targets[:, -1:]], axis=1)
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert {tuple(window) for window in windows} == expected
        assert (inputs.dtype, targets.dtype) == (np.int64, np.int64)
        assert inputs.flags["C_CONTIGUOUS"]
        assert targets.flags["C_CONTIGUOUS"]
    assert not np.array_equal(batches[0][0], batches[1][0])
    assert not np.array_equal(batches[0][0], Batches(split, LENGTH, 43, seed=2)[0][0])


def test_epochs_follow_each_other_within_a_batch(split: Split) -> None:
    rows = np.concatenate([Batches(split, LENGTH, 10, seed=0)[step][0][:, 0] for step in range(43)])
    assert set(Counter(rows.tolist()).values()) == {10}
    assert len(set(rows[:43].tolist())) == 43


@given(step=st.integers(0, 10**9), seed=st.integers(0, 2**32), world=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_batches_are_pure_and_ranks_share_the_global_batch(
    tmp_path_factory: pytest.TempPathFactory, step: int, seed: int, world: int
) -> None:
    split = make_split(tmp_path_factory.getbasetemp() / "shared", (100, 5, 8, 200))
    whole = Batches(split, LENGTH, 12, seed)
    whole[step + 1]
    parts = [Batches(split, LENGTH, 12, seed, rank=rank, world=world)[step] for rank in range(world)]
    for side in (0, 1):
        np.testing.assert_array_equal(whole[step][side], np.concatenate([part[side] for part in parts]))


def test_evaluation_windows_are_spread_over_the_split(split: Split) -> None:
    inputs, targets = evaluation_windows(split, LENGTH, tokens=4 * LENGTH + 3)
    # windows 0, 10, 21 and 32 of 43: the first 14 in shard 0, one in shard 2, the rest in shard 3
    assert inputs[:, 0].tolist() == [0, 70, 3000 + 6 * 7, 3000 + 17 * 7]
    np.testing.assert_array_equal(targets, inputs + 1)
    everything, _ = evaluation_windows(split, LENGTH, tokens=10**6)
    assert len(everything) == 43


def test_ids_above_16_bits(tmp_path: Path) -> None:
    split = make_split(tmp_path / "d", (70_000,), "<u4")
    inputs, _ = evaluation_windows(split, 1000, tokens=10**6)
    assert inputs.max() == 68_999


def test_errors(split: Split) -> None:
    with pytest.raises(UserError, match=r"313 tokens, fewer than one window of 500 \+ 1"):
        Batches(split, 500, 4, seed=0)
    with pytest.raises(UserError, match="not a positive multiple of the 3 ranks"):
        Batches(split, LENGTH, 4, seed=0, rank=0, world=3)
    with pytest.raises(UserError, match="3 evaluation tokens"):
        evaluation_windows(split, LENGTH, 3)
    with pytest.raises(IndexError):
        Batches(split, LENGTH, 4, seed=0)[-1]


def test_reading_needs_neither_torch_nor_tokenizers(tmp_path: Path) -> None:
    import subprocess
    import sys

    make_split(tmp_path / "d", (100,))
    program = (
        "import sys; from asiarch.hpc.data import open_dataset, evaluation_windows;"
        f"evaluation_windows(open_dataset({str(tmp_path / 'd')!r}).split('train'), 7, 70);"
        "print({'torch', 'tokenizers', 'scipy'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert found.stdout.strip() == "set()"


class TestTokenizerFile:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return train_bpe(tmp_path / "tokenizer.json", ["<|endoftext|>"])

    def test_round_trip(self, model: Path, tmp_path: Path) -> None:
        texts = [f"number {number}: <|endoftext|> is text here, état 慢 " * 9 for number in range(30)]
        (tmp_path / "source").mkdir()
        for number, text in enumerate(texts):
            (tmp_path / "source" / f"{number:02d}").write_text(text)
        prepare([tmp_path / "source"], tmp_path / "out", tokenizer=model, validation=0, test=0)
        model.unlink()
        dataset = open_dataset(tmp_path / "out", verify=True)
        ids = np.array(dataset.split("train").shards[0])
        ends = np.flatnonzero(ids == dataset.end_id)
        pieces = np.split(ids, ends + 1)[:-1]
        assert [dataset.tokenizer().decode(piece) for piece in pieces] == texts
        assert len(ids) < sum(len(text.encode()) for text in texts)
        assert ids.max() < dataset.vocab_size

    def test_settings_for_model_inputs_do_not_cut_or_pad(self, model: Path, tmp_path: Path) -> None:
        from tokenizers import Tokenizer

        changed = Tokenizer.from_file(str(model))
        changed.enable_truncation(3)
        changed.enable_padding(length=1000)
        changed.save(str(tmp_path / "cut.json"))
        (tmp_path / "text").write_text("number words " * 20)
        for name in ("tokenizer.json", "cut.json"):
            prepare([tmp_path / "text"], tmp_path / name[:3], tokenizer=tmp_path / name, validation=0, test=0)
        read = [open_dataset(tmp_path / name).split("train").shards[0] for name in ("tok", "cut")]
        np.testing.assert_array_equal(*read)

    def test_errors(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("words")
        model = train_bpe(tmp_path / "endless.json", [])
        with pytest.raises(UserError, match=r"endless\.json has no token that ends a document"):
            prepare([tmp_path / "text"], tmp_path / "out", tokenizer=model)
        (tmp_path / "bad.json").write_text("{}")
        with pytest.raises(UserError, match=r"bad\.json is not a file of Hugging Face"):
            prepare([tmp_path / "text"], tmp_path / "out", tokenizer=tmp_path / "bad.json")


def train_bpe(path: Path, special: list[str]) -> Path:
    """A byte-level BPE of some 300 ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(["number words is text here, one two three"] * 20, trainer)
    model.save(str(path))
    return path
