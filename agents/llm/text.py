"""What may reach a prompt: hostile and foreign text made clean, fenced, and cut to a budget.

Programs were written by an LLM, and logs by such programs: both may hold instructions to the next reader, and a log
may hold what its process saw of this machine. Nothing here makes a model ignore an instruction; it keeps the text
inside marks that it cannot write itself, and keeps out what no prompt should hold.
"""

import contextlib
import getpass
import hashlib
import math
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

# what a byte-pair encoder hardly ever joins; SmolLM2's makes 0.85 to 1.0 of the estimate of programs, prose and logs
_RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]|\n *|[ \t]{2,}|[^\sA-Za-z0-9]")
_LETTERS_A_TOKEN = 5.5
_JOINED = 0.95
_SHORTEST_SECRET = 4
_SHORTEST_VALUE = 12  # of an environment variable that is not called a secret
_SECRET_NAME = re.compile(r"key|token|secret|pass|credential|auth|cookie", re.IGNORECASE)

# strings to the terminal end with BEL or ESC \; the others are short; a lone ESC goes with the control characters
_TERMINAL = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]"
)
# a line that sets a variable, and a variable within a line
_LINE = re.compile(
    r"^[ \t]*(?:(?:export|declare -x|setenv)[ \t]+\w+|[A-Z_][A-Z0-9_]{2,}=(?!=)|\w*_proxy=).*$|^.*\benviron\(\{.*$",
    re.MULTILINE,
)
_VARIABLE = re.compile(
    r"(?<!\w)([A-Z][A-Z0-9_]{2,}=|['\"][A-Z][A-Z0-9_]{2,}['\"]: ?)(?!=)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s'\"]+)"
)
_SECRET = re.compile(
    r"\b(?:sk|hf|pypi|ghp|gho|ghs|github_pat|glpat|xox[a-z])[-_][A-Za-z0-9_-]{8,}|\bAKIA[0-9A-Z]{16}\b"
    r"|(?i:\b(?:bearer|basic)) +[A-Za-z0-9+/=._~-]{8,}"
    r"|(?i:\b(?:api[-_ ]?key|access[-_ ]?token|token|password|secret)\b[\"']?\s*[:=]\s*)\S+"
    r"|\b[A-Za-z0-9+/_-]{40,}={0,2}"
    r"|-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|\Z)"
)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", re.IGNORECASE)
# a path from the root or the home folder keeps its last part, which names the file of a traceback
_PATH = re.compile(
    r"(?<![\w.)\]])~?/(?:[^\s/:'\"()<>,;|]+/+)+([^\s/:'\"()<>,;|]*)|(?<![\w.)\]])[A-Za-z]:\\\S+"
)


def tokens(text: str) -> int:
    """An estimate, rather on the high side, of how many tokens a text is, without the model's tokenizer at hand."""
    runs = 0
    for run in _RUN.findall(text):
        if run.isascii():
            runs += math.ceil(len(run) / _LETTERS_A_TOKEN) if run.isalpha() else 1
        else:
            runs += len(run.encode("utf-8", "replace"))  # at worst a token a byte
    return math.ceil(_JOINED * runs)


def printable(text: str) -> str:
    """Line ends as \\n, and neither terminal control sequences nor characters that cannot be seen."""
    text = _TERMINAL.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one)[0] != "C")


def clean(text: str, secrets: Iterable[str] | None = None) -> str:
    """A log or another text from a machine without paths, addresses, variables, keys and control characters.

    `secrets` are texts to leave out wherever they are; this process's own (`own_secrets`) if None. Lines that look
    like environment variables are left out whole. Not for programs, which it would change.
    """
    text = printable(text)
    for secret in own_secrets() if secrets is None else secrets:
        if len(secret) < _SHORTEST_VALUE and secret.isalnum():  # a user's name may be part of a word
            text = re.sub(rf"(?<!\w){secret}(?!\w)", "[left out]", text)
        else:
            text = text.replace(secret, "[left out]")
    text = _VARIABLE.sub(r"\1[left out]", _LINE.sub("[line left out]", text))
    text = _PATH.sub(lambda path: path[1] or "[path]", _ADDRESS.sub("[address]", text))
    return _SECRET.sub("[left out]", text)


def own_secrets(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What this process knows of its surroundings and no prompt may hold, the longest first."""
    if environment is None:
        return _own_secrets(tuple(sorted(os.environ.items())))
    found = {
        value
        for name, value in environment.items()
        if len(value) >= (_SHORTEST_SECRET if _SECRET_NAME.search(name) else _SHORTEST_VALUE)
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


@lru_cache(maxsize=2)
def _own_secrets(environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    names = [socket.gethostname(), str(Path.home()), str(Path.cwd())]
    with contextlib.suppress(KeyError, OSError):  # a user without a name, as in some containers
        names.append(getpass.getuser())
    found = {*own_secrets(dict(environment)), *(name for name in names if len(name) >= _SHORTEST_SECRET)}
    return tuple(sorted(found - {"root", "localhost"}, key=lambda value: (-len(value), value)))


def fence(text: str, label: str) -> str:
    """The text between marks that it does not hold, so that it cannot end them.

    The mark is made of the text's own hash: to hold it, a text would have to foretell it; one that does gets another.
    """
    text = printable(text).strip("\n")
    salt = 0
    while (mark := hashlib.sha256(f"{salt}{text}".encode("utf-8", "replace")).hexdigest()[:8]) in text:
        salt += 1
    return f"<<{label} {mark}>>\n{text}\n<<end of {label} {mark}>>"


def cut(text: str, budget: int, keep: Literal["end", "both"] = "both") -> str:
    """The text, or as much of it as `budget` tokens hold: its end, or a third of its beginning and its end."""
    if tokens(text) <= budget:
        return text
    note = "\n[{} characters left out]\n"
    room = budget - tokens(note.format(len(text))) - 2  # of the seams
    if room <= 0:
        return ""
    head = text[
        : _most(len(text), lambda count: tokens(text[:count]) <= (room // 3 if keep == "both" else 0))
    ]
    rest = room - tokens(head)
    tail = text[
        len(text) - _most(len(text) - len(head), lambda count: tokens(text[len(text) - count :]) <= rest) :
    ]
    return f"{head}{note.format(len(text) - len(head) - len(tail))}{tail}".lstrip("\n")


def one_line(text: str, longest: int = 300) -> str:
    """The text on one line, cut to so many characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits; 0 always does, and what is less than one that fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
