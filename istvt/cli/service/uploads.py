"""Reception of a video in a multipart form: streamed to the disk, hashed, and ended at the largest size."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from istvt.cli.service.schemas import Problem

STALLED_SECONDS = 30.0  # without a byte
LONGEST_NAME = 80  # characters
_LARGEST_FIELD = 1000  # bytes of a value, and of the fields' number
_WRITE = 1 << 20  # bytes at once
_DRAINED = 64 << 20  # bytes of a refused upload that are read, so that the client reads the answer


@dataclass
class Upload:
    """A file that was received.

    Attributes:
        path: where it is.
        name: what the client calls it, made safe for a file system and a page.
        size: bytes.
        sha256: of its bytes, in hexadecimal.
        fields: the other fields of the form, as text.
    """

    path: Path
    name: str = ""
    size: int = 0
    sha256: str = ""
    fields: dict[str, str] = field(default_factory=dict)


def safe_name(name: str) -> str:
    """Return the last part of a file name with letters, digits, spaces and `._-` alone, at most `LONGEST_NAME` long."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in name).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if dot and len(suffix) <= 8:
        return f"{stem[: LONGEST_NAME - len(suffix) - 1]}.{suffix}" if stem else suffix
    return name[:LONGEST_NAME] or "video"


async def receive(request: Request, folder: Path, max_bytes: int) -> Upload:
    """Write the part `file` of a multipart form to the disk while it arrives.

    Args:
        request: whose body was not read yet.
        folder: is there and empty.
        max_bytes: of the file.

    Raises:
        Problem: the body is no such form, the file is larger, the client stands still, or the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem("not-a-form", "Expected multipart/form-data with a video in the field 'file'.")
    form = _Form(folder, max_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        chunks = request.stream().__aiter__()
        while (chunk := await _next_chunk(chunks)) is not None:
            parser.write(chunk)
            if form.pending_bytes > _WRITE:
                await asyncio.to_thread(form.write)
        parser.finalize()
        if not form.whole:
            raise FormParserError
        await asyncio.to_thread(form.write)
    except FormParserError as error:
        raise Problem("not-a-form", "The form is cut short or damaged; expected multipart/form-data.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Problem("disk-full", "The file does not fit on the disk of this server.") from error
        raise
    finally:
        form.close()
    if form.file is None:
        raise Problem("not-a-form", "The form has no file; expected a video in the field 'file'.")
    form.upload.sha256 = form.hash.hexdigest()
    return form.upload


async def drain(request: Request) -> None:
    """Read what is left of the body of a refused request, up to a limit: a client that still sends reads no answer."""
    left = _DRAINED
    try:
        chunks = request.stream().__aiter__()
        while left > 0 and (chunk := await _next_chunk(chunks)) is not None:
            left -= len(chunk)
    except (Problem, ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end
        return


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            return await anext(chunks, None)
    except TimeoutError:
        raise Problem("upload-stalled", f"Nothing arrived for {STALLED_SECONDS:.0f} s.") from None


class _Form:
    """What the parser has found so far."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.upload, self.hash = Upload(folder), hashlib.sha256()
        self.file: BinaryIO | None = None
        self.whole = False
        self.pending: list[bytes] = []
        self.pending_bytes = self.field_bytes = 0
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._field: bytes | None = None  # name of the part; None in the part of the file
        self._value = b""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return the functions that the parser calls."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def write(self) -> None:
        """Write and hash what has arrived of the file."""
        for data in self.pending:
            self.hash.update(data)
            self.file.write(data)
        self.pending, self.pending_bytes = [], 0

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()

    def _end(self) -> None:
        self.whole = True

    def _begin_part(self) -> None:
        self._headers, self._header, self._value = {}, [b"", b""], b""

    def _add_header(self, place: int, data: bytes) -> None:
        self._header[place] += data

    def _end_header(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = [b"", b""]

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._field = options.get(b"name", b"")
        if self._field != b"file":
            if b"filename" in options:
                field = self._field[:100].decode("utf-8", "replace")
                raise Problem("not-a-form", f"The file is in the field {field!r}; expected it in the field 'file'.")
            return
        if self.file is not None:
            raise Problem("not-a-form", "The form has two files; expected one video a request.")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        self.upload.name = safe_name(name)
        self.upload.path = self.folder / self.upload.name
        self.file = self.upload.path.open("xb")
        self._field = None

    def _add_data(self, data: bytes) -> None:
        if self._field is not None:
            self.field_bytes += len(data)
            if self.field_bytes > _LARGEST_FIELD:
                raise Problem("not-a-form", "The fields beside the file are too long.")
            self._value += data
            return
        self.upload.size += len(data)
        if self.upload.size > self.max_bytes:
            raise Problem("too-large", too_large(self.max_bytes))
        self.pending.append(bytes(data))
        self.pending_bytes += len(data)

    def _end_part(self) -> None:
        if self._field is not None:
            self.field_bytes += len(self._field) + 16
            if self.field_bytes > _LARGEST_FIELD:
                raise Problem("not-a-form", "The fields beside the file are too long.")
            self.upload.fields[self._field.decode("utf-8", "replace")] = self._value.decode("utf-8", "replace").strip()


def too_large(max_bytes: int) -> str:
    """Return the sentence of a file above the limit."""
    return f"The file is larger than {max_bytes / (1 << 20):g} MiB, the most that this server takes."


def has_room(folder: Path, max_bytes: int) -> bool:
    """Return whether another file of the largest size fits on the disk of a directory."""
    return shutil.disk_usage(folder).free > max_bytes
