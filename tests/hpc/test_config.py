"""The configuration: presets load, mistakes are named by file, line and key, and a frozen copy is equal."""

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.hpc.cli.main import main
from asiarch.hpc.config import PRESETS, CampaignConfig, config_hash, freeze, load_config, load_frozen
from asiarch.models.baselines.delta_net import DeltaNet
from asiarch.models.errors import UserError
from asiarch.models.language_model import ModelConfig, reference_parameters

HEAD = "name: c\npreset: demo\nseed: 0\n"


def load(folder: Path, text: str, *overrides: str) -> CampaignConfig:
    path = folder / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load_and_survive_freezing(tmp_path: Path, preset: str) -> None:
    config = load(tmp_path, f"name: c\npreset: {preset}\nseed: 3\ndata: {{train: corpus}}\n")
    (tmp_path / "campaign.yaml").write_text(freeze(config))
    assert load_frozen(tmp_path / "campaign.yaml") == config


@pytest.mark.parametrize(("preset", "millions"), [("explore", 20), ("verify", 340), ("final", 340)])
def test_a_preset_has_the_size_that_its_stage_is_named_for(
    tmp_path: Path, preset: str, millions: float
) -> None:
    """At a vocabulary of 32,000; counted without the memory that the weights would take."""
    sizes = load(tmp_path, f"name: c\npreset: {preset}\nseed: 0\ndata: {{train: corpus}}\n").model
    model = ModelConfig(32_000, sizes.layers, sizes.hidden_size, sizes.num_heads)
    with torch.device("meta"):
        parameters = reference_parameters(model, DeltaNet)
    assert parameters == pytest.approx(millions * 1e6, rel=0.1)


def test_a_stage_does_not_fall_back_to_some_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.train: say what to train on"):
        load(tmp_path, "name: c\npreset: explore\nseed: 0\n")


def test_bare_off_and_an_empty_section_mean_what_they_say(tmp_path: Path) -> None:
    assert load(tmp_path, HEAD + "slurm:\n  # all commented out\n") == load(tmp_path, HEAD)
    assert load(tmp_path, HEAD + "sandbox: off\n").sandbox == "off"
    assert load(tmp_path, HEAD + "llm: {sampling: {}}\n").llm.sampling == {}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40), rate=st.floats(1e-6, 1), seeds=st.integers(1, 9), steps=st.integers(3, 10**6)
)
def test_overrides_win_and_freeze_exactly(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rate: float, seeds: int, steps: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    over = (
        f"seed={seed}",
        f"training.learning_rate={rate!r}",
        f"seeds={seeds}",
        f"training.tokens={2048 * steps}",
    )
    config = load(folder, HEAD, *over)
    assert (config.seed, config.training.learning_rate, config.seeds) == (seed, rate, seeds)
    assert config.training.total_steps == steps
    assert load(folder, freeze(config)) == config


def test_merging_is_deep_and_numbers_may_be_written_as_people_do(tmp_path: Path) -> None:
    config = load(tmp_path, HEAD + "training: {tokens: 1e6}\nevaluation:\n  mqar: {steps: 7}\n")
    assert config.training.tokens == 1_000_000
    assert config.training.length == 256
    assert (config.evaluation.mqar.steps, config.evaluation.mqar.pairs) == (7, 4)


def test_the_hash_is_of_what_decides_the_numbers(tmp_path: Path) -> None:
    base = config_hash(load(tmp_path, HEAD))
    assert config_hash(load(tmp_path, HEAD.replace("name: c", "name: d") + "local: {slots: 5}\n")) == base
    assert config_hash(load(tmp_path, HEAD + "training: {learning_rate: 0.001}\n")) != base
    assert config_hash(load(tmp_path, HEAD + "data: {tokenizer: other.json}\n")) != base


BAD = [
    ("traning: {}", "c.yaml:4: traning: unknown key; did you mean `training`?"),
    ("training:\n  lenght: 5", "c.yaml:5: training.lenght: unknown key; did you mean `length`?"),
    ("model:\n  layers: two", "c.yaml:5: model.layers: need a number, not 'two'"),
    ("model:\n  layers: 0", "c.yaml:5: model.layers: input should be greater than or equal to 1, not 0"),
    ("model: {num_heads: 3}", "c.yaml:4: model: hidden_size 64 is not a multiple of num_heads 3"),
    (
        "model: {match_parameters_to: mamba}",
        "c.yaml:4: model.match_parameters_to: input should be 'delta_net'",
    ),
    ("baselines: [gla]", "baselines must start with model.match_parameters_to (delta_net)"),
    ("baselines: [delta_net, delta_net]", "baselines names one twice"),
    ("programs: a.py", "c.yaml:4: programs: need a list, as in [a, b], not 'a.py'"),
    ("programs: [a.py, ./a.py]", "programs names one twice"),
    ("programs: [nowhere.py]", "c.yaml:4: programs: there is no file /"),
    (
        "programs: [a.py, b.py]\nbudget: {candidates: 1}",
        "programs has 2 files, and budget.candidates, which counts them, is 1",
    ),
    ("training: {length: 100}", "c.yaml:4: training: batch_tokens 2048 is not a multiple of length 100"),
    ("training: {tokens: 100}", "c.yaml:4: training: tokens 100 is less than one batch of 2048 tokens"),
    ("training: {tokens: true}", "c.yaml:4: training.tokens: need a number, not true or false"),
    (
        "training: {precision: fp16}",
        "c.yaml:4: training.precision: input should be 'fp32' or 'bf16', not 'fp16'",
    ),
    ("training: {learning_rate: .nan}", "c.yaml:4: training.learning_rate: input should be"),
    ("training: {checkpoint_every: 10}", "c.yaml:4: training.checkpoint_every: need a time with its unit"),
    ("rungs: [0.5, 0.2, 1.0]", "rungs must rise and end at 1.0"),
    ("rungs: [0.5]", "rungs must rise and end at 1.0"),
    ("rungs: [0.999, 1.0]", "too small or too close"),
    ("rungs: [0.001, 1.0]", "too small or too close"),
    ("promote: true", "c.yaml:4: promote: need a number, not true or false"),
    ("evaluation: {test_tokens: 10}", "10 tokens are less than one text of training.length"),
    ("data: &a {train: *a}", "c.yaml:4: write the value out: *a is not taken here"),
    ("seeds: 0", "c.yaml:4: seeds: input should be greater than or equal to 1, not 0"),
    ("proposers: {gramar: 1.0}", "c.yaml:4: proposers.gramar: input should be 'grammar', 'llm' or 'random'"),
    (
        "proposers: {llm: 1.0}",
        "proposers has llm: name the folder of its weights in llm.model",
    ),
    ("llm: {base_url: 'http://a/v1'}", "c.yaml:4: llm: base_url needs the name that the model has there"),
    ("llm: {answer: 4096}", "c.yaml:4: llm: answer 4096 leaves no room for a question in a context of 2048"),
    ("llm: {sampling: 3}", "c.yaml:4: llm.sampling: need keys and values, as in {key: value}, not 3"),
    ("data: 3", "c.yaml:4: data: need keys and values, as in {key: value}, not 3"),
    ("llm: {sampling: {seed: 3}}", "c.yaml:4: llm.sampling: seed is not to be set here"),
    ("proposers: {grammar: 0.5}", "proposers: the shares sum to 0.5, not to 1"),
    ("policy: {parents: 60}", "c.yaml:4: policy: parents 60 is more than the pool 50"),
    (
        "evaluation:\n  mqar: {length: 8}",
        "c.yaml:5: evaluation.mqar: length 8 is too short: 4 pairs and queries need 16",
    ),
    (
        "evaluation: {recall: {length: 16}}",
        "c.yaml:4: evaluation.recall: length 16 has room for 8 pairs: too few",
    ),
    (
        "evaluation: {fuzzy_recall: {pairs: 7}}",
        "pairs 7 are more than a vocabulary of 24 keeps apart: at most 6",
    ),
    ("evaluation: {fuzzy_recall: {length: 14}}", "a key that comes again needs 16 with 3 pairs"),
    ("evaluation: {downstream: {examples: 0}}", "c.yaml:4: evaluation.downstream.examples: "),
    (
        "evaluation: {tasks: [arc]}",
        "c.yaml:4: evaluation.tasks.0: input should be 'mqar', 'selective_copying', 'induction', 'parity', 's3', "
        "'s5', 'recall', 'noisy_recall', 'fuzzy_recall', 'memorization', 'compression' or 'needle', not 'arc'",
    ),
    ("evaluation: {tasks: [s3, s3]}", "c.yaml:4: evaluation: tasks and downstream.tasks name one twice"),
    (
        "evaluation:\n  selective_copying: {length: 6}",
        "c.yaml:5: evaluation.selective_copying: length 6 is too short: 4 items and marks need 8",
    ),
    (
        "evaluation:\n  induction: {length: 31}",
        "c.yaml:5: evaluation.induction.length: input should be a multiple",
    ),
    ("training: {micro_batch_tokens: much}", "c.yaml:4: training.micro_batch_tokens"),
    (
        "training: {micro_batch_tokens: 100}",
        "c.yaml:4: training: micro_batch_tokens 100 is less than one text of length 256",
    ),
    (
        "training: {schedule: wsd, warmup: 0.6, decay: 0.5}",
        "c.yaml:4: training: warmup 0.6 and decay 0.5 are more than the whole training",
    ),
    ("training: {schedule: linear}", "training.schedule: input should be 'cosine' or 'wsd', not 'linear'"),
    (
        "local: {ranks: 3}",
        "training.batch_tokens / training.length is 8 rows, which 3 ranks cannot share equally",
    ),
    (
        "local: {ranks: 8}\nevaluation:\n  mqar: {batch_size: 12}",
        "evaluation.mqar.batch_size is 12 rows, which 8 ranks cannot share equally",
    ),
    ("training: {optimizer: muon, zero_stage: 3}", "c.yaml:4: training: optimizer muon needs whole matrices"),
    ("watchdog: {implausible: 2}", "c.yaml:4: watchdog.implausible: input should be less than or equal to 1"),
    ("watchdog: {diverged: 0.5}", "c.yaml:4: watchdog.diverged: input should be greater than 1, not 0.5"),
    ("watchdog: {no_progress: 5}", "c.yaml:4: watchdog.no_progress: need a time with its unit"),
    ("sandbox: maybe", "c.yaml:4: sandbox: input should be 'required', 'offered' or 'off', not 'maybe'"),
    ("executor: pbs", "c.yaml:4: executor: input should be 'local' or 'slurm', not 'pbs'"),
    ("model: 3", "c.yaml:4: model: "),
    ("seed: 1", "c.yaml:4: seed: the key is there twice"),
    ("model: {layers: 1, layers: 2}", "c.yaml:4: model.layers: the key is there twice"),
    ("model: [", "c.yaml:5: not valid YAML"),
    ("\tmodel: 1", "c.yaml:4: not valid YAML"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message for _, message in BAD])
def test_a_mistake_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, HEAD + line + "\n")
    assert message in str(caught.value)
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, HEAD + "seeds: 0\nexecutor: pbs\n")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: need `key: value` lines"),
        (b"- 1\n", ":1: need"),
        (b"\xff\xfe", "not UTF-8"),
        (b"name: c\n", "preset"),
    ],
)
def test_files_that_are_no_campaign(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_the_command_line_says_it_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "none.yaml: cannot be read" in result.output


@pytest.mark.parametrize("preset", PRESETS)
def test_init_writes_a_file_that_states_everything(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "new.yaml"
    arguments = ["init", "new", "--preset", preset, "--out", str(path)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert set(yaml.safe_load(path.read_text())) == set(CampaignConfig.model_fields)
    assert load_config(path, ["data.train=stdlib"]).name == "new"
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "is there already" in again.output
