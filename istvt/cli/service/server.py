"""Start of the service: token, socket, uvicorn."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from dataloading.errors import InputError
from istvt.config import ServeSettings

LEAST_TOKEN, LONGEST_TOKEN = 16, 4096  # characters
_STOP_SECONDS = 3  # for answers that are on their way
_BACKLOG = 128


def read_token(settings: ServeSettings) -> str | None:
    """Return the token that requests have to bring; None where only this machine can connect and none is set.

    Raises:
        InputError: the file cannot be read or holds no token, or the address is for other machines and there is none.
    """
    if settings.token_file is None:
        if not settings.is_local:
            raise InputError(
                f"--host {settings.host} is for other machines too, and there is no --token_file; expected a file with "
                f"a token of {LEAST_TOKEN} characters or more, which their requests have to bring"
            )
        return None
    try:
        with Path(settings.token_file).open("rb") as file:  # may be a pipe; a device has no end
            token = file.read(LONGEST_TOKEN + 1).decode().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is not text" * isinstance(error, UnicodeError) or error
        raise InputError(f"--token_file {settings.token_file}: cannot be read ({reason})") from error
    if not LEAST_TOKEN <= len(token) < LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"--token_file {settings.token_file}: holds no token; expected one line of {LEAST_TOKEN} or more letters, "
            "digits and signs"
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: the port is in use or not allowed, or the address is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port {port} of {host} is in use; expected a free one, or 0 for any") from error
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port} may not be used by this user; expected one above 1023") from error
        raise InputError(
            f"--host {host}: cannot be listened on ({error.strerror}); expected an address here"
        ) from error


def address_of(listening: socket.socket, host: str) -> str:
    """Return the URL of a socket that listens."""
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_packages() -> None:
    """Check that the packages of the extra are there.

    Raises:
        InputError: one is not.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name}, which istvt serve needs, is not installed: pip install 'istvt[serve]'"
        ) from error


def serve(listening: socket.socket, load: Callable, settings: ServeSettings, token: str | None) -> None:
    """Answer requests until SIGINT or SIGTERM; work in hand is given up then, and all files of jobs are removed.

    Args:
        listening: the socket.
        load: returns the `Analyzer`.
        settings: of the service.
        token: that requests have to bring; None for none.
    """
    import uvicorn

    from istvt.cli.service.app import create_app

    app = create_app(load(), settings, token)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # the guard writes one without contents
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 << 10,
        ws="none",
    )
    # Its errors are those that the service logs itself, and requests that the end of the server cuts off.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    uvicorn.Server(config).run(sockets=[listening])
