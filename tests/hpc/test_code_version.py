from pathlib import Path

import pytest

from asiarch.hpc.code_version import sources_hash


@pytest.mark.parametrize(
    ("name", "counts"),
    [("a.py", True), ("deeper/cards.yaml", True), ("prompts/judge.md", True), ("notes.txt", False)],
)
def test_programs_yaml_and_prompts_are_sources(tmp_path: Path, name: str, counts: bool) -> None:
    """A head of other sources than the frozen copy starts again from the copy: a changed card is other too."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("one")
    before = sources_hash({"agents": tmp_path})
    file.write_text("two")
    assert (sources_hash({"agents": tmp_path}) != before) == counts
