"""One input of the fuzzer: make it, run the command within limits, and say what is wrong with the result."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fork_server import ForkServer, Result
from seeds import Seeds
from targets import TARGETS, Case

SECONDS = 60.0  # of a command
ALLOWED = 6 << 30  # bytes that it may allocate before it is out of memory
RESIDENT = 1536 << 20  # bytes that it may have resident: small inputs need 300 to 500 MiB, PyTorch among them


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        target, number: of the input.
        what: was damaged, and how.
        status, seconds, memory: of the command, as in `Result`.
        scored: whether scores were compared with those of the pictures.
        executable: whether it ran in a process of its own too.
        problem: what is wrong, or None.
        text: the end of what was printed.
    """

    target: str
    number: int
    what: str
    status: int | None
    seconds: float
    memory: int
    scored: bool
    executable: bool
    problem: str | None
    text: str


def run_input(
    server: ForkServer, seeds: Seeds, target: str, seed: int, number: int, executable: bool = False
) -> Outcome:
    """Make input `number` of a target, run it, and judge the result; with `executable` in a process of its own too."""
    place = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        case = TARGETS[target][1](Random(f"{seed} {target} {number}"), seeds, place)
        executable = executable and case.function == Case.function  # others call Python
        result = server.run(case.arguments, place, case.function)
        problem, scored = problem_of(result), False
        if problem is None and case.scored and result.status == 0:
            scored = True
            video, scores = case.scored
            how = "--detect" if "--detect" in case.arguments else "--no-detect"
            check = server.run([str(video), str(scores), str(seeds.run), how], place, "expected_scores:main")
            problem = (check.out or check.err).strip().splitlines()[-1] if check.status else None
        problem = problem or case.after(result)
        if executable and problem is None:
            shutil.rmtree(place)
            place.mkdir()
            case = TARGETS[target][1](Random(f"{seed} {target} {number}"), seeds, place)
            problem = problem_of(again := run_executable(case.arguments, place))
            if problem is None and again.status != result.status:
                problem = f"the executable ended with {again.status}, the fork with {result.status}"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(
        target, number, case.what, result.status, result.seconds, result.memory, scored, executable, problem,
        (result.out + result.err)[-3_000:],
    )  # fmt: skip


def run_executable(arguments: list[str], place: Path) -> Result:
    """Run the `istvt` command beside this Python, without a fork server; its memory is not measured."""
    command, began = [str(Path(sys.executable).with_name("istvt")), *arguments], time.monotonic()
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, timeout=4 * SECONDS, errors="backslashreplace")
    except subprocess.TimeoutExpired:
        return Result(None, "", "", time.monotonic() - began, 0)
    return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - began, 0)


def problem_of(result: Result) -> str | None:
    """Return what is wrong with the result of a command on any input, or None."""
    if result.status is None:
        return f"did not end within {result.seconds:.0f} s"
    if result.status < 0:
        return f"ended by signal {-result.status}"
    if "Traceback" in result.err + result.out:
        return "a traceback"
    if result.status not in (0, 1, 2):
        return f"exit status {result.status}"
    if "not enough memory" in result.err:
        return "out of memory"
    if result.memory > RESIDENT:
        return f"{result.memory >> 20} MiB of memory"
    reasons = [line for line in result.err.splitlines() if line.startswith("istvt: ")]
    if result.status == 2 and len(reasons) != 1:
        return f"{len(reasons)} sentences for a refusal"
    if result.status == 2 and len(reasons[0]) > 2_000:
        return f"a sentence of {len(reasons[0])} characters"
    return None
