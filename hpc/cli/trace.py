"""`asiarch-hpc show ID --trace`: how a candidate came about, told in the order in which it happened."""

import json
from pathlib import Path
from typing import Any

import click

from asiarch.agents.llm.transcript import Asked, Text, Transcript
from asiarch.hpc.journal import Event, read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.proposals import read_proposal

# of an event, what the story repeats
TOLD = {
    "proposed": ("name", "proposer", "parent", "origins"),
    "accepted": ("seconds",),
    "refused": ("checks", "reason"),
    "submitted": ("rung", "seeds", "jobs"),
    "trial_finished": ("rung", "seed"),
    "trial_interrupted": ("rung", "seed", "cause", "detail"),
    "trial_failed": ("rung", "seed", "cause", "detail"),
    "repaired": ("reason",),
    "promoted": ("rung",),
    "stopped_early": ("reason",),
    "judged": ("score", "reason"),
    "analysed": ("held", "lacking"),
    "cancelled": ("reason",),
}


def print_trace(layout: RunLayout, number: int) -> None:
    """What it saw, what was thought and written, what broke, how it was mended, what came out."""
    proposal = read_proposal(layout.proposal(number))
    _print_sources(proposal)
    attempts = {
        (attempt["role"], attempt["turn"]): attempt for attempt in _attempts(layout, number, proposal)
    }
    told: list[tuple[str, str]] = []
    transcript = Transcript(layout.llm, read_only=True)
    for call in transcript.calls():
        if call.candidate == number:
            checked = _checked(attempts.get((call.role, call.turn)), layout.drafts(number))
            told.append((call.time, _said(call, transcript.texts(call)) + (checked if call.final else "")))
    told += [
        (event["time"], _happened(event))
        for event in read_journal(layout.root)
        if event.get("candidate") == number and event["event"] in TOLD
    ]
    for time, text in sorted(told, key=lambda one: one[0]):
        click.echo(f"\n{time[:19]}Z {text}")


def _attempts(layout: RunLayout, number: int, proposal: dict[str, Any]) -> list[dict[str, Any]]:
    """All programs that the LLM wrote for the candidate, with what the checks said of them."""
    attempts: list[dict[str, Any]] = list(proposal.get("notes", {}).get("attempts", []))
    for path in sorted(layout.candidate(number).glob("repair*.json")):
        attempts += json.loads(path.read_text())["attempts"]
    return attempts


def _print_sources(proposal: dict[str, Any]) -> None:
    notes = proposal.get("notes", {})
    origin = "" if proposal["parent"] is None else f" from candidate {proposal['parent']}"
    click.echo(f"{proposal['name']}, by {proposal['proposer']}{origin}")
    for name in ("shown_cards", "used_cards", "used_candidates", "novelty", "failed"):
        if notes.get(name):
            value = notes[name]
            words = ", ".join(str(one) for one in value) if isinstance(value, list) else _plain(str(value))
            click.echo(f"{name.replace('_', ' ')}: {words}")


def _said(call: Asked, text: Text) -> str:
    """The call in a line, and what was asked and answered below it."""
    head = (
        f"{call.role} turn={call.turn} outcome={call.outcome} tokens={call.tokens_in}+{call.tokens_out} "
        f"seconds={call.latency_s:.1f} {_plain(call.detail)}".rstrip()
    )
    asked = [f"  | {_plain(line)}" for line in text.user.splitlines()]
    return "\n".join([head, *asked, *(f"  {line}" for line in _answer_lines(text.answer))])


def _answer_lines(answer: str) -> list[str]:
    """A field a line; programs as they are."""
    try:
        fields = json.loads(answer)
        assert isinstance(fields, dict)
    except (ValueError, AssertionError):
        return [_plain(line) for line in answer.splitlines()]
    lines = []
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value)
        first, *rest = text.splitlines() or [""]
        lines += [_plain(f"{name}: {first}"), *(_plain(f"  {line}") for line in rest)]
    return lines


def _happened(event: Event) -> str:
    values = {name: event[name] for name in TOLD[event["event"]] if event.get(name) not in (None, [], "")}
    if event["event"] == "trial_finished":
        values["validation_loss"] = f"{event['summary']['validation_loss']:.4f}"
    return " ".join([event["event"], *(f"{name}={_plain(str(value))}" for name, value in values.items())])


def _checked(attempt: dict[str, Any] | None, drafts: Path) -> str:
    """What became of the program that a call gave."""
    if attempt is None or not attempt["program"]:
        return ""
    found = [f"  {refusal['name']}: {_plain(refusal['message'])}" for refusal in attempt["refusals"]]
    verdict = "refused" if found else "accepted"
    return "\n".join([f"\n{verdict} program={drafts / attempt['program'] / 'architecture.py'}", *found])


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
