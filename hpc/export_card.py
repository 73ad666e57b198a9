"""The model card of an exported candidate: what it is, what was measured, how to load it."""

from importlib import metadata
from typing import TYPE_CHECKING

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.proposals import read_proposal
from asiarch.hpc.standings import current_ranking
from asiarch.hpc.state import CampaignState
from asiarch.results.ranking import RankingRow
from asiarch.results.record import TrialRecord

if TYPE_CHECKING:
    from asiarch.hpc.export import Exported


def model_card(run: RunLayout, state: CampaignState, record: TrialRecord, done: "Exported") -> str:
    """README.md, in Markdown with the header that Hugging Face's hub reads."""
    candidate = state.candidates[done.key.candidate]
    reference = state.candidates[0]
    motivation = read_proposal(run.proposal(candidate.id))["motivation"]
    rows = [row for row in current_ranking(run, state).rows if row.candidate == candidate.id]
    version = metadata.version("asiarch-hpc")
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [linear-attention, asiarch-hpc]
---

# {candidate.name}

Candidate {candidate.id:04d} of a campaign of asiarch-hpc, proposed by {candidate.origin}. The token mixer's program
is `architecture.py`.

> {" ".join(motivation.split())}

## Load

Needs `asiarch-hpc` ({version} wrote this folder) and `transformers`. The program in it runs on your machine with
your rights: read it first.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    inputs = tokenizer("def main(", return_tensors="pt")
    print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))

{_decoding(done)}

## Measured

One trial: rung {done.key.rung}, seed {done.key.seed}, {record.parameters:,} parameters, {record.tokens:,} tokens of
training on {record.device}, {record.elapsed_s:,.0f} s. Losses are in nats a token.

{_measurements(record, done)}

{_comparison(rows[0] if rows else None, reference.name)}

Trained by code {record.code_version}, configuration {record.config_hash[:12]}, torch {record.torch}.
"""


def _decoding(done: "Exported") -> str:
    if done.mixer_cache:
        return (
            "It generates with the mixer's cache: token by token it gives the logits of the whole text (checked at "
            "export). Padded batches are read anew at each step."
        )
    return (
        "It generates by reading the whole text anew at each step: with a cache, the program does not give the "
        "logits of the whole text (checked at export), or takes none."
    )


def _measurements(record: TrialRecord, done: "Exported") -> str:
    errors = record.validation.standard_error[-1], record.test.standard_error[-1]
    lines = [
        "| | value | standard error |",
        "|---|---|---|",
        f"| validation loss | {done.recorded_loss:.4f} | {errors[0]:.4f} |",
        f"| validation loss of this folder, loaded with transformers | {done.loaded_loss:.4f} | |",
        f"| test loss | {record.test.loss[-1]:.4f} | {errors[1]:.4f} |",
        f"| bits per byte, test | {record.test.bits_per_byte[-1]:.4f} | |",
    ]
    for name, task in record.tasks.items():
        lines.append(f"| {name} ({task.n} examples) | {task.score:.4f} | {task.standard_error:.4f} |")
    return "\n".join(lines)


def _comparison(row: RankingRow | None, reference: str) -> str:
    """The candidate beside the reference over all seeds, with what chance explains."""
    if row is None:
        return "It has no place in the ranking: seeds or tasks are missing."
    text = (
        f"Over {row.seeds} seeds its test loss is {row.test_loss:.4f}; rank {row.rank} of the campaign at rung "
        f"{row.rung}. This folder holds the seed with the lowest validation loss."
    )
    if row.difference is None or row.low is None or row.high is None or row.p_adjusted is None:
        return text
    survives = "survives" if row.significant else "does not survive"
    return (
        f"{text} Its difference to {reference} at equal parameters, paired by seed, is {row.difference:+.4f} "
        f"[{row.low:+.4f}, {row.high:+.4f}] (95%), adjusted p {row.p_adjusted:.4f}: it {survives} the correction "
        "over every candidate tried."
    )
