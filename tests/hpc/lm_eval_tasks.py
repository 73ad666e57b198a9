"""Small tasks for lm-eval, as a user would define their own."""

import json
from pathlib import Path
from typing import Any

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{choices}
metric_list: [{{metric: {metric}}}]
"""
QUESTIONS: list[dict[str, Any]] = [
    {"question": f"after {letter} comes", "choices": [f"{letter}xyz", chr(ord(letter) + 1)], "answer": n % 2}
    for n, letter in enumerate("abcdefghijklm")
]


def write_definitions(folder: Path) -> Path:
    """A folder of task definitions and their data: two of multiple choice, and one that asks for text."""
    definitions = folder / "definitions"
    definitions.mkdir()
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    choices = 'doc_to_choice: "{{choices}}"'
    for name, kind, extra, metric in (
        ("alphabet", "multiple_choice", choices, "acc"),
        ("hellaswag", "multiple_choice", choices, "acc_norm"),
        ("says", "generate_until", "", "exact_match"),
    ):
        text = TASK.format(name=name, data=data, kind=kind, choices=extra, metric=metric)
        (definitions / f"{name}.yaml").write_text(text)
    return definitions
