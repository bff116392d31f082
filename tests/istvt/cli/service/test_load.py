"""Many uploads at once, of good and damaged files: each has its own result or its own reason, and memory is bounded."""

import json
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from istvt.cli.main import main

KINDS = ("good", "good", "good", "text", "empty", "cut short", "flipped")


def files(videos: list[Path], count: int) -> list[tuple[str, bytes]]:
    """Files with what they are: videos, and files that are none, or damaged."""
    draw = random.Random(2026)
    made = []
    for number in range(count):
        content = bytearray(videos[number % len(videos)].read_bytes())
        kind = KINDS[number % len(KINDS)]
        if kind == "text":
            content = bytearray(b"no video " * 500)
        elif kind == "empty":
            content = bytearray()
        elif kind == "cut short":
            del content[len(content) // 2 :]
        elif kind == "flipped":
            start, end = content.find(b"mdat") + 8, content.find(b"moov") - 8  # the pictures, not their index
            for _ in range(200):
                content[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
        made.append((kind, bytes(content)))
    return made


def judged(address: str, file: bytes, deadline: float) -> tuple[int, dict]:
    """Upload a file, again where the queue is full, and wait for its end: the status of the upload, and the job."""
    waited = 0
    with httpx.Client(base_url=address, timeout=120) as client:
        while True:
            answer = client.post("/v1/videos", files={"file": ("clip.mp4", file)})
            if answer.status_code != 429:
                break
            waited += 1
            time.sleep(min(int(answer.headers["retry-after"]), 2) * random.uniform(0.2, 1))
            assert time.monotonic() < deadline
        job = answer.json()
        while answer.status_code == 202 and job["status"] in ("waiting", "running"):
            time.sleep(0.2)
            job = client.get(f"/v1/jobs/{job['id']}").json()
            assert time.monotonic() < deadline
    return answer.status_code, job | {"refused": waited}


def check(address: str, made: list[tuple[str, bytes]], expected: dict[bytes, float], seconds: float) -> list[dict]:
    """Upload all at once, and check what becomes of each."""
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(len(made)) as threads:
        results = list(threads.map(lambda item: judged(address, item[1], deadline), made))
    for (kind, content), (status, job) in zip(made, results, strict=True):
        if kind == "good":
            assert (status, job["status"]) == (202, "done"), job.get("detail") or job["problem"]
            assert job["result"]["probability_fake"] == expected[content]
        elif kind == "flipped":  # some of its clips can be decoded, or none
            assert status == 202 and job["status"] in ("done", "failed")
            assert job["status"] == "done" or job["problem"]["status"] == 422
        else:
            assert status == 415 and job["detail"].startswith("clip.mp4 ")
    return [job for _, job in results]


@pytest.fixture(scope="module")
def videos(synthetic_set) -> list[Path]:
    return sorted(synthetic_set.rglob("*.mp4"))[:4]


@pytest.fixture(scope="module")
def expected(trained_run, videos, tmp_path_factory) -> dict[bytes, float]:
    """The probability of each video by `istvt predict`."""
    output = tmp_path_factory.mktemp("scores") / "scores.json"
    assert main(["predict", f"--checkpoint={trained_run}", *map(str, videos), f"--json={output}"]) == 0
    rows = json.loads(output.read_text())
    return {Path(row["path"]).read_bytes(): row["probability_fake"] for row in rows}


def test_eight_uploads_at_once_of_good_and_damaged_files_lose_nothing(scoring_address, videos, expected):
    check(scoring_address, files(videos, 8), expected, 120)


@pytest.mark.exhaustive
def test_fifty_uploads_at_once_lose_nothing_and_memory_stays_bounded(trained_run, videos, expected, tmp_path):
    """Memory is that of the server's process, largest at any time, after a first video and after fifty more."""
    command = [
        sys.executable,
        "-m",
        "istvt",
        "serve",
        f"--checkpoint={trained_run}",
        "--port=0",
        "--queue=8",
        "--no-log",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, f"--storage={tmp_path}"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        while not (address := re.search(r"open (http://\S+)", process.stdout.readline())):
            pass

        def peak() -> float:
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

        check(address[1], files(videos, 1), expected, 300)
        before, began = peak(), time.monotonic()
        jobs = check(address[1], files(videos, 50), expected, 1500)
        kept = len(list(tmp_path.glob("*/*/clip.mp4")))
        refused = sum(job["refused"] for job in jobs)
        print(
            f"\n50 uploads in {time.monotonic() - began:.0f} s, {refused} times refused with 429; "
            f"{before:.0f} MiB before, {peak():.0f} MiB after; {kept} videos kept"
        )
        assert refused > 0
        assert kept == 1 + sum("id" in job for job in jobs)
        assert peak() < before + 150
        large = b"\0" * (64 << 20)
        with ThreadPoolExecutor(4) as threads:  # 256 MiB of files that are no videos, all at once
            statuses = list(threads.map(lambda _: judged(address[1], large, time.monotonic() + 300)[0], range(4)))
        assert statuses == [415] * 4
        print(f"{peak():.0f} MiB after four uploads of 64 MiB at once")
        assert peak() < before + 200
    finally:
        process.terminate()
        process.wait(60)
    assert list(tmp_path.iterdir()) == []
