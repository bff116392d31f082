"""Real processes stopped by signals: one sentence, an exit status, no process left behind."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMIT = 60  # seconds; a machine under load starts three Pythons slowly


def workers_of(pid: int) -> list[int]:
    """The processes that do its work."""
    pids: list[int] = []  # of any of its threads
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pids += map(int, children.read_text().split())
    return [child for child in pids if b"dataloading.video.processes" in command_of(child)]


def command_of(pid: int) -> bytes:
    """Empty where the process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def wait_until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "sent", "status"),
    [
        ("prepare", signal.SIGTERM, 143),
        ("synthesize", signal.SIGINT, 130),
        ("synthesize", signal.SIGKILL, -9),
    ],
)
def test_a_command_that_is_told_to_stop_takes_its_workers_with_it(synthetic_set, tmp_path, command, sent, status):
    """SIGTERM used to leave the workers of `prepare` waiting for ever, and to print nothing."""
    arguments = [str(tmp_path / "new"), "--identities=40", "--size=256"]
    if command == "prepare":
        root = shutil.copytree(synthetic_set, tmp_path / "videos")
        (root / "face_index.jsonl").unlink()
        arguments = [str(root), "--every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "istvt", command, *arguments, "--workers=2"],
        cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        # A shell's background job, which these tests may be, is started deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_until(lambda: len(workers_of(process.pid)) == 2)
        workers = workers_of(process.pid)
        process.send_signal(sent)
        _, message = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == status
    if sent != signal.SIGKILL:
        assert "istvt: stopped; finished work is kept, and the same command resumes it" in message
        assert "Traceback" not in message
    wait_until(lambda: not any(map(command_of, workers)))
