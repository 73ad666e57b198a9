"""A candidate's best trained model as a folder that Hugging Face `transformers` loads."""

import json
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asiarch.hpc.config import CampaignConfig, load_frozen
from asiarch.hpc.data import Dataset, evaluation_windows, open_dataset
from asiarch.hpc.evaluation.held_out import held_out_loss
from asiarch.hpc.export_card import model_card
from asiarch.hpc.export_tokenizer import write_tokenizer
from asiarch.hpc.journal import read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.hpc.training.checkpoints import CheckpointFolder, load_checkpoint
from asiarch.hpc.training.ranks import Ranks
from asiarch.models.errors import UserError
from asiarch.results.files import fsync
from asiarch.results.schema import read_trial
from asiarch.results.trial import TrialKey

# relative, in the loss: what the order of sums explains in each precision
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}

MODELING = '''"""Needs the package asiarch-hpc, which defines the model; the mixer's program is in config.json."""

from asiarch.models.hugging_face import AsiarchConfig, AsiarchForCausalLM

__all__ = ["AsiarchConfig", "AsiarchForCausalLM"]
'''


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares: validation losses in nats a token, as recorded and as loaded."""

    folder: Path
    key: TrialKey
    recorded_loss: float
    loaded_loss: float
    mixer_cache: bool


def export(run: RunLayout, candidate_id: int, folder: Path, seed: int | None = None) -> Exported:
    """Write the folder, load it with transformers, and measure it on the campaign's validation text.

    The trial is the candidate's finished one at the highest rung, of the seed with the lowest validation loss
    unless `seed` names another. The folder appears whole or not at all.

    Raises:
        UserError: there is no such candidate, trial or checkpoint; the folder is there already; transformers is
            not installed; or the loaded model does not give the recorded loss.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: name a new folder")
    try:
        import safetensors.torch
        import transformers  # noqa: F401  asked for before anything is written
    except ImportError as error:
        raise UserError(f"export needs {error.name}: pip install 'asiarch-hpc[export]'") from None
    state = CampaignState.replay(read_journal(run.root))
    key = choose_trial(state, candidate_id, seed)
    config = load_frozen(run.config)
    dataset = open_dataset(run.dataset(config))
    weights = final_weights(run, config, key)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        program = run.program(key.candidate).read_text()
        settings = model_settings(config, dataset, weights, program)
        _write_json(temporary / "config.json", settings)
        (temporary / "modeling_asiarch.py").write_text(MODELING)
        (temporary / "architecture.py").write_text(program)
        content = {f"model.{name}": value.clone().contiguous() for name, value in weights.items()}
        safetensors.torch.save_file(content, temporary / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(dataset, config.training.length, temporary)
        settings["mixer_cache"] = _decodes(temporary)
        _write_json(temporary / "config.json", settings)
        recorded = read_trial(run.trial(key.candidate, key.rung, key.seed).result)
        loaded = measure(temporary, config, dataset)
        done = Exported(folder, key, float(recorded.validation.loss[-1]), loaded, settings["mixer_cache"])
        _require_same_loss(done, config)
        (temporary / "README.md").write_text(model_card(run, state, recorded, done))
        for path in temporary.iterdir():
            fsync(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def choose_trial(state: CampaignState, candidate_id: int, seed: int | None) -> TrialKey:
    """The finished trial to export. Raises UserError where there is none."""
    candidate: Candidate | None = state.candidates.get(candidate_id)
    if candidate is None:
        raise UserError(f"no candidate {candidate_id}: there are 0 to {max(state.candidates, default=-1)}")
    finished = candidate.summaries()
    if not finished:
        raise UserError(f"candidate {candidate_id} ({candidate.status}) has no finished trial to export")
    rung = max(summary.key.rung for summary in finished)
    there = [s for s in finished if s.key.rung == rung and seed in (None, s.key.seed)]
    if not there:
        seeds = ", ".join(str(s.key.seed) for s in finished if s.key.rung == rung)
        raise UserError(
            f"candidate {candidate_id} has no finished trial of seed {seed} at rung {rung}: {seeds}"
        )
    return min(there, key=lambda summary: summary.validation_loss).key


def final_weights(run: RunLayout, config: CampaignConfig, key: TrialKey) -> dict[str, Tensor]:
    """Parameters (fp32 masters) and buffers of the language model at the end of a trial, by name."""
    folder = run.trial(key.candidate, key.rung, key.seed).checkpoint
    path = CheckpointFolder(folder).latest()
    if path is None:
        raise UserError(f"{folder}: no sound checkpoint; the weights of this trial are gone")
    state: dict[str, Any] = load_checkpoint(path)
    steps = config.rung_steps(key.rung)
    if state["step"] != steps:
        raise UserError(f"{path}: reached step {state['step']} of {steps}; the final checkpoint is gone")
    return {**state["engine"]["parameters"], **state["ranks"][0]["buffers"]}


def model_settings(
    config: CampaignConfig, dataset: Dataset, weights: dict[str, Tensor], program: str
) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "model_type": "asiarch",
        "architectures": ["AsiarchForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_asiarch.AsiarchConfig",
            "AutoModelForCausalLM": "modeling_asiarch.AsiarchForCausalLM",
        },
        "asiarch_hpc_version": metadata.version("asiarch-hpc"),
        "dtype": "bfloat16" if config.training.precision == "bf16" else "float32",
        "vocab_size": dataset.vocab_size,
        "hidden_size": config.model.hidden_size,
        "num_hidden_layers": config.model.layers,
        "num_attention_heads": config.model.num_heads,
        "ffn_width": weights["blocks.0.ffn.down.weight"].shape[1],
        "max_position_embeddings": config.training.length,
        "eos_token_id": dataset.end_id,
        "bos_token_id": dataset.end_id,
        "pad_token_id": dataset.end_id,
        "mixer_cache": False,
        "program": program,
    }


def load(folder: Path) -> Any:
    """The exported model, as any user of transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)


def measure(folder: Path, config: CampaignConfig, dataset: Dataset) -> float:
    """The loaded model's loss on the campaign's validation windows, in nats a token."""
    length = config.training.length
    tokens = config.evaluation.validation_tokens
    windows = evaluation_windows(dataset.split("validation"), length=length, tokens=tokens)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _Logits(load(folder)).to(device)
    batch_size = max(1, (config.training.micro_batch_tokens or length) // length)
    document_end = dataset.end_id if config.data.document_boundaries else None
    return held_out_loss(model, windows, batch_size, Ranks(), document_end).loss


class _Logits(nn.Module):
    """A model of transformers that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(tokens, cu_seqlens=cu_seqlens, use_cache=False).logits
        return logits


def _decodes(folder: Path) -> bool:
    from asiarch.models.decoding import decodes

    return decodes(load(folder).float().model)


def _require_same_loss(done: Exported, config: CampaignConfig) -> None:
    limit = TOLERANCE[config.training.precision] * done.recorded_loss
    if not abs(done.loaded_loss - done.recorded_loss) <= limit:
        raise UserError(
            f"candidate {done.key.candidate}: the loaded model's validation loss is {done.loaded_loss:.6f}, the "
            f"campaign recorded {done.recorded_loss:.6f}; the program keeps something outside of its parameters "
            "and buffers, or the campaign ran other code (see its folder `code`)"
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
