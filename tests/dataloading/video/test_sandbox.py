"""A worker process with limits: what a video that has taken it over could do. Each limit is tried by real calls."""

import os
import platform
import socket
import time

import pytest
from video_fixtures import write_numbered

from dataloading.errors import InputError
from dataloading.video import sandbox
from dataloading.video.decode import decode_frames
from dataloading.video.processes import Workers
from dataloading.video.sandbox import Sandbox

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason=f"not enforced here: {sandbox.missing()}")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("isolated"), "a", frames=12)


@pytest.fixture(scope="module")
def isolated(video):
    with Workers(Sandbox(str(video), memory=1 << 30, seconds=60)) as workers:
        yield workers


def test_the_video_is_read_as_without_limits(isolated, video):
    assert (isolated.call(decode_frames, video, [3, 7], file=video) == decode_frames(video, [3, 7])).all()


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "os.listdir('/')",
        "open('/proc/{parent}/environ')",
        "open('/proc/{parent}/mem', 'r+b')",
        "open('{video}', 'r+b')",
        "open('{folder}/new', 'w')",
        "os.mkdir('{folder}/new')",
        "os.unlink('{video}')",
        "os.rename('{video}', '{folder}/other')",
        "os.symlink('/etc/passwd', '{folder}/link')",
        "os.truncate('{video}', 0)",
        "os.chmod('{video}', 0o777)",
        "os.chown('{video}', 0, 0)",
        "os.utime('{video}')",
        "os.setxattr('{video}', 'user.a', b'1')",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', {port}))",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {{}})",
        "os.execv('/bin/true', ['true'])",
        "os.kill({parent}, 0)",
        "os.pidfd_open({parent})",
        "os.memfd_create('code')",
        "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.fork()",
        "os.chroot('/')",
    ],
)
def test_what_is_refused(isolated, video, attempt):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        places = {"video": video, "folder": video.parent, "parent": os.getpid(), "port": server.getsockname()[1]}
        before = sorted(os.listdir(video.parent))
        with pytest.raises(OSError, match=r"Permission denied|Operation not permitted"):
            isolated.call(exec, f"import os, socket; {attempt.format(**places)}", file="attempt")
    assert sorted(os.listdir(video.parent)) == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number is x86-64's")
def test_limits_cannot_be_raised_again(isolated):
    for limit in ("RLIMIT_AS", "RLIMIT_NOFILE"):
        code = f"import resource; resource.prlimit(0, resource.{limit}, (1 << 40, 1 << 40))"
        with pytest.raises((OSError, InputError)):
            isolated.call(exec, code, file="attempt")
    with pytest.raises(InputError, match="needs more memory than its process may use"):
        isolated.call(bytearray, 2 << 30, file="attempt")


def test_threads_and_a_crash_of_its_own_are_allowed(isolated, video):
    isolated.call(exec, "import threading; t = threading.Thread(target=print); t.start(); t.join()", file="attempt")
    with pytest.raises(InputError, match=r"crash \(aborted\)"):
        isolated.call(os.abort, file=video.with_name("other"))


@pytest.mark.parametrize("how", ["time.sleep(100)", "[signal.alarm(0), signal.setitimer(0, 0), time.sleep(100)]"])
def test_a_job_ends_with_its_time_even_if_it_stops_its_own_clock(video, how):
    began = time.monotonic()
    with (
        Workers(Sandbox(str(video), seconds=2)) as workers,
        pytest.raises(InputError, match=r"attempt made the decoder or the face detector take longer than 2 s\."),
    ):
        workers.call(exec, f"import signal, time; {how}", file="attempt")
    assert time.monotonic() - began < 40


def test_keys_in_the_environment_do_not_reach_it(video, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    with Workers(Sandbox(str(video))) as workers:
        assert workers.call(os.getenv, "SECRET_TOKEN", file=video) is None


def test_a_process_with_limits_ends_with_its_workers_and_is_used_for_nothing_else(video):
    with Workers(Sandbox(str(video))) as workers:
        pid = workers.call(os.getpid, file=video)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_kernel_without_landlock_is_said_and_the_rest_holds(video, monkeypatch):
    monkeypatch.setattr(sandbox, "_landlock_version", lambda: -1)
    [what] = sandbox.missing()
    assert what == "which files it reads and writes (this kernel has no Landlock)"
