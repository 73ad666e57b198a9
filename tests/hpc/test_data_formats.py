"""JSON lines, Parquet and compressed files: the documents that other tools wrote, and what is wrong with bad ones."""

import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from corpora import content, corpus, documents, every, make_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from asiarch.hpc.cli.data import data
from asiarch.hpc.data import prepare
from asiarch.hpc.data.documents import Position, read_documents
from asiarch.hpc.data.formats import read_file
from asiarch.hpc.data.sources import SourceFile, resolve_sources, walk
from asiarch.hpc.data.tokenizer import END_TOKENS, load_tokenizer
from asiarch.hpc.data.tokenizer_training import train_tokenizer
from asiarch.models.errors import UserError

TEXTS = list(corpus(80, seed=3).values())


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": n, column: text}) + "\n" for n, text in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: list[str], column: str = "text") -> Path:
    pq.write_table(pa.table({"id": range(len(texts)), column: texts}), path, row_group_size=17)
    return path


def compress(path: Path, suffix: str) -> Path:
    plain = path.read_bytes()
    packed = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda raw: bytes(pa.Codec("zstd").compress(raw, asbytes=True)),
    }[suffix]
    # in two parts, as parallel compressors write them
    half = len(plain) // 2
    out = path.with_name(path.name + suffix)
    out.write_bytes(packed(plain[:half]) + packed(plain[half:]))
    path.unlink()
    return out


WRITERS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda folder: write_jsonl(folder / "a.jsonl", TEXTS),
    "parquet": lambda folder: write_parquet(folder / "a.parquet", TEXTS),
    "gz": lambda folder: compress(write_jsonl(folder / "a.jsonl", TEXTS), ".gz"),
    "bz2": lambda folder: compress(write_jsonl(folder / "a.ndjson", TEXTS), ".bz2"),
    "xz": lambda folder: compress(write_jsonl(folder / "a.jsonl", TEXTS), ".xz"),
    "zst": lambda folder: compress(write_jsonl(folder / "a.jsonl", TEXTS), ".zst"),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "folder"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_row_becomes_one_document(tmp_path: Path, kind: str, named: bool) -> None:
    (tmp_path / "source").mkdir()
    path = WRITERS[kind](tmp_path / "source")
    manifest = prepare(
        [path if named else path.parent], tmp_path / "out", validation=0.2, test=0.2, shard_tokens=20_000
    )
    assert sorted(every(documents(tmp_path / "out"))) == sorted(TEXTS)
    written = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    assert written == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_text_is_cut_as_the_plain_file(tmp_path: Path, suffix: str) -> None:
    text = "".join(f"line {number}\n\n" for number in range(400_000))
    plain = make_folder(tmp_path / "plain", {"a.txt": text}) / "a.txt"
    packed = compress(make_folder(tmp_path / "packed", {"a.txt": text}) / "a.txt", suffix)
    for path, out in ((plain, "one"), (packed, "two")):
        prepare([path], tmp_path / out)
    assert documents(tmp_path / "one") == documents(tmp_path / "two")


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 80), kind=st.sampled_from(sorted(WRITERS)))
def test_reading_can_start_after_any_document(
    tmp_path_factory: pytest.TempPathFactory, start: int, kind: str
) -> None:
    path = WRITERS[kind](tmp_path_factory.mktemp("source"))
    file = SourceFile(path, path.stat().st_size, 0, 0, named=True)
    rows = list(read_file(file, 0, "text"))
    assert [row.text for row in rows] == TEXTS
    assert rows[-1].read == file.size or kind in ("gz", "xz")  # trailers are read ahead or not at all
    assert list(read_file(file, rows[start - 1].next_place if start else 0, "text")) == rows[start:]


def _line(number: int, line: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        lines = write_jsonl(folder / "f.jsonl", TEXTS).read_bytes().splitlines(keepends=True)
        lines[number - 1] = line + b"\n"
        (folder / "f.jsonl").write_bytes(b"".join(lines))
        return folder / "f.jsonl"

    return write


def _cut(kind: str, share: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = WRITERS[kind](folder)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return write


def _bad_utf8_parquet(folder: Path) -> Path:
    good, bad = [b"fine"] * 40, [b"\xff\xfe"]
    column = pa.array(good + bad, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), folder / "f.parquet")
    return folder / "f.parquet"


def _numbers_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [1, 2]}), folder / "f.parquet")
    return folder / "f.parquet"


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "json": (_line(7, b'{"text": "a'), r"f\.jsonl: not JSON \(.*\) at row 7; mend it"),
    "utf8": (_line(9, b'{"text": "\xff"}'), r"f\.jsonl: not UTF-8 at row 9"),
    "array": (_line(2, b"[1]"), r"f\.jsonl: not an object but list at row 2"),
    "number": (_line(80, b'{"text": 3}'), r"f\.jsonl: 'text' holds int, not text at row 80"),
    "surrogate": (_line(4, b'{"text": "\\ud800"}'), r"half a surrogate pair.* at row 4"),
    "deep": (_line(5, b'{"text":' + b"[" * 200_000), r"f\.jsonl: not JSON .* at row 5"),
    "key": (_line(3, b'{"body": "a"}'), r"f\.jsonl: no 'text' among its columns \(body\); name .* at row 3"),
    "cut gz": (_cut("gz", 0.7), r"a\.jsonl\.gz: damaged or cut short as a \.gz file"),
    "cut bz2": (_cut("bz2", 0.7), r"a\.ndjson\.bz2: damaged or cut short as a \.bz2 file"),
    "cut xz": (_cut("xz", 0.7), r"a\.jsonl\.xz: damaged or cut short as a \.xz file"),
    "cut zst": (_cut("zst", 0.7), r"a\.jsonl\.zst: damaged or cut short as a \.zst file"),
    "cut parquet": (_cut("parquet", 0.7), r"a\.parquet: not a whole Parquet file"),
    "empty parquet": (_cut("parquet", 0), r"a\.parquet: not a whole Parquet file"),
    "empty jsonl": (_cut("jsonl", 0), r"a\.jsonl: empty"),
    "no rows": (lambda folder: write_parquet(folder / "f.parquet", []), r"its column 'text' holds null"),
    "null": (lambda folder: write_jsonl(folder / "f.jsonl", ["", " "]), r"f\.jsonl: empty"),
    "column": (
        lambda folder: write_parquet(folder / "f.parquet", TEXTS, "body"),
        r"no 'text' among its columns \(id, body\)",
    ),
    "numbers": (_numbers_parquet, r"its column 'text' holds int64, not text"),
    "parquet utf8": (_bad_utf8_parquet, r"f\.parquet: not UTF-8 at row 41"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_is_named_by_file_and_row(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        prepare([write(tmp_path)], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_rows_in_a_folder_are_left_out_and_listed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _line(7, b"nonsense")(source)
    _cut("parquet", 0.5)(source)
    manifest = prepare([source], tmp_path / "out", validation=0.2, test=0.2)
    assert sorted(every(documents(tmp_path / "out"))) == sorted(TEXTS[:6] + TEXTS[7:])
    assert manifest.skipped["count"] == 2
    assert any("f.jsonl at row 7: not JSON" in line for line in manifest.skipped["first"])
    assert any("a.parquet: not a whole Parquet file" in line for line in manifest.skipped["first"])


def test_damage_in_the_middle_of_parquet_names_the_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "f.parquet", TEXTS * 40)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 2000] = os.urandom(2000)
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match=r"f\.parquet: .* at row \d+; mend it"):
        prepare([path], tmp_path / "out")


def test_text_column_of_the_command(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "f.jsonl", TEXTS, "body")
    arguments = ["prepare", str(path), "--out", str(tmp_path / "out"), "--text-column", "body"]
    result = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "tokens/s" in result.stdout
    assert sorted(every(documents(tmp_path / "out"))) == sorted(TEXTS)


@pytest.mark.parametrize("near_duplicates", [False, True])
def test_the_output_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, near_duplicates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asiarch.hpc.data.encoding._BATCH_BYTES", 20_000)
    source = make_folder(tmp_path / "source", corpus(300))
    for name, text in list(corpus(40).items()):
        (source / f"again-{name}").write_text(text)
    train_tokenizer([source], tmp_path / "tokenizer.json", vocabulary=400, sample_bytes=10**6)
    for workers in (1, 3):
        prepare(
            [source],
            tmp_path / str(workers),
            tokenizer=tmp_path / "tokenizer.json",
            near_duplicates=near_duplicates,
            workers=workers,
            shard_tokens=30_000,
        )
    assert content(tmp_path / "1") == content(tmp_path / "3")
    assert len(content(tmp_path / "1")) > 5


SLOW_PREPARATION = """
import sys, time
from asiarch.hpc.data import prepare
import asiarch.hpc.data.encoding as encoding

if __name__ == "__main__":
    encoding._BATCH_BYTES = 2000
    prepare([sys.argv[1]], sys.argv[2], workers=2, progress=lambda now: (print("at", flush=True), time.sleep(0.2)))
"""


def _slow_preparation(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    source = make_folder(tmp_path / "source", corpus(300))
    script = tmp_path / "slow.py"
    script.write_text(SLOW_PREPARATION)
    command = [sys.executable, str(script), str(source), str(tmp_path / "out")]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert parent.stdout is not None
    for _ in range(4):
        assert parent.stdout.readline() == "at\n"
    workers = [
        child for child in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    return parent, workers


def test_workers_die_with_a_killed_preparation(tmp_path: Path) -> None:
    parent, workers = _slow_preparation(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_a_killed_worker_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    parent, workers = _slow_preparation(tmp_path)
    workers[0].kill()
    _, errors = parent.communicate(timeout=60)
    assert "with a smaller --workers goes on" in errors
    assert (tmp_path / "out" / ".prepare" / "record.json").exists()
    prepare([tmp_path / "source"], tmp_path / "out", workers=1)
    assert sorted(every(documents(tmp_path / "out"))) == sorted(corpus(300).values())


def test_a_trained_tokenizer_serves_and_is_the_same_again(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", corpus(200))
    sizes = [
        train_tokenizer([source], tmp_path / f"{name}.json", vocabulary=500, sample_bytes=10**7)
        for name in "ab"
    ]
    assert sizes == [500, 500]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    tokenizer = load_tokenizer(tmp_path / "a.json")
    assert tokenizer.vocab_size == 500
    assert Tokenizer.from_file(str(tmp_path / "a.json")).id_to_token(tokenizer.end_id) == END_TOKENS[0]
    texts = [*corpus(20, seed=9).values(), "nothing of it was seen: ȴ 雪 \x00\x7f 1234567 \r\n  tab\t"]
    encoded = tokenizer.encode(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    tokens, size = sum(map(len, encoded)), sum(len(text.encode()) for text in texts)
    assert tokens < 0.6 * size


def test_a_sample_is_about_as_large_as_asked_for(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", corpus(400))
    total = sum(path.stat().st_size for path in source.iterdir())
    whole = list(read_documents(walk(resolve_sources([source], (), tmp_path / "o")), Position(0, 0), "text"))
    assert whole[-1].read == total
    seen: list[int] = []
    few = train_tokenizer(
        [source],
        tmp_path / "few.json",
        vocabulary=10**6,
        sample_bytes=total // 10,
        progress=lambda now: seen.append(now.bytes_read),
    )
    all_of_it = train_tokenizer([source], tmp_path / "all.json", vocabulary=10**6, sample_bytes=2 * total)
    assert few < all_of_it
    assert seen[-1] == total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--vocabulary": "100"}, "a vocabulary needs 257 tokens or more"),
        ({"--sample": "0"}, "need a positive number of bytes"),
        ({"--out": "there.json"}, r"there\.json is there already"),
        ({"--out": "no/where.json"}, "the folder no of --out does not exist"),
        ({"--sample": "1"}, "no text to learn from"),
    ],
)
def test_bad_arguments_of_tokenizer_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "source", corpus(5))
    (tmp_path / "there.json").write_text("mine")
    options = {"--out": "new.json", "--vocabulary": "300"} | change
    arguments = ["tokenizer", "source", *(word for option in options.items() for word in option)]
    result = CliRunner().invoke(data, arguments)
    assert isinstance(result.exception, UserError)
    assert message.replace("\\", "") in str(result.exception)
    assert (tmp_path / "there.json").read_text() == "mine"
