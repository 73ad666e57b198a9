"""Downstream benchmarks (LAMBADA, HellaSwag, ...) through lm-eval, from local copies alone.

Importing this needs the extra `eval` and takes seconds: only those who evaluate do.
"""

import logging
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from asiarch.hpc.config_evaluation import DownstreamConfig
from asiarch.models.errors import UserError

# read when lm-eval's libraries are imported; without them a missing copy is looked for in the network for minutes
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval would fork a pool to bootstrap errors

import lm_eval
import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, distributed, nn

from asiarch.hpc.data.tokenizer import Tokenizer
from asiarch.hpc.training.ranks import Ranks
from asiarch.results.trial import TaskResult

# where the literature on linear attention reports the score normalised by length (GLA, arXiv 2312.06635)
LENGTH_NORMALISED = ("hellaswag", "arc_challenge")

Request = tuple[tuple[str, str], list[int], list[int]]


class MixerLM(TemplateLM):
    """A language model of ours as lm-eval calls it. All ranks make the same calls and share the requests.

    Args:
        model: called as model(tokens), (batch, length) int64; returns logits (batch, length, vocabulary).
        length: tokens in a sequence at most; what is longer loses its beginning.
        batch_size: sequences in one forward pass.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, length: int, batch_size: int, ranks: Ranks
    ) -> None:
        super().__init__()
        self.model = model
        self.text_tokenizer = tokenizer
        self.length = length
        self.batch_size = batch_size
        self.ranks = ranks
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        return self.text_tokenizer.end_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        ids: list[int] = self.text_tokenizer.encode([string])[0].tolist()
        return ids

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        # the longest first: what does not fit in memory fails at once, and neighbours are of like length
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        world = self.ranks.world
        per_rank = -(-len(order) // world)
        # every rank makes as many passes, since a partitioned model needs them all
        mine = [order[min(n * world + self.ranks.rank, len(order) - 1)] for n in range(per_rank)]
        own: dict[int, tuple[float, bool]] = {}
        for start in range(0, per_rank, self.batch_size):
            part = mine[start : start + self.batch_size]
            own.update(zip(part, self._score([requests[i] for i in part]), strict=True))
        shares = [own] * world
        if world > 1:
            distributed.all_gather_object(shares, own)
        scores = {index: score for share in shares for index, score in share.items()}
        return [scores[index] for index in range(len(requests))]

    @torch.no_grad()
    def _score(self, requests: Sequence[Request]) -> Iterator[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding gives it) of each continuation after its context."""
        rows = [(context + continuation)[-self.length - 1 :] for _, context, continuation in requests]
        tokens = torch.full((len(rows), max(map(len, rows)) - 1), self.eot_token_id)
        for place, row in enumerate(rows):
            tokens[place, : len(row) - 1] = torch.tensor(row[:-1])
        logits: Tensor = self.model(tokens.to(self._device)).float().log_softmax(-1)
        for place, (row, (_, _, continuation)) in enumerate(zip(rows, requests, strict=True)):
            asked = min(len(continuation), len(row) - 1)
            wanted = torch.tensor(row[len(row) - asked :], device=self._device)
            at = logits[place, len(row) - 1 - asked : len(row) - 1]
            chosen = at.gather(-1, wanted[:, None]).double().sum()
            yield float(chosen), bool((at.argmax(-1) == wanted).all())

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.length, context_len=1
            )
            parts: list[Request] = [(("", ""), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("tasks that generate text are refused when the campaign starts")


def require_tasks(config: DownstreamConfig) -> None:
    """Load each task and its copy once, so that trials find both.

    Raises:
        UserError: a task is unknown, its copy is not there, or it asks for generated text.
    """
    with _copies(config):
        manager = _manager(config.definitions)
        for name in config.tasks:
            if name not in manager.all_tasks:
                raise UserError(
                    f"evaluation.downstream.tasks: lm-eval {lm_eval.__version__} has no task {name!r}, nor has "
                    f"evaluation.downstream.definitions ({config.definitions or 'not set'})"
                )
            try:
                task = manager.load([name])["tasks"][name]
                documents = len(list(task.eval_docs))
            except Exception as error:  # whatever its libraries raise
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise UserError(
                    f"evaluation.downstream: the copy of {name} cannot be read ({reason}); download it where there "
                    "is a network, and name its folder (HF_HOME) as evaluation.downstream.copies"
                ) from None
            if task.OUTPUT_TYPE == "generate_until":
                raise UserError(
                    f"evaluation.downstream.tasks: {name} asks for generated text; choose another"
                )
            if not documents:
                raise UserError(f"evaluation.downstream: the copy of {name} has no examples")


def measure_task(
    model: nn.Module, tokenizer: Tokenizer, name: str, config: DownstreamConfig, length: int, ranks: Ranks
) -> TaskResult:
    """The accuracy on one task, with lm-eval's own standard error. Collective.

    The first `config.examples` examples, the same for every model.
    """
    model.eval()
    with _copies(config):
        results = lm_eval.simple_evaluate(
            MixerLM(model, tokenizer, length, config.batch_size, ranks),
            tasks=[name],
            limit=config.examples,
            bootstrap_iters=2,  # accuracies have a closed form, and nothing else is read
            log_samples=False,
            task_manager=_manager(config.definitions),
        )
    model.train()
    scores: dict[str, Any] = results["results"][name]
    metric = "acc_norm" if name in LENGTH_NORMALISED else "acc"
    if f"{metric},none" not in scores:
        raise UserError(f"lm-eval gives no {metric} for {name}: it has {', '.join(sorted(scores))}")
    score, error = float(scores[f"{metric},none"]), float(scores[f"{metric}_stderr,none"])
    n = int(results["n-samples"][name]["effective"])
    return TaskResult(score, n, error if np.isfinite(error) else 0.0)


@lru_cache
def _manager(definitions: str | None) -> TaskManager:
    # it reads some ten thousand files
    return TaskManager(include_path=definitions)


@contextmanager
def _copies(config: DownstreamConfig) -> Iterator[None]:
    """lm-eval's libraries look into the folder of the copies; they speak up about errors alone.

    They see it through links: they lock and add files even where they only read, and a confined process may not.
    """
    import datasets

    given = config.copies or os.environ.get("HF_HOME") or _home() / ".cache" / "huggingface"
    before = datasets.config.HF_DATASETS_CACHE
    datasets.disable_progress_bars()
    for name in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="asiarch-copies-") as folder:
        links, copies = Path(folder) / "datasets", Path(given) / "datasets"
        if copies.is_dir():
            shutil.copytree(copies, links, copy_function=os.symlink, ignore=shutil.ignore_patterns("*.lock"))
        datasets.config.HF_DATASETS_CACHE = links
        try:
            with redirect_stderr(StringIO()):  # bars, a line for each step of theirs in a log
                yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


def _home() -> Path:
    """The user's own home: a trial's HOME is a folder of its own."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir)
