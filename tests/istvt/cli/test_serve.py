"""`istvt serve`: the command as a process, and what it refuses in one sentence."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from commands import refused

pytest.importorskip("fastapi", reason="needs pip install 'istvt[serve]'")

import httpx

from istvt.cli.service import server


def test_a_server_prints_its_address_judges_and_leaves_nothing_behind(trained_run, synthetic_set, tmp_path):
    video = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0]
    left = tmp_path / "istvt-serve-killed"
    left.mkdir()
    (left / "video.mp4").write_bytes(b"of a server that was killed")
    os.utime(left, (1, 1))
    command = [sys.executable, "-m", "istvt", "serve", f"--checkpoint={trained_run}", "--port=0", "--clips=1"]
    environment = {name: value for name, value in os.environ.items() if name != "TERM"} | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, f"--storage={tmp_path}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        lines = []
        while not (address := re.search(r"open (http://127\.0\.0\.1:\d+)", "".join(lines))):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        assert "only ever seen drawn faces" in "".join(lines)
        with httpx.Client(base_url=address[1], timeout=60) as client:
            job = client.post("/v1/videos", files={"file": ("secret name.mp4", video.read_bytes())}).json()
            while job["status"] in ("waiting", "running"):
                time.sleep(0.1)
                job = client.get(f"/v1/jobs/{job['id']}").json()
            assert job["result"]["verdict"] in ("real", "fake")
            with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
                assert next(events.iter_lines()) == "event: job"
        assert not left.exists() and len(list(tmp_path.glob("istvt-serve-*"))) == 1
        process.send_signal(signal.SIGTERM)
        printed, log = process.communicate(timeout=60)
        assert printed == ""  # a log on standard output, which was read no further, made the server stand still
        assert process.returncode == 143
        assert log.count("istvt: stopped") == 1 and "Traceback" not in log
        assert "POST /v1/videos 202" in log and "secret" not in log and job["id"] not in log
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
        process.communicate()


def test_what_a_server_cannot_start_with_is_refused_in_one_sentence(trained_run, tmp_path, capsys, monkeypatch):
    command = ["serve", f"--checkpoint={trained_run}", "--port=0"]
    missing = refused(capsys, ["serve", f"--checkpoint={tmp_path}/none", "--port=0"])
    assert "none: no such file; expected a training run, or its best.safetensors" in missing
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refused(capsys, [*command[:2], f"--port={port}"])
    assert sentence == f"istvt: --port {port} of 127.0.0.1 is in use; expected a free one, or 0 for any"
    assert "there is no --token_file; expected a file with a token" in refused(capsys, [*command, "--host=0.0.0.0"])
    (tmp_path / "long").write_text("a-token-of-some-length")
    (tmp_path / "token").write_text("short\n")
    assert "holds no token" in refused(capsys, [*command, f"--token_file={tmp_path}/token"])
    assert "cannot be read (No such file" in refused(capsys, [*command, f"--token_file={tmp_path}/nothing"])
    assert "cannot be listened on" in refused(capsys, [*command, "--host=203.0.113.7", f"--token_file={tmp_path}/long"])
    assert "queue is 0; expected 1 or more" in refused(capsys, [*command, "--queue=0"])
    assert "support no error rate below" in refused(capsys, [*command, "--max_error=0.01"])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    sentence = refused(capsys, command)
    assert sentence == "istvt: uvicorn, which istvt serve needs, is not installed: pip install 'istvt[serve]'"


def test_a_token_is_read_without_the_end_of_its_line(tmp_path):
    from istvt.config import ServeSettings

    (tmp_path / "token").write_text("a-token-of-some-length\n")
    settings = ServeSettings(host="0.0.0.0", token_file=tmp_path / "token")
    assert server.read_token(settings) == "a-token-of-some-length"
    assert server.read_token(ServeSettings()) is None
