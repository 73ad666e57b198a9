"""Bad input to `prepare` and to the reader: one line that names the place."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asiarch.hpc.cli.data import data
from asiarch.hpc.data import open_dataset, prepare
from asiarch.models.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"document {number}\n" * 20)
    return folder


@pytest.fixture
def dataset(source: Path, tmp_path: Path) -> Path:
    prepare([source], tmp_path / "dataset", validation=0.3, test=0.3, shard_tokens=2000)
    return tmp_path / "dataset"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\nfine\nbad \xff here", r"f\.txt: not UTF-8 at byte 14 \(line 3\)"),
        (b"a\nb\0c", r"f\.txt: not text, a zero byte at byte 3 \(line 2\)"),
        (b"", r"f\.txt: empty"),
        (b" \n\t\n", r"f\.txt: empty"),
        (b"ok line\n\n" * 300_000 + b"\xc3", r"f\.txt: not UTF-8 at byte 2700000 \(line 600001\)"),
    ],
    ids=["utf8", "zero", "empty", "blank", "late"],
)
def test_a_bad_named_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        prepare([tmp_path / "f.txt"], tmp_path / "out")
    assert "\n" not in str(error.value)
    # nothing is left that would stand in the way once it is mended
    assert not (tmp_path / "out").exists()


def test_bad_files_in_a_folder_are_skipped_and_listed(source: Path, tmp_path: Path) -> None:
    (source / "bad").write_bytes(b"ab\xff")
    (source / "picture").write_bytes(b"\x89PNG\0\0")
    (source / "empty").touch()
    (source / "gone").symlink_to(tmp_path / "nowhere")
    (source / ".hidden").write_text("never read")
    os.mkfifo(source / "pipe")
    manifest = prepare([source], tmp_path / "out", validation=0.3, test=0.3)
    assert sum(manifest.documents(split) for split in manifest.splits) == 60
    assert manifest.skipped["count"] == 4
    assert [Path(line.split(":")[0]).name.split(" ")[0] for line in manifest.skipped["first"]] == [
        "bad",
        "empty",
        "gone",
        "picture",
    ]
    assert any("not UTF-8" in line and "byte 2" in line for line in manifest.skipped["first"])


def test_suffixes(source: Path, tmp_path: Path) -> None:
    (source / "code.py").write_text("print()")
    out = tmp_path / "out"
    manifest = prepare([source], out, suffixes=[".py"], validation=0, test=0)
    assert manifest.documents("train") == 1
    with pytest.raises(UserError, match=r"has no \.rs files"):
        prepare([source], tmp_path / "none", suffixes=[".rs"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": -0.1}, "validation fraction -0.1"),
        ({"validation": 0.6, "test": 0.5}, "leave nothing for training"),
        ({"shard_tokens": 0}, "at least 1 token"),
        ({"tokenizer": "missing.json"}, r"missing\.json cannot be read"),
        (
            {"validation": 1e-9},
            "the validation split would be empty: 60 distinct documents.*raise --validation",
        ),
    ],
)
def test_bad_arguments(source: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare([source], tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_output_folder_is_never_taken_from_somebody_else(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="lies inside the source"):
        prepare([source], source / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        prepare([source], tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_finished_folder_is_left_alone_and_other_arguments_refused(source: Path, dataset: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in dataset.iterdir()}
    arguments = {"validation": 0.3, "test": 0.3, "shard_tokens": 2000}
    manifest = prepare([source], dataset, **arguments)
    assert manifest == open_dataset(dataset).manifest
    with pytest.raises(UserError, match=r"other arguments \(seed 0, now 5\)"):
        prepare([source], dataset, **arguments, seed=5)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in dataset.iterdir()} == before


def test_an_interrupted_folder_refuses_other_arguments_and_changed_sources(
    source: Path, tmp_path: Path
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([source], tmp_path / "out", validation=0.3, test=0.3, progress=interrupt)
    with pytest.raises(UserError, match="other arguments"):
        prepare([source], tmp_path / "out", validation=0.2, test=0.3)
    (source / "7.txt").write_text("another text")
    with pytest.raises(UserError, match="the sources changed"):
        prepare([source], tmp_path / "out", validation=0.3, test=0.3)


def test_two_processes_do_not_write_one_folder(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "out" / ".prepare"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is preparing"):
            prepare([source], tmp_path / "out", validation=0.3, test=0.3)
    prepare([source], tmp_path / "out", validation=0.3, test=0.3)


def test_a_corrupt_shard_is_found(dataset: Path) -> None:
    path = dataset / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    open_dataset(dataset)
    with pytest.raises(UserError, match=r"train-00001\.bin is corrupt: its sha256"):
        open_dataset(dataset, verify=True)
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"train-00001\.bin is corrupt: \d+ bytes"):
        open_dataset(dataset)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001\.bin cannot be read"):
        open_dataset(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"format": "else"}, "is not the manifest"),
        ({"dtype": "<f4"}, "damaged"),
        ({"splits": {"train": [{"file": "x"}]}}, "damaged"),
        ({"end_id": 300}, "damaged"),
    ],
)
def test_a_bad_manifest(dataset: Path, change: dict, message: str) -> None:
    path = dataset / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        open_dataset(dataset)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        open_dataset(dataset)


def test_a_split_that_was_not_made(source: Path, tmp_path: Path) -> None:
    prepare([source], tmp_path / "out", validation=0.3, test=0)
    with pytest.raises(UserError, match=r"no 'test' split; it has train, validation"):
        open_dataset(tmp_path / "out").split("test")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data, ["prepare", *map(str, arguments)])


def test_command(source: Path, tmp_path: Path) -> None:
    arguments = (
        source,
        "--out",
        tmp_path / "out",
        "--validation",
        0.3,
        "--test",
        0.3,
        "--shard-tokens",
        "2k",
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    manifest = open_dataset(tmp_path / "out", verify=True).manifest
    assert manifest.arguments["shard_tokens"] == 2000
    assert f"{manifest.documents('test')} documents" in result.output
    assert "id 256 ends a document" in result.output
    again = run(*arguments)
    assert again.exit_code == 0
    assert "finished already" in again.output
    refused = run(*arguments, "--seed", 1)
    assert isinstance(refused.exception, UserError)


@pytest.mark.parametrize("text", ["many", "5 M", "-3"])
def test_command_refuses_what_is_no_number_of_tokens(source: Path, tmp_path: Path, text: str) -> None:
    result = run(source, "--out", tmp_path / "out", "--shard-tokens", text)
    assert result.exit_code == 2
    assert "shard-tokens" in result.output
