"""What keeps a candidate's code in: the layers that the kernel offers, put on before the code is loaded.

A confined process, and all that it starts, writes in the folders that it is given and nowhere else (Landlock, or
bubblewrap), opens no network connection and none to a service of the machine (seccomp), signals and traces nothing
outside (Landlock), and has limits on memory, processes, file size and core dumps (rlimits). It can read what its user
can read; what it reads, it cannot send. Ranks that train together over several processes keep the network.

Sources: landlock(7), seccomp(2), bwrap(1); numbers from the kernel's linux/landlock.h and linux/seccomp.h.
"""

import ctypes
import errno
import os
import platform
import re
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final

from asiarch.models.errors import SandboxError

# what an interpreter, its libraries and the ranks of a job need to know; nothing that could be a secret
KEPT: Final = re.compile(
    r"PATH|LANG|LC_\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|USER|TZ|PYTHON\w+"
    r"|(SLURM|CUDA|NVIDIA|NCCL|GLOO|OMP|MKL|KMP|TORCH|TORCHINDUCTOR|TRITON|DS|HF|ASIARCH)_\w+"
)
SECRET: Final = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|JWT", re.IGNORECASE)

DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/nvidia*", "/dev/dri", "/dev/kfd")
PROCESSES: Final = 4096  # threads and processes that a user may have more than when confined

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_WRITES_BY_ABI: Final = {
    1: sum(1 << bit for bit in (1, *range(4, 13))),  # write, remove, make
    2: 1 << 13,  # rename or link between folders
    3: 1 << 14,  # truncate
    5: 1 << 15,  # ioctl on devices
}
_FILE_RIGHTS: Final = 1 << 1 | 1 << 14 | 1 << 15  # those that a rule on a single file can have
_SCOPES: Final = 0b11  # abstract sockets and signals, from ABI 6 on


@dataclass(frozen=True)
class Layers:
    """What this machine offers. `landlock` is the version of its interface, 0 where there is none."""

    landlock: int
    seccomp: bool
    bubblewrap: bool

    @property
    def holds_writing(self) -> bool:
        return self.landlock > 0 or self.bubblewrap

    @property
    def holds_network(self) -> bool:
        return self.seccomp or self.bubblewrap

    def __str__(self) -> str:
        names = [f"Landlock (version {self.landlock})"] if self.landlock else []
        names += ["seccomp"] if self.seccomp else []
        names += ["bubblewrap"] if self.bubblewrap else []
        return ", ".join([*names, "rlimits"])


@lru_cache(maxsize=1)
def offered_layers() -> Layers:
    """Ask the kernel, and try bubblewrap once."""
    return Layers(_landlock_version(), _seccomp_offered(), _bubblewrap_works())


def confine_this_process(
    writable: Sequence[Path],
    *,
    network: bool = False,
    memory_gb: float | None = None,
    file_gb: float | None = None,
) -> None:
    """Put on every layer that a process can put on itself, for good and for all that it starts.

    Args:
        writable: the folders in which it may write; they exist.
        network: whether it may open connections, as ranks in several processes must.
        memory_gb: limit on its private memory in GiB (not that of a GPU); None for no limit.
        file_gb: limit on a file's size in GiB; None for no limit.

    Raises:
        SandboxError: the kernel refuses a layer that it offers.
    """
    limit_this_process(memory_gb, file_gb)
    layers = offered_layers()
    if len(os.listdir("/proc/self/task")) > 1:
        raise SandboxError("sandbox: this process has threads already, which would stay outside")
    if layers.landlock or layers.seccomp:
        _checked(_LIBC.prctl(38, 1, 0, 0, 0), "no new privileges")
    if layers.landlock:
        _hold_writing(writable, layers.landlock, shared_memory=network)
    if layers.seccomp and not network:
        _hold_network()


def limit_this_process(memory_gb: float | None, file_gb: float | None) -> None:
    """Limit processes, memory, file size and core dumps; see `confine_this_process`."""
    limit_resource(resource.RLIMIT_CORE, 0)
    limit_resource(resource.RLIMIT_NPROC, _tasks_of_this_user() + PROCESSES)
    if file_gb is not None:
        limit_resource(resource.RLIMIT_FSIZE, int(file_gb * 2**30))
    if memory_gb is not None:
        # RLIMIT_AS would also count the libraries of a CUDA build, mapped but never touched
        limit_resource(resource.RLIMIT_DATA, int(memory_gb * 2**30))


def require_layers() -> None:
    """Raises SandboxError where this machine cannot hold a program to its folders, or off the network."""
    layers = offered_layers()
    lacking = [] if layers.holds_writing else ["what may be written (Landlock of Linux 5.13, or bubblewrap)"]
    lacking += [] if layers.holds_network else ["the network (seccomp, or bubblewrap)"]
    if lacking:
        raise SandboxError(
            f"sandbox: required, and this machine (it offers {layers}) has no hold on {' or on '.join(lacking)}; "
            "install bubblewrap, or set sandbox: offered to do with what there is"
        )


def bubblewrap(
    command: Sequence[str], writable: Sequence[Path], *, network: bool = False, outlives_parent: bool = False
) -> list[str]:
    """The command under bubblewrap, where the machine offers it: root read-only, `writable` writable.

    bubblewrap stays as its parent: it passes no signal on, and ends with `exit_code`'s 128 + signal.
    """
    if not offered_layers().bubblewrap:
        return list(command)
    wrapped = ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev"]
    wrapped += [] if outlives_parent else ["--die-with-parent"]
    for folder in writable:
        wrapped += ["--bind", str(folder), str(folder)]
    return [*wrapped, *([] if network else ["--unshare-net"]), "--", *command]


def exit_code(code: int) -> int:
    """The exit code as `subprocess` gives it, negative for a signal, where bubblewrap or a shell says 128 + signal."""
    return 128 - code if code > 128 else code


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the environment that a confined process may know."""
    return {
        name: value
        for name, value in environment.items()
        if KEPT.fullmatch(name) is not None and SECRET.search(name) is None
    }


def limit_resource(which: int, value: int) -> None:
    """Lower a limit of this process and its children for good; `which` is one of resource.RLIMIT_*."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _landlock_version() -> int:
    found = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, found)


def _hold_writing(writable: Sequence[Path], version: int, shared_memory: bool) -> None:
    handled = sum(rights for abi, rights in _WRITES_BY_ABI.items() if abi <= version)
    # handled_access_fs, handled_access_net, scoped: a kernel takes as much of it as it knows
    attributes = struct.pack("QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    _checked(rules, "a set of Landlock rules")
    try:
        for folder in [*writable, *([Path("/dev/shm")] if shared_memory else [])]:
            _allow(rules, folder, handled)
        for pattern in DEVICES:
            for device in Path("/").glob(pattern[1:]):
                _allow(rules, device, handled & _FILE_RIGHTS)
        _checked(_LIBC.syscall(_RESTRICT_SELF, rules, ctypes.c_uint32(0)), "Landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, handle)
        _checked(
            _LIBC.syscall(_ADD_RULE, rules, 1, rule, ctypes.c_uint32(0)), f"the Landlock rule for {path}"
        )
    finally:
        os.close(handle)


# system calls by processor: its audit number, then socket, connect, sendto, sendmsg, sendmmsg
_CALLS: Final = {
    "x86_64": (0xC000003E, 41, 42, 44, 46, 307),
    "aarch64": (0xC00000B7, 198, 203, 206, 211, 269),
}
_IO_URING_SETUP: Final = 425  # its requests pass by every filter, sockets among them
_FAST_OPEN: Final = 0x20000000  # a flag that lets a first message open its connection


def _seccomp_offered() -> bool:
    # PR_GET_SECCOMP fails where the kernel has none
    return platform.machine() in _CALLS and _LIBC.prctl(21, 0, 0, 0, 0) >= 0


def _hold_network() -> None:
    """Refuse every connection, and every socket that needs none to send, with "permission denied".

    Sockets of TCP stay allowed, unconnected: gloo makes one for a rank that is alone, too.
    """
    audit, socket_, connect, sendto, sendmsg, sendmmsg = _CALLS[platform.machine()]
    filter_ = _Filter()
    filter_.load(4)  # the processor whose numbers this call uses
    filter_.jump("==", audit, otherwise="kill")
    filter_.load(0)  # the call's number
    filter_.jump(">=", 0x40000000, then="deny")  # x86's second set of numbers for the same calls
    for call in (connect, sendmmsg, _IO_URING_SETUP):
        filter_.jump("==", call, then="deny")
    filter_.jump("==", sendto, then="sendto")
    filter_.jump("==", sendmsg, then="sendmsg")
    filter_.jump("==", socket_, otherwise="allow")
    filter_.load(16)  # the family
    filter_.jump("==", socket.AF_UNIX, then="allow")
    filter_.jump("==", socket.AF_INET, then="stream")
    filter_.jump("==", socket.AF_NETLINK, then="netlink")
    filter_.jump("==", socket.AF_INET6, otherwise="deny")
    filter_.label("stream")
    filter_.load(24)  # the type, beside flags
    filter_.mask(0xF)
    filter_.jump("==", socket.SOCK_STREAM, then="allow", otherwise="deny")
    filter_.label("netlink")
    filter_.load(32)  # the protocol: addresses and routes, as getifaddrs reads them
    filter_.jump("==", socket.NETLINK_ROUTE, then="allow", otherwise="deny")
    filter_.label("sendto")
    filter_.load(40)  # its flags
    filter_.jump("&", _FAST_OPEN, then="deny", otherwise="allow")
    filter_.label("sendmsg")
    filter_.load(32)
    filter_.jump("&", _FAST_OPEN, then="deny", otherwise="allow")
    filter_.install()


class _Filter:
    """A seccomp program in classic BPF; a jump names a label, or falls through where it names none."""

    _LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
    _JUMPS: ClassVar = {"==": 0x15, ">=": 0x35, "&": 0x45}
    _ENDS: ClassVar = {"allow": 0x7FFF0000, "deny": 0x00050000 | errno.EACCES, "kill": 0x80000000}

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def load(self, offset: int) -> None:
        """The 32 bits at `offset` of struct seccomp_data: 0 the call, 4 the processor, 16 + 8 i argument i."""
        self._code.append((self._LOAD, "", "", offset))

    def mask(self, bits: int) -> None:
        """Keep these bits of what was loaded."""
        self._code.append((self._AND, "", "", bits))

    def jump(self, test: str, value: int, then: str = "", otherwise: str = "") -> None:
        """Go to the label `then` where what was loaded passes the test, to `otherwise` where not."""
        self._code.append((self._JUMPS[test], then, otherwise, value))

    def label(self, name: str) -> None:
        """The name of the next instruction."""
        self._labels[name] = len(self._code)

    def install(self) -> None:
        """Hold this process to the program."""
        for name, end in self._ENDS.items():
            self.label(name)
            self._code.append((self._RETURN, "", "", end))
        code = b"".join(
            struct.pack("HBBI", operation, self._distance(then, at), self._distance(otherwise, at), value)
            for at, (operation, then, otherwise, value) in enumerate(self._code)
        )
        buffer = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(self._code), ctypes.addressof(buffer))
        _checked(_LIBC.prctl(22, 2, header, 0, 0), "seccomp")

    def _distance(self, label: str, at: int) -> int:
        return self._labels[label] - at - 1 if label else 0


def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    command = ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--unshare-net", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _tasks_of_this_user() -> int:
    """Threads that the kernel counts against this user's limit."""
    own, count = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == own:
                count += len(os.listdir(process / "task"))
        except OSError:
            continue  # it ended meanwhile
    return count


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise SandboxError(f"sandbox: {what} was refused: {os.strerror(ctypes.get_errno())}")
