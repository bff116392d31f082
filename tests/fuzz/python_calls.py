"""Calls of the package's Python functions with the exit status of a command: what no command reaches quickly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from dataloading.errors import InputError


def render(arguments: list[str]) -> int:
    """Write the report of an evaluation again, from its files."""
    from istvt.config import DataSettings
    from istvt.report.evaluate_checkpoint import render_report

    checkpoint, root, output = arguments
    return _status(lambda: render_report(checkpoint, DataSettings(root, evaluation_clips=2), output))


def card(arguments: list[str]) -> int:
    """Write what another program, and a reader of the Hub, is told of a checkpoint."""
    from istvt.inference.export import describe
    from istvt.model.checkpoint import read_info
    from istvt.report.hub import model_card
    from istvt.run_dir import model_file

    [run] = arguments
    return _status(lambda: (model_card(run), json.dumps(describe(read_info(run), model_file(run)), default=str)))


def edited_video(arguments: list[str]) -> int:
    """Read what an edited video shows, and where its people are."""
    from dataloading.synthetic import read_edited_video

    [video] = arguments
    return _status(lambda: read_edited_video(video).face_entry(video))


def token(arguments: list[str]) -> int:
    """Read the token of a service."""
    from istvt.cli.service.server import read_token
    from istvt.config import ServeSettings

    [path] = arguments
    return _status(lambda: read_token(ServeSettings(token_file=path)))


def request(arguments: list[str]) -> int:
    """Send a request to the service, whose body is a file; 2 where it is refused, 0 where it is taken."""
    import logging

    from fastapi.testclient import TestClient

    from istvt.cli.service.analysis import Analyzer
    from istvt.cli.service.app import create_app
    from istvt.config import ServeSettings

    checkpoint, route, content_type, body = arguments
    storage = Path(body).with_name("storage")
    storage.mkdir()
    settings = ServeSettings(storage=storage, clips=1)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = create_app(Analyzer.load(checkpoint, settings), settings)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        headers = [(b"content-type", content_type.encode("latin-1", "replace"))]
        answer = client.post(route, content=Path(body).read_bytes(), headers=headers)
    left = [path for path in storage.rglob("*") if path.is_file()]
    if left or not 200 <= answer.status_code < 500:
        print(f"status {answer.status_code}, {len(left)} files stay: {answer.text[:500]}")
        return 3
    if answer.status_code >= 400:
        print(f"istvt: {answer.status_code}, {answer.json()['detail']}", file=sys.stderr)
        return 2
    return 0


def _status(call: Callable[[], object]) -> int:
    try:
        call()
    except InputError as error:
        print(f"istvt: {error}", file=sys.stderr)
        return 2
    return 0
