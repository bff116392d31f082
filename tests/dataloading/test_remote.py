"""Remote files: copied whole before use, in ranges that are tried again, and removed after use."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from video_fixtures import write_numbered

from dataloading import FaceIndex, InputError, read_dataset, remote
from dataloading.clips.cutting import index_place, verify, write_crops
from dataloading.clips.reader import decode_windows
from dataloading.clips.sampling import evaluation_clips
from dataloading.faces.prepare import prepare
from dataloading.layouts import open_dataset
from dataloading.layouts.files import video_files


class Server(ThreadingHTTPServer):
    """An HTTP server of a directory that answers requests for ranges, and fails as it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(root)))
        self.root, self.requests, self.failures, self.ranges, self.pause = root, [], 0, True, 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that have left."""


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if path.is_dir():
            super().do_GET()
            return
        if self.server.failures:
            self.server.failures -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            self.wfile.write(path.read_bytes()[:100])  # and the connection ends
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if wanted and self.server.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        else:
            part = data
            self.send_response(200)
        time.sleep(self.server.pause)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        self.wfile.write(part)

    def send_head(self):
        """Add what tells versions of a file apart to the answer to HEAD."""
        path = Path(self.translate_path(self.path))
        if self.command == "HEAD" and path.is_file():
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.end_headers()
            return None
        return super().send_head()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    for name in ("cache", "copies"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    for name in ("real/a", "fake/b"):
        (root / name).parent.mkdir(parents=True)
        write_numbered((root / name).parent, name[-1], frames=12)
    return root


@pytest.fixture
def server(data_set) -> Iterator[Server]:
    with Server(data_set.parent) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_urls_are_told_from_paths_also_after_pathlib():
    assert remote.url_of("s3://bucket/a.mp4") == remote.url_of(Path("s3://bucket/a.mp4")) == "s3://bucket/a.mp4"
    assert remote.url_of("https://host/a//b.mp4?sig=x%2F") == "https://host/a//b.mp4?sig=x%2F"
    assert [remote.url_of(path) for path in ("/data/a.mp4", "a/b.mp4", "C:/x", ".", "s3:")] == [None] * 5


def test_a_file_is_copied_in_ranges_and_the_copy_is_removed(server, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 1000)
    with remote.local(f"{server.url}/set/real/a.mp4") as copy:
        assert copy.read_bytes() == (data_set / "real/a.mp4").read_bytes()
        assert copy.name == "a.mp4"
    assert list((tmp_path / "copies").iterdir()) == []
    assert [wanted for _, wanted in server.requests][:2] == ["bytes=0-999", "bytes=1000-1999"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_is_tried_again(server, data_set, tmp_path, ranges):
    server.failures, server.ranges = 3, ranges
    remote.download(f"{server.url}/set/real/a.mp4", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (data_set / "real/a.mp4").read_bytes()


def test_a_server_without_ranges_sends_the_file_once(server, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 1000)
    server.ranges = False
    remote.download(f"{server.url}/set/real/a.mp4", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (data_set / "real/a.mp4").read_bytes()
    assert len(server.requests) == 1


def test_what_fails_is_named_in_one_sentence_and_nothing_half_copied_is_left(server, tmp_path):
    url = f"{server.url}/set/real/a.mp4"
    server.failures = 100
    with pytest.raises(InputError, match=rf"^{url} could not be read in 4 attempts \(.+\)\.$"), remote.local(url):
        pass
    assert len(server.requests) == 4
    server.failures = 0
    with pytest.raises(InputError, match=r"missing\.mp4 does not exist"), remote.local(f"{server.url}/missing.mp4"):
        pass
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:1/set could not be read in 4 attempts"):
        read_dataset("http://127.0.0.1:1/set")  # an index page that cannot be read was one without a file
    with pytest.raises(InputError, match="a URL such as s3"), remote.local("ghost://a/b.mp4"):
        pass
    with (
        pytest.raises(InputError, match="needs the package s3fs, which is not installed"),
        remote.local("s3://b/a.mp4"),
    ):
        pass
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_server_that_does_not_answer_is_not_called_a_file_that_does_not_exist(server):
    """fsspec says FileNotFoundError of both."""
    url = server.url
    server.shutdown()
    server.server_close()
    says = r"/a\.mp4 could not be read in 4 attempts \(ClientConnectorError: "
    with pytest.raises(InputError, match=says), remote.local(f"{url}/a.mp4"):
        pass


def test_an_error_of_a_copy_names_the_url(server):
    (server.root / "broken.mp4").write_bytes(b"nothing")
    url = f"{server.url}/broken.mp4"
    with pytest.raises(InputError, match=f"^{url} is not a video"), remote.local(url) as copy:
        raise InputError(f"{copy} is not a video")


def test_ctrl_c_removes_the_copy(server, data_set, tmp_path):
    server.pause = 30
    script = (
        "import sys; from dataloading import remote\nprint('begins', flush=True)\nwith remote.local(sys.argv[1]): pass"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "copies")}
    arguments = [sys.executable, "-c", script, f"{server.url}/set/real/a.mp4"]
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored, and so here
    )  # fmt: skip
    process.stdout.readline()
    deadline = time.monotonic() + 30
    while not list((tmp_path / "copies").rglob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "copies").rglob(".*.partial"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert list((tmp_path / "copies").iterdir()) == []


def test_videos_of_a_remote_directory_are_listed(server):
    found, left_out = video_files([f"{server.url}/set/", f"{server.url}/set/real/a.mp4"])
    assert found == [f"{server.url}/set/{name}" for name in ("fake/b.mp4", "real/a.mp4", "real/a.mp4")]
    assert left_out == []


def to_memory(root: Path, url: str) -> str:
    """Copy a directory into fsspec's memory file system."""
    fsspec.filesystem("memory").put(str(root), url, recursive=True)
    return url


@pytest.mark.parametrize("kind", ["http", "memory"])
def test_a_remote_data_set_becomes_a_store_whose_clips_are_those_of_the_originals(server, data_set, tmp_path, kind):
    url = f"{server.url}/set" if kind == "http" else to_memory(data_set, f"memory://{tmp_path.name}")
    dataset = read_dataset(url)
    with pytest.raises(InputError, match=f"^{url} is remote, .*--crops DIR` writes a crop store"):
        open_dataset(url)
    with pytest.raises(InputError, match=f"^{url} is remote, and its face index cannot be written there"):
        prepare(dataset, detect=False, progress=False)
    target = tmp_path / "store"

    def cut() -> int:
        dataset = read_dataset(url)
        place = index_place(dataset, target)
        index = prepare(dataset, detect=False, progress=False, index_file=place)
        report = write_crops(dataset, index, target, progress=False, workers=1)
        assert report.failed == {}
        return report.cut

    assert cut() == 2
    assert cut() == 0
    assert verify(target) == (4, [])
    assert list((tmp_path / "copies").iterdir()) == []
    assert sum(path.stat().st_blocks for path in (tmp_path / "cache").rglob("*.mp4")) == 0  # placeholders
    notes = read_dataset(target).notes
    assert any(f"of {url}." in note for note in notes), notes
    original = read_dataset(data_set)
    index = FaceIndex.read(target)
    pairs = zip(*(evaluation_clips(read.videos, index) for read in (original, read_dataset(target))), strict=True)
    for expected, found in pairs:
        [ours], [theirs] = (decode_windows([clip], 64) for clip in (found, expected))
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_remote_original_that_changed_is_cut_again(data_set, tmp_path):
    url = to_memory(data_set, f"memory://{tmp_path.name}")
    target = tmp_path / "store"

    def cut() -> int:
        dataset = read_dataset(url)
        place = index_place(dataset, target)
        index = prepare(dataset, detect=False, progress=False, index_file=place)
        return write_crops(dataset, index, target, progress=False, workers=1).cut

    assert cut() == 2
    other = write_numbered(tmp_path, "other", frames=12, width=160, height=96)
    fsspec.filesystem("memory").pipe_file(f"{url}/real/a.mp4", other.read_bytes())
    index = FaceIndex.read(target)
    (target / "face_index.jsonl").write_text("".join(f"{e.to_json()}\n" for e in index if e.video != "real/a"))
    assert cut() == 1


def test_a_store_on_a_url_is_copied_once_and_read_as_any_other(data_set, tmp_path):
    index = prepare(read_dataset(data_set), detect=False, progress=False, index_file=tmp_path / "index.jsonl")
    write_crops(read_dataset(data_set), index, tmp_path / "store", progress=False, workers=1)
    url = to_memory(tmp_path / "store", f"memory://{tmp_path.name}/store")
    dataset, boxes = open_dataset(Path(url))
    assert verify(dataset.root) == (4, [])
    for clip in evaluation_clips(dataset.videos, boxes):
        assert not isinstance(decode_windows([clip], 64)[0], str)
    times = {path: path.stat().st_ctime_ns for path in dataset.root.rglob("*.mkv")}
    assert len(times) == 2
    assert {path: path.stat().st_ctime_ns for path in open_dataset(url)[0].root.rglob("*.mkv")} == times
    fsspec.filesystem("memory").rm(f"{url}/videos/real/a.mkv")
    fsspec.filesystem("memory").rm(f"{url}/crops.jsonl")
    with pytest.raises(InputError, match="none of the 2 videos"):
        open_dataset(url)
