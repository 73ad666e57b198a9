"""What `prepare` puts on the disk: the documents, each in one split, whatever happened on the way."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from corpora import content, corpus, documents, every, make_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.hpc.data import Progress, open_dataset, prepare
from asiarch.hpc.data.manifest import SPLITS
from asiarch.models.errors import UserError


def test_round_trip(tmp_path: Path) -> None:
    texts = corpus(120)
    source = make_folder(tmp_path / "source", texts)
    manifest = prepare([source], tmp_path / "out", validation=0.2, test=0.2, shard_tokens=20_000)
    found = documents(tmp_path / "out")
    assert sorted(every(found)) == sorted(texts.values())
    assert all(found[split] for split in SPLITS)
    assert len(manifest.splits["train"]) > 1
    assert all(shard.tokens <= 20_000 for shards in manifest.splits.values() for shard in shards)
    assert manifest.sources[0]["bytes"] == sum(len(text.encode()) for text in texts.values())
    assert open_dataset(tmp_path / "out", verify=True).manifest == manifest


def test_splits_have_about_their_fractions(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", {str(number): f"document {number}" for number in range(2000)})
    manifest = prepare([source], tmp_path / "out", validation=0.1, test=0.3)
    # five standard deviations of a binomial of 2,000
    assert manifest.documents("validation") == pytest.approx(200, abs=67)
    assert manifest.documents("test") == pytest.approx(600, abs=103)
    other = prepare([source], tmp_path / "other", validation=0.1, test=0.3, seed=1)
    assert set(documents(tmp_path / "out")["test"]) != set(documents(tmp_path / "other")["test"])
    assert other.documents("train") > 0


WORDS = st.lists(st.sampled_from(["a", "b", "ü", "cc"]), min_size=1, max_size=4)
SPACE = st.sampled_from([" ", "\n", "\t ", "\r\n", "  ", "\u00a0", "\n\n"])


@settings(max_examples=25, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), st.data())
def test_equal_documents_never_cross_and_are_kept_once(bags: list[list[str]], data: st.DataObject) -> None:
    variants = {
        f"{number:03d}{copy}": data.draw(SPACE).join(bag) + data.draw(SPACE)
        for number, bag in enumerate(bags)
        for copy in "ab"
    }
    padding = {f"z/{number}": f"unlike {number}" for number in range(40)}
    with tempfile.TemporaryDirectory() as name:
        source = make_folder(Path(name) / "source", {**variants, **padding})
        manifest = prepare([source], Path(name) / "out", validation=0.3, test=0.3)
        found = documents(Path(name) / "out")
    normalised = [" ".join(text.split()) for texts in found.values() for text in texts]
    distinct = {" ".join(text.split()) for text in (*variants.values(), *padding.values())}
    assert sorted(normalised) == sorted(distinct)
    assert manifest.dropped["exact"] == len(variants) + len(padding) - len(distinct)


def test_a_document_has_the_same_split_in_every_corpus(tmp_path: Path) -> None:
    texts = corpus(60)
    whole = make_folder(tmp_path / "whole", texts)
    some = make_folder(
        tmp_path / "some", {f"q{name}": f" {text}\n" for name, text in list(texts.items())[20:]}
    )
    prepare([whole], tmp_path / "a", validation=0.3, test=0.3)
    prepare([some], tmp_path / "b", validation=0.3, test=0.3)
    first, second = documents(tmp_path / "a"), documents(tmp_path / "b")
    for split in SPLITS:
        assert {text.strip() for text in second[split]} <= {text.strip() for text in first[split]}


def test_near_duplicates_are_dropped_and_others_kept(tmp_path: Path) -> None:
    rng = random.Random(3)
    vocabulary = [f"word{number}" for number in range(5000)]
    originals = [rng.choices(vocabulary, k=400) for _ in range(40)]
    texts = {}
    for number, words in enumerate(originals):
        texts[f"{number:02d}-a"] = " ".join(words)
        # 4 replaced words change at most 20 of 396 shingles on each side: Jaccard similarity of 0.9 or more
        near = list(words)
        for place in rng.sample(range(400), 4):
            near[place] = "changed"
        texts[f"{number:02d}-b"] = " ".join(near)
        # the same words in another order share no shingle: not a near duplicate
        texts[f"{number:02d}-c"] = " ".join(rng.sample(words, 400))
    source = make_folder(tmp_path / "source", texts)
    manifest = prepare([source], tmp_path / "out", near_duplicates=True, validation=0.2, test=0.2)
    found = documents(tmp_path / "out")
    kept = sorted(every(found))
    assert kept == sorted(text for name, text in texts.items() if not name.endswith("b"))
    assert manifest.dropped == {"exact": 0, "near": 40}


def test_long_files_are_cut_at_blank_lines_and_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    paragraphs = [f"{number} " + "slow é " * rng.randint(10, 300) for number in range(1100)]
    text = "\n \n".join(paragraphs)
    assert len(text) > 2**20
    (tmp_path / "long.txt").write_text(text)
    prepare([tmp_path / "long.txt"], tmp_path / "out", validation=0.1, test=0.1)
    found = documents(tmp_path / "out")
    pieces = sorted(every(found), key=lambda piece: int(piece.split()[0]))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) >= 8192 for piece in pieces[:-1])
    # in a folder it is cut in the same way
    make_folder(tmp_path / "folder", {"long.txt": text})
    prepare([tmp_path / "folder"], tmp_path / "again", validation=0.1, test=0.1)
    assert documents(tmp_path / "again") == found


def test_a_line_longer_than_any_document_is_cut_between_characters(tmp_path: Path) -> None:
    rng = random.Random(2)
    text = "".join(rng.choices("aé慢🙂", k=1_500_000))
    (tmp_path / "line.txt").write_text(text)
    prepare([tmp_path / "line.txt"], tmp_path / "out", validation=0, test=0)
    assert "".join(documents(tmp_path / "out")["train"]) == text


def test_standard_library(tmp_path: Path) -> None:
    import email.parser

    manifest = prepare(["stdlib"], tmp_path / "out", validation=0.05)
    found = documents(tmp_path / "out")
    assert Path(email.parser.__file__).read_text() in every(found)
    assert manifest.tokens("train") > 5e6
    assert min(len(found[split]) for split in SPLITS) >= 5


ARGUMENTS = {"validation": 0.2, "test": 0.2, "shard_tokens": 8_000, "near_duplicates": True}


def _prepare_until(source: Path, out: Path, calls: int) -> None:
    """Prepare, and die as if by `kill -9` at the given call of any function, Python's own or C."""
    left = calls

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    prepare([source], out, **ARGUMENTS)
    sys.setprofile(None)


def _count_calls(source: Path, out: Path) -> int:
    total = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal total
        total += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        prepare([source], out, **ARGUMENTS)
    finally:
        sys.setprofile(None)
    return total


def _killed(source: Path, out: Path, calls: int) -> bool:
    child = multiprocessing.get_context("fork").Process(target=_prepare_until, args=(source, out, calls))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # small batches, so that a corpus of a second has many records
    monkeypatch.setattr("asiarch.hpc.data.encoding._BATCH_BYTES", 4_000)
    source = make_folder(tmp_path / "source", {**corpus(60), "bad.txt": "", "b/copy": corpus(1)["0000.txt"]})
    total = _count_calls(source, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    assert len(expected) > 8
    rng = random.Random(7)
    out = tmp_path / "out"
    deaths = 0
    for _ in range(6):
        # die again and again on the way to one dataset, then compare
        for _ in range(4):
            deaths += _killed(source, out, rng.randint(1, total * 2 // 3))
            if not (out / "manifest.json").exists() and out.exists():
                with pytest.raises(UserError, match="not a prepared dataset"):
                    open_dataset(out)
        prepare([source], out, **ARGUMENTS)
        assert content(out) == expected
        shutil.rmtree(out)
    assert deaths >= 10


def test_resuming_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asiarch.hpc.data.encoding._BATCH_BYTES", 4_000)
    source = make_folder(tmp_path / "source", corpus(90))
    seen: list[Progress] = []

    class Stop(Exception):
        pass

    def stop(now: Progress) -> None:
        if now.documents > 60:
            raise Stop

    with pytest.raises(Stop):
        prepare([source], tmp_path / "out", **ARGUMENTS, progress=stop)
    before = (tmp_path / "out" / "train-00000.bin").stat()
    prepare([source], tmp_path / "out", **ARGUMENTS, progress=seen.append)
    after = (tmp_path / "out" / "train-00000.bin").stat()
    assert 30 < seen[0].documents <= 70
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert seen[-1].documents == 90
    assert seen[-1].bytes_read == seen[-1].bytes_total


MEASURE_MEMORY = """
import sys
from asiarch.hpc.data import prepare

halfway = None

def high_water_kb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

def measure(progress):
    global halfway
    if halfway is None and progress.bytes_read > progress.bytes_total / 2:
        halfway = high_water_kb()

prepare([sys.argv[1]], sys.argv[2], validation=0.1, test=0.1, progress=measure)
print(high_water_kb() - halfway)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    paragraph = "some words of a paragraph\n" * 20
    block = "".join(f"{number}\n{paragraph}\n" for number in range(2000))
    with (tmp_path / "text").open("w") as handle:
        handle.writelines(f"{copy}\n{block}" for copy in range(64))
    size = (tmp_path / "text").stat().st_size
    assert size > 60e6
    child = [sys.executable, "-c", MEASURE_MEMORY, str(tmp_path / "text"), str(tmp_path / "out")]
    grown = subprocess.run(child, capture_output=True, text=True, cwd=tmp_path, check=True)
    # buffers have their full size after some 20 MB; the second half, above 30 MB, must add next to nothing
    assert int(grown.stdout) * 1024 < size / 16
