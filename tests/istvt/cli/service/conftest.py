"""One server on a real socket for the tests of a process, with a small model; and others without a socket."""

import asyncio
import contextlib
import copy
import threading
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs pip install 'istvt[serve]'")

import uvicorn
from fastapi.testclient import TestClient
from service_helpers import Scorer

from dataloading.synthetic import read_edited_video
from istvt.cli.service.analysis import Analyzer
from istvt.cli.service.app import create_app
from istvt.cli.service.server import listen
from istvt.config import ServeSettings


@pytest.fixture(scope="session")
def analyzer(trained_run) -> Analyzer:
    """The small model, which judges whole pictures."""
    return Analyzer.load(trained_run, ServeSettings())


@pytest.fixture(scope="session")
def people_analyzer(analyzer, edited_video) -> Analyzer:
    """The same model, told where the two drawn people of the edited video are, which no detector finds."""
    analyzer = copy.copy(analyzer)
    entry = read_edited_video(edited_video).face_entry(edited_video)
    analyzer.find = lambda path, processes, advance: entry
    return analyzer


@pytest.fixture(scope="session")
def video(synthetic_set) -> Path:
    return sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0]


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A function that starts a server in a thread and returns its address."""
    with contextlib.ExitStack() as stack:

        def start(analyzer: Analyzer, token: str | None = None, **settings) -> str:
            storage = settings.pop("storage", None) or tmp_path_factory.mktemp("storage")
            settings = ServeSettings(**{"storage": storage, "clips": 1} | settings)
            listening = stack.enter_context(listen("127.0.0.1", 0))
            app = create_app(analyzer, settings, token)
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
            thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listening]),), daemon=True)
            thread.start()
            stack.callback(thread.join, 15)
            stack.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


@pytest.fixture(scope="session")
def address(start, analyzer) -> str:
    return start(analyzer, queue=12)


@pytest.fixture(scope="session")
def scoring_address(start, analyzer) -> str:
    """Of a server that scores and explains nothing."""
    return start(Scorer(analyzer), queue=12)


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def serving(analyzer, tmp_path):
    """A function that returns a client of a service of its own settings."""
    with contextlib.ExitStack() as stack:

        def serving(token: str | None = None, analyzer: Analyzer = analyzer, **settings) -> TestClient:
            app = create_app(analyzer, ServeSettings(**{"storage": tmp_path / "storage", "clips": 1} | settings), token)
            return stack.enter_context(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))

        yield serving


@pytest.fixture(scope="session")
def upload():
    """A function that uploads a file and returns the answer."""

    def upload(client, file: Path | bytes, name: str = "clip.mp4", **fields) -> httpx.Response:
        content = file if isinstance(file, bytes) else file.read_bytes()
        return client.post("/v1/videos", files={"file": (name, content)}, data=fields)

    return upload


@pytest.fixture(scope="session")
def finished():
    """A function that waits for the end of a job and all of its explanations, and returns it."""

    def finished(client, job_id: str) -> dict:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            job = client.get(f"/v1/jobs/{job_id}").json()
            if not {job["status"], *(found["status"] for found in job["explanations"])} & {"waiting", "running"}:
                return job
            time.sleep(0.05)
        raise AssertionError(f"not done: {job}")

    return finished


@pytest.fixture(scope="session")
def done_job(address, video, upload, finished) -> dict:
    """A judged and explained video on the shared server; no test deletes it."""
    with httpx.Client(base_url=address, timeout=60) as client:
        return finished(client, upload(client, video, "my interview.mp4").json()["id"])
