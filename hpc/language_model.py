"""The LLM that a campaign asks: served by the head, found elsewhere, or read from another run's records."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asiarch.agents.llm.endpoint import Endpoint, Existing
from asiarch.agents.llm.model import Model
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles import planner
from asiarch.agents.llm.server import Server, ServerSettings
from asiarch.agents.llm.transcript import RecordedModel, Remembering, Transcript
from asiarch.agents.llm.vllm_command import check_settings
from asiarch.agents.proposer import KnownCandidate
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.config_llm import LlmConfig
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.research import role_settings
from asiarch.models.baselines import baseline_path
from asiarch.models.errors import UserError


@contextmanager
def open_language_model(
    run: RunLayout, config: CampaignConfig, recorded: RunLayout | None, say: Callable[[str], None]
) -> Iterator[Model | None]:
    """The campaign's LLM, None where it has none; every word to and from it is kept in the campaign's folder.

    A server of the head's own starts at once, loads its weights beside the first trials, and ends with the context.

    Args:
        recorded: the run whose answers are given again, in a replay.
        say: told in a line what becomes of the server.

    Raises:
        UserError: what the configuration names is not there.
    """
    if not config.llm.is_there:
        yield None
        return
    if recorded is not None:
        yield RecordedModel(recorded.llm)
        return
    # imported here: a campaign without an LLM, and a replay, need no client
    try:
        from asiarch.agents.llm.client import VllmModel
    except ImportError as error:
        raise UserError(f"an LLM needs openai's client ({error}): pip install 'asiarch-hpc[llm]'") from None
    llm = config.llm
    assert llm.model is not None
    transcript = Transcript(run.llm)
    with _endpoint(llm, run, say) as endpoint:
        model = VllmModel(endpoint, transcript, concurrency=llm.parallel, sampling=llm.sampling)
        yield Remembering(model, transcript)


def require_language_model(config: CampaignConfig) -> None:
    """Look at what the section `llm` names, starting nothing.

    Raises:
        UserError: there are no weights or no vLLM, a key is missing, or not even a baseline fits the context.
    """
    llm = config.llm
    if not llm.is_there:
        return
    if llm.base_url is not None:
        Existing(llm.base_url, str(llm.model), llm.api_key).wait()
    else:
        check_settings(server_settings(llm))
    if "llm" not in config.proposers:
        return
    prompts, settings = (
        Prompts.load(None if llm.prompts is None else Path(llm.prompts)),
        role_settings(config),
    )
    programs = [
        KnownCandidate(n, name, baseline_path(name).read_text(), {}, None, None, "", None)
        for n, name in enumerate(config.baselines)
    ]
    if not any(planner.fits(program, prompts, settings) for program in programs):
        names = ", ".join(config.baselines)
        raise UserError(
            f"llm.context: {llm.context} tokens do not hold a question with the program of {names} and an answer with "
            "a new one; give it more, or let llm.edits be blocks, whose answers are shorter"
        )


@contextmanager
def _endpoint(llm: LlmConfig, run: RunLayout, say: Callable[[str], None]) -> Iterator[Endpoint]:
    if llm.base_url is not None:
        endpoint = Existing(llm.base_url, str(llm.model), llm.api_key)
        endpoint.wait()  # a missing key is said now
        yield endpoint
        return
    server = Server(server_settings(llm), run.llm / "server.log", say)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def server_settings(llm: LlmConfig) -> ServerSettings:
    """What the head's own server is started with."""
    return ServerSettings(
        model=Path(str(llm.model)),
        python=None if llm.python is None else Path(llm.python),
        tensor_parallel=llm.tensor_parallel,
        max_model_len=llm.context,
        max_num_seqs=llm.parallel,
        dtype=None if llm.dtype == "auto" else llm.dtype,
        gpu_memory_utilization=llm.gpu_memory,
        arguments=llm.arguments,
    )
