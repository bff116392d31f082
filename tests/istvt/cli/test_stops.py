"""Stops while a command starts: one sentence, whatever module is being imported."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def handles_sigterm(pid: int) -> bool:
    """Whether the first lines of the command have run."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0, 0.05, 0.15, 0.5, 1.5])
def test_a_stop_while_a_command_starts_is_a_sentence_and_no_traceback_of_imports(tmp_path, sent, status, after):
    """Ctrl-C during the first half second was a traceback of whatever was being imported."""
    command = [sys.executable, "-m", "istvt", "predict", str(tmp_path / "no.mp4"), f"--checkpoint={tmp_path}"]
    (tmp_path / "best.safetensors").touch()  # torch is imported before it is read
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL)
    )
    while process.poll() is None and not handles_sigterm(process.pid):
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(sent)
    _, message = process.communicate(timeout=60)
    assert "Traceback" not in message
    if "does not exist" in message:  # the command was done; while it exits, Python takes its handlers away
        assert process.returncode in (2, -sent)
    else:
        assert (message, process.returncode) == ("istvt: stopped\n", status)


def test_hardly_anything_is_imported_before_a_command_can_be_stopped():
    code = "import sys; import istvt.__main__; print(*sorted(name for name in sys.modules if name.startswith('istvt')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["istvt", "istvt.__main__", "istvt.cli", "istvt.cli.stops"]
