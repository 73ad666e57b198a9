"""A candidate as a model of transformers: saved, loaded and generating, with its own cache or without."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.decoding import decodes
from asiarch.models.hugging_face import AsiarchConfig, AsiarchForCausalLM
from asiarch.models.language_model import LanguageModel, ModelConfig

DELTA_NET = baseline_path("delta_net").read_text()
# takes a cache and leaves it alone; keeps a tensor that is neither parameter nor persistent buffer
NO_CACHE = """
import torch
from torch import nn

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("fade", torch.linspace(1, 2, hidden_size), persistent=False)

    def forward(self, hidden_states, past_key_values=None, **kwargs):
        count = torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return self.proj(hidden_states.cumsum(1) / count * self.fade)
"""
WITHOUT_ARGUMENT = NO_CACHE.replace("past_key_values=None, **kwargs", "")
SIZES = ModelConfig(31, 2, 16, 2)


def model(program: str, mixer_cache: bool) -> Any:
    torch.manual_seed(0)
    config = AsiarchConfig(31, 16, 2, 2, 24, program, mixer_cache, eos_token_id=30, pad_token_id=30)
    made = AsiarchForCausalLM(config).eval()
    for parameter in made.parameters():  # weights that make the next token depend on the text
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def greedy(made: Any, tokens: Tensor, steps: int) -> Tensor:
    """The likeliest continuation, reading the whole text at each step."""
    for _ in range(steps):
        tokens = torch.cat([tokens, made.model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize(
    ("program", "right"),
    [(DELTA_NET, True), (NO_CACHE, False), (WITHOUT_ARGUMENT, False)],
    ids=["with a cache", "that ignores it", "without the argument"],
)
def test_whether_a_program_decodes_is_found_by_running_it(program: str, right: bool) -> None:
    assert decodes(LanguageModel(SIZES, load_mixer_class(source=program), 24)) is right


@pytest.mark.parametrize(("program", "cached"), [(DELTA_NET, True), (DELTA_NET, False), (NO_CACHE, False)])
def test_generation_is_the_whole_texts(program: str, cached: bool) -> None:
    made = model(program, cached)
    prompt = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    rules = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = greedy(made, prompt, 8)
    assert made.generate(prompt, **rules).tolist() == expected.tolist()
    beams = [made.generate(prompt, num_beams=2, use_cache=use_cache, **rules) for use_cache in (True, False)]
    assert beams[0].tolist() == beams[1].tolist()
    # a padded batch gives each row what it gives alone
    padded = torch.tensor([[30, 30, 3, 1, 4], [9, 2, 6, 5, 3]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    both = made.generate(padded, attention_mask=mask, **rules)
    assert both[0, 2:].tolist() == greedy(made, prompt[:1, :3], 8)[0].tolist()
    assert both[1].tolist() == expected[1].tolist()


def test_a_cached_step_reads_one_token() -> None:
    """Generation with a cache would be no use if it read everything again."""
    made, lengths = model(DELTA_NET, True), []
    made.model.embedding.register_forward_hook(lambda module, given, out: lengths.append(given[0].shape[1]))
    made.generate(torch.tensor([[3, 1, 4]]), max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert lengths == [3, 1, 1, 1, 1]


def test_saving_keeps_every_tensor_and_the_loss(tmp_path: Path) -> None:
    made = model(NO_CACHE, False)
    made.model.blocks[0].mixer.fade += 1
    tokens = torch.arange(20).view(2, 10)
    before = made(tokens, labels=tokens)
    made.save_pretrained(tmp_path)
    again = AsiarchForCausalLM.from_pretrained(tmp_path)
    after = again(tokens, labels=tokens)
    torch.testing.assert_close((after.loss, after.logits), (before.loss, before.logits), rtol=0, atol=0)
    direct = made.model(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(before.loss, direct)
    assert made(tokens, logits_to_keep=1).logits.shape == (2, 1, 31)
