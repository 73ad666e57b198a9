"""`python -m asiarch.models.check`: check one program in this process, under limits that it sets on itself.

The child of `asiarch.hpc.check.run_check`. Exit code 0: the report is written, whatever its verdict. Before
it touches the program it makes the report's file, empty: what ends the process from then on is the program's
doing, what ended it earlier was not.
"""

import argparse
import json
import resource
import signal
import sys
from pathlib import Path

from asiarch.models.check.settings import CheckSettings
from asiarch.models.errors import UserError
from asiarch.models.sandbox import confine_this_process, limit_resource, limit_this_process

FILE_GB = 1 / 64


def main() -> int:
    """Read the arguments, set the limits, check, write the report."""
    parser = argparse.ArgumentParser(prog="python -m asiarch.models.check")
    parser.add_argument("file", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="CheckSettings as a JSON object")
    parser.add_argument(
        "--timeout-s", type=int, default=120, help="of processor time, once the checks are loaded"
    )
    parser.add_argument("--wall-s", type=int, default=480, help="in all, from then on")
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--sandbox", choices=("on", "off"), default="on")
    arguments = parser.parse_args()
    limits = {"memory_gb": arguments.memory_gb, "file_gb": FILE_GB}
    if arguments.sandbox == "on":
        confine_this_process([arguments.report.parent], **limits)
    else:
        limit_this_process(**limits)
    # after the limits: all that the checks themselves need must fit under them too
    from asiarch.models.check.construction import target_parameters
    from asiarch.models.check.program import check_program

    settings = CheckSettings(**arguments.settings)
    try:
        target_parameters(settings)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.report.touch()
    # their default action ends the process, in a loop in C too, and also when the parent is gone
    signal.setitimer(signal.ITIMER_PROF, arguments.timeout_s)
    signal.alarm(arguments.wall_s)
    limit_cpu_time(arguments.timeout_s + 1)
    report = check_program(arguments.file, settings)
    arguments.report.write_text(report.to_json(), encoding="utf-8")
    return 0


def limit_cpu_time(seconds: int) -> None:
    """Limit the processor time from now on; a process that this one starts has the limit too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit_resource(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


if __name__ == "__main__":
    sys.exit(main())
