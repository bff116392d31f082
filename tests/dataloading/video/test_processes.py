"""Worker processes: what crashes, hangs or is killed in one costs one file, and no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from broken_decoders import break_video
from video_fixtures import write_numbered

from dataloading.errors import InputError
from dataloading.video.decode import decode_frames, iterate_frames
from dataloading.video.probe import picture_size
from dataloading.video.processes import Stopped, Workers

ROOT = Path(__file__).parents[3]


@pytest.fixture
def video(tmp_path) -> Path:
    return write_numbered(tmp_path, "a", frames=12)


def test_frames_come_from_another_process_as_they_are(video):
    with Workers() as workers:
        assert workers.call(os.getpid, file=video) != os.getpid()
        there = workers.call(decode_frames, video, [3, 7, 1], file=video)
        assert np.array_equal(there, decode_frames(video, [3, 7, 1]))
        streamed = list(workers.iterate(iterate_frames, video, range(12), file=video))
        assert [number for number, _ in streamed] == list(range(12))
        assert np.array_equal(np.stack([frame for _, frame in streamed]), decode_frames(video, range(12)))


def test_a_process_that_is_used_again_finds_a_relative_path_after_a_change_of_directory(video, tmp_path, monkeypatch):
    """Processes stayed where they had been started: "does not exist", for a file that was there."""
    with Workers() as workers:
        monkeypatch.chdir("/")
        process = workers.call(os.getpid, file=video)
        monkeypatch.chdir(video.parent)
        assert workers.call(picture_size, Path(video.name), file=video) == [*picture_size(video)]
        assert workers.call(os.getpid, file=video) == process


def test_a_process_is_used_again_and_by_several_threads_as_many_as_there_are(video):
    with Workers() as workers:
        pids = {workers.call(os.getpid, file=video) for _ in range(3)}
        assert len(pids) == 1
        at_once = list(workers.run_all(time.sleep, [0.3] * 3, 3, lambda _: video))
        assert [result for _, result in at_once] == [None] * 3
    with Workers() as others:
        assert len({others.call(os.getpid, file=video) for _ in range(3)}) == 1


@pytest.mark.parametrize("stage", ["probe", "decode"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("segfault", " made the decoder or the face detector crash (segmentation fault)."),
        ("exit", " made the decoder or the face detector crash (status 3)."),
        ("killed", " made the decoder or the face detector fail twice: its process was killed, as the system does "
         "where memory runs out."),
        ("exception", " failed (KeyError: 'a table of the decoder')."),
    ],
)  # fmt: skip
def test_a_file_that_breaks_its_decoder_is_one_sentence_and_the_next_one_is_read(
    tmp_path, video, broken_decoders, stage, kind, how
):
    broken = break_video(write_numbered(tmp_path, "b", frames=12), kind, stage)
    workers = Workers()
    with pytest.raises(InputError) as error:
        workers.call(decode_frames, broken, [0], file=broken)
    assert str(error.value) == f"{broken}{how}"
    assert workers.call(picture_size, video, file=video) == [128, 96]


def test_a_decoder_that_stands_still_with_the_interpreters_lock_held_is_ended(tmp_path, video, broken_decoders):
    broken = break_video(write_numbered(tmp_path, "b", frames=12), "hang")
    workers, began = Workers(), time.monotonic()
    with pytest.raises(InputError, match=r"b\.mp4 made .* stand still: nothing was decoded for 60 s\."):
        workers.call(decode_frames, broken, [0], file=broken)
    took = time.monotonic() - began
    with pytest.raises(InputError, match="stand still"):  # at once: the file is known
        workers.call(decode_frames, broken, [0], file=broken)
    assert time.monotonic() - began < took + 1
    assert len(workers.call(decode_frames, video, [0], file=video)) == 1


def test_a_process_that_is_killed_in_its_job_costs_nothing(video):
    """As by a person, or by a system that wants memory back: the job is done again in another process."""
    workers = Workers()
    victim = workers.call(os.getpid, file=video)
    frames = workers.iterate(iterate_frames, video, range(12), file=video)
    seen = [next(frames)]
    os.kill(victim, signal.SIGKILL)
    seen += frames
    assert [number for number, _ in seen] == list(range(12))
    assert np.array_equal(np.stack([frame for _, frame in seen]), decode_frames(video, range(12)))
    os.kill(workers.call(os.getpid, file=video), signal.SIGKILL)  # while it is idle
    time.sleep(0.1)
    assert len(workers.call(decode_frames, video, [0], file=video)) == 1


def test_an_error_of_the_system_keeps_its_number_and_its_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        Workers().call(os.listdir, tmp_path / "nowhere", file="nowhere")
    assert error.value.filename == str(tmp_path / "nowhere")


# Writes to the socket that it finds, before the job's own answer.
FORGED = """
import os, struct
for number in map(int, os.listdir("/proc/self/fd")):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
            os.write(number, struct.pack("<Q", len(message) if length is None else length) + message)
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("message", "length"),
    [
        (b"[[], {'value': 1}]", None),  # no JSON
        (b'[[["|O", [1]]], {"value": {"__array__": 0}}]', None),  # pointers
        (b'[[["<f8", [-1]]], {"value": 1}]', None),
        (b'[[["<f8", [999999999, 999999999]]], {"value": 1}]', None),
        (b'[[], {"value": {"__array__": 7}}]', None),
        (b"[" * 100_000, None),
        (b"", 1 << 62),
    ],
)
def test_what_a_process_that_was_taken_over_may_answer_is_one_sentence(video, message, length):
    code = f"message, length = {message[:60]!r} * {max(len(message) // 60, 1)}, {length}\n{FORGED}"
    workers = Workers()
    with pytest.raises(InputError, match=r"a\.mp4 failed \(its process gave an answer that is none\)\."):
        workers.call(exec, code, file=video)
    with pytest.raises(InputError, match="more than one answer"):
        workers.call(iterate_frames, video, [1, 2], file=video)


def test_jobs_in_hand_are_given_up_when_the_context_ends(video):
    began, outcome = time.monotonic(), []

    def wait() -> None:
        try:
            workers.call(time.sleep, 50, file=video)
        except Stopped as error:
            outcome.append(error)

    with Workers() as workers:
        thread = threading.Thread(target=wait)
        thread.start()
        while not workers._busy:
            time.sleep(0.01)
    thread.join()
    assert len(outcome) == 1
    assert time.monotonic() - began < 30


SCRIPT = """
import os, time
from dataloading.video.processes import Workers
workers = Workers()
print(workers.call(os.getpid, file="x"), flush=True)
workers.call({function}, *{arguments}, file="x")
"""


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("time.sleep", (1000,)), ("exec", ("import ctypes; ctypes.PyDLL(None).sleep(1000)",))],
    ids=["waiting", "with the interpreter's lock held"],
)
def test_a_process_ends_with_the_one_that_started_it_however_that_ends_and_whatever_it_does(function, arguments):
    script = SCRIPT.format(function=function, arguments=arguments)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and b"processes" in Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_script_without_a_main_guard_starts_no_processes_of_itself(video):
    """Spawned processes of `multiprocessing` import the script that started them."""
    script = f"""
from dataloading.video.decode import decode_frames
from dataloading.video.processes import Workers
print(Workers().call(decode_frames, {str(video)!r}, [0], file="a").shape)
"""
    path = video.with_name("script.py")
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 96, 128, 3)\n"


def test_a_worker_imports_no_torch(video):
    """It would take seconds and hundreds of MB in each process."""
    modules = ("dataloading.clips.reader", "dataloading.faces.prepare", "dataloading.synthetic.dataset")
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    Workers().call(exec, code, file=video)
