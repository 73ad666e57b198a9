"""A program is judged by its syntax tree, loaded, and its mixer found."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from asiarch.models.contract import ContractError, load_mixer_class, parse_program, run_mixer

MIXER = """
class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
"""

REFUSED = [
    "import os",
    "import torch.utils.cpp_extension",
    "import torch.hub as hub",
    "from torch.utils import data",
    "from torch import load",
    "from torch import os",
    "from . import secrets",
    "from torch import *",
    "from asiarch.results import files",
    "import asiarch.kernels\nasiarch.models",
    "import torch\ntorch.os.system('id')",
    "import torch\ntorch.hub.load('a', 'b')",
    "import torch\ntorch.save(1, 'f')",
    "import torch\nt = torch\n",
    "import torch\ntorch = 3",
    "import torch\ntorch.ops.load_library('x.so')",
    "import torch\ntorch._C",
    "import torch\ntorch.manual_seed(0)",
    "import torch.nn.functional as F\nF.cross_entropy = None",
    "import torch.nn.functional as F\nsetattr(F, 'relu', None)",
    "from torch import nn\nsetattr(nn.Linear, 'forward', None)",
    "from torch import nn\nsetattr(nn.Linear.forward, 'a', None)",
    "from torch import nn\nnn.modules.linear.torch.hub",
    "open('/etc/passwd')",
    "f = open",
    "exec('1')",
    "eval('1')",
    "compile('1', 'a', 'eval')",
    "__import__('os')",
    "__builtins__",
    "globals()",
    "vars()",
    "x = 1\nx.__class__",
    "x = 1\nx.__init__.__globals__",
    "x = 1\ngetattr(x, 'a' + 'b')",
    "x = 1\ngetattr(x, '__class__')",
    "x = 1\nf = getattr",
    "def f(x):\n    match x:\n        case object(__class__=c):\n            return c",
    "class A:\n    __match_args__ = ('a',)",
    "x = ['__globals__']",
    "type('A', (), {})",
    "def f():\n    yield 1\nf().gi_frame",
    "x = 1\nx._secret",
    "from typing import get_type_hints",
    "from functools import singledispatch",
    "import torch\ntorch.ones(2).numpy().tofile('x')",
]

ALLOWED = [
    "from __future__ import annotations\nimport math, typing\nimport torch.nn.functional as F",
    "from einops import rearrange\nfrom einops.layers.torch import Rearrange",
    "from asiarch.kernels import delta_rule",
    "from collections.abc import Callable\nfrom functools import partial",
    "from dataclasses import dataclass",
    "import torch\nfrom torch.utils.checkpoint import checkpoint\ntorch.utils.checkpoint.checkpoint",
    "import torch\nx = torch.nn.functional.silu(torch.fft.rfft(torch.ones(4)).real)\nx.trace",
    "import torch\n@torch.compile\ndef f(x: torch.Tensor) -> torch.Tensor:\n    return x",
    "class A:\n    def __init__(self):\n        self._x = 1\n    def __len__(self):\n        return self._x",
    "class A:\n    def f(self):\n        return getattr(self, 'b', None), hasattr(self, 'c')",
    "x = 1\nif __name__ == '__main__':\n    print(type(x))",
]


@pytest.mark.parametrize("source", REFUSED)
def test_policy_refuses(source: str) -> None:
    with pytest.raises(ContractError, match=r"^p\.py:\d+: "):
        parse_program(source, "p.py")


@pytest.mark.parametrize("source", ALLOWED)
def test_policy_allows(source: str) -> None:
    parse_program(source, "p.py")


def test_all_findings_are_named_in_order_with_their_lines() -> None:
    with pytest.raises(ContractError) as caught:
        parse_program("x = 1\nopen('a')\nimport os\n", "p.py")
    text = str(caught.value)
    assert text.startswith("p.py:2: uses open()")
    assert "line 3: imports os" in text
    assert [finding.line for finding in caught.value.findings] == [2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x = 1\ndef f(:\n", r"a\.py:2: syntax error"),
        (b"x = 1\n# \xff\n", r"a\.py:2: is not UTF-8"),
        (b"x = 1\0", r"a\.py:1: "),
        (b"x = 1\n\n1 / 0\n", r"a\.py:3: raised ZeroDivisionError"),
        (b"raise SystemExit(3)\n", r"a\.py:1: raised SystemExit"),
        (b"from torch import nothing_of_this_name\n", r"a\.py:1: raised ImportError"),
        (b"x = 1\n", r"a\.py:1: defines no torch.nn.Module"),
        (b"-" * 100_000 + b"1", r"a\.py:1: "),
    ],
)
def test_a_file_that_cannot_be_loaded(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(data)
    with pytest.raises(ContractError, match=message):
        load_mixer_class(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"a\.py: cannot be read: No such file"):
        load_mixer_class(tmp_path / "a.py")


def test_the_mixer_is_the_class_that_no_other_uses() -> None:
    source = (
        "import torch\nfrom torch import nn\n"
        "class Gate(nn.Module):\n    pass\n"
        "class Base(nn.Module):\n    pass\n"
        "def make():\n    return Gate()\n"
        "KINDS = {'norm': None}\n"
        "class Top(Base):\n    def __init__(self, **config):\n"
        "        super().__init__()\n        self.gate = make()\n"
        "Alias = Top\n"
        "def build():\n    return Top()\n"
    )
    assert load_mixer_class(source=source).__name__ == "Top"


def test_an_ambiguous_mixer_names_the_classes() -> None:
    source = "from torch import nn\nclass A(nn.Module):\n    pass\nclass B(nn.Module):\n    pass\n"
    with pytest.raises(ContractError, match=r"<candidate>:2: .*A \(line 2\), B \(line 4\)"):
        load_mixer_class(source=source)


def test_loading_twice_gives_separate_modules_and_leaves_the_path_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("from torch import nn\n" + MIXER)
    before = list(sys.path)
    first, second = load_mixer_class(file), load_mixer_class(file)
    assert first is not second
    assert first.__module__ != second.__module__
    assert sys.path == before


def test_the_source_can_be_inspected() -> None:
    mixer = load_mixer_class(source="from torch import nn\n" + MIXER)
    assert "super().__init__()" in inspect.getsource(mixer)
    assert inspect.getsource(mixer.__init__).strip().startswith("def __init__")


class Returns(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, hidden_states: torch.Tensor) -> object:
        return self.value


def test_run_mixer_takes_the_first_of_a_tuple_and_refuses_other_outputs() -> None:
    inputs = torch.zeros(2, 3, 4)
    good = torch.ones(2, 3, 4)
    assert run_mixer(Returns(good), inputs) is good
    assert run_mixer(Returns((good, None, None)), inputs) is good
    for bad, message in (
        (None, "NoneType"),
        ((), "tuple"),
        (torch.ones(2, 3), r"\(2, 3\)"),
        (good.double(), "float64"),
    ):
        with pytest.raises(ContractError, match=message):
            run_mixer(Returns(bad), inputs)
