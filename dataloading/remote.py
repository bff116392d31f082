"""Remote files by fsspec URLs (`s3://`, `gs://`, `https://`, `memory://`): copied to this machine, whole, before use.

A video is copied for as long as it is read, and a crop store is kept in the cache directory. Nothing is decoded from a
stream: a decoder runs in a worker process, where bytes of unknown origin may take over, and neither a connection nor a
key belongs there; and `predict` passes over a file three times (its packets, all of its frames for faces, its clips):
a stream would be transferred as often.

A transfer is made in ranges, each of which is tried again where it fails; a copy has its name only when it is complete.
Of a data set there is a directory of the same names in the cache: lists are copied, and a video is an empty file of the
size of the remote one, which takes no space on the disk; its modification time changes with the remote version.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.io import read_json, replacing, write_json

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ATTEMPTS = 4
FIRST_PAUSE = 0.5  # seconds before the second attempt; each further one waits for twice as long
CHUNK = 16 << 20  # bytes of a range
LISTS = frozenset({".json", ".jsonl", ".csv", ".txt"})
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")  # one slash is what pathlib leaves of two
_MARKER = ".remote.json"  # in a directory of the cache: the URL that it stands for
# Of what file systems say of a file: what changes with its content.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


def url_of(path: str | Path) -> str | None:
    """Return the URL that a path is, also where it went through `pathlib`; None for a path of this machine."""
    match = _URL.match(str(path))
    return f"{match[1]}://{str(path)[match.end() :]}" if match else None


def suffix_of(url: str) -> str:
    """Return the suffix of the file name in a URL, in small letters."""
    return Path(urlsplit(url).path).suffix.lower()


@contextlib.contextmanager
def local(path: str | Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Give a file of this machine: the file itself, or a copy of a URL's that is removed after the context.

    An InputError of the context that names the copy names the URL instead.

    Args:
        path: A path or a URL.
        stopped: Asked between ranges; where it returns true the transfer is given up.

    Raises:
        InputError: The URL cannot be read.
    """
    url = url_of(path) or _url_of_placeholder(Path(path))
    if url is None:
        yield Path(path)
        return
    directory = Path(tempfile.mkdtemp(prefix="istvt-"))
    copy = directory / (Path(urlsplit(url).path).name or "video")
    try:
        download(url, copy, stopped)
        yield copy
    except InputError as error:
        raise InputError(str(error).replace(str(copy), url)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def local_video(video: Video, stopped: Callable[[], bool] = lambda: False) -> Iterator[Video]:
    """Give a video of a data set with its file, and its mask, on this machine; see `local`."""
    with local(video.path, stopped) as path, contextlib.ExitStack() as also:
        mask = also.enter_context(local(video.mask, stopped)) if video.mask else None
        yield replace(video, path=path, mask=mask)


def download(url: str, target: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Copy the file of a URL to `target`, whole or not at all.

    Raises:
        InputError: The URL cannot be read: at once where the file is not there or not allowed, else after `ATTEMPTS`.
        OSError: `target` cannot be written.
    """
    system, name = _filesystem(url)
    size = _again(url, lambda: system.info(name), stopped)["size"]
    with replacing(target) as temporary, temporary.open("wb") as file:
        if size is None:  # of a server that does not say: there are no ranges either
            file.write(_again(url, lambda: system.cat_file(name), stopped))
            return
        done = 0
        while done < size:
            data = _again(url, lambda: _range(system, name, file.tell(), size), stopped)
            file.write(data)
            done += len(data)


def mirror(url: str, whole_with: str, progress: bool = True) -> Path:
    """Return a directory of this machine that stands for the one of a URL; see the module.

    Args:
        url: Of a directory.
        whole_with: Where a file of this name is in it, all files are copied and none is a placeholder: a crop store.
        progress: Show a progress bar on standard error while files are copied.

    Raises:
        InputError: The URL cannot be read, or there is no file.
    """
    from filelock import FileLock
    from rich.console import Console
    from rich.progress import track

    system, name, found = _find(url)
    files = {path.removeprefix(name).lstrip("/"): info for path, info in found.items()}
    files = {path: info for path, info in files.items() if path and not path.startswith(".") and ".." not in path}
    if not files:
        raise InputError(f"{url} holds no file; expected a directory of videos or a crop store.")
    whole = whole_with in files
    root = _cache() / f"{Path(name).name or 'root'}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # the processes of a training run wait for the first one
        write_json(root / _MARKER, asdict(_Marker(url.rstrip("/"), whole)))
        for old in [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]:
            if old.relative_to(root).as_posix() not in files:
                old.unlink()
        console, copied = Console(stderr=True), []
        for path, info in files.items():
            if info.get("size") is None:
                info = _again(url, lambda path=path: system.info(f"{name}/{path}"))
            place, version = root / path, _version(info)
            if not place.resolve().is_relative_to(root.resolve()):
                raise InputError(f"{url} holds a file named {path!r}, which is outside of it.")
            if not _is_there(place, info.get("size"), version):
                place.parent.mkdir(parents=True, exist_ok=True)
                if whole or _is_list(place):
                    copied.append((place, f"{url.rstrip('/')}/{path}", version))
                else:
                    with replacing(place) as temporary, temporary.open("wb") as file:
                        file.truncate(info.get("size") or 0)
                    os.utime(place, ns=(version, version))
        for place, source, version in track(
            copied, f"Copying {url}", console=console, disable=not progress or len(copied) < 2
        ):
            download(source, place)
            os.utime(place, ns=(version, version))
    return root


def mirrored(path: Path) -> str | None:
    """Return the URL that a directory of the cache, or a file in it, stands for; None for any other."""
    marker = _marker_of(path)
    if marker is None:
        return None
    place, content = marker
    return content.url if place == path else f"{content.url}/{path.relative_to(place).as_posix()}"


def require_one_machine(root: Path, *parts: object) -> None:
    """Raise InputError where the data set in `root` is remote and an engine or a shard, one of `parts`, is given."""
    url = mirrored(root)
    if url and any(part is not None for part in parts):
        raise InputError(
            f"{url} is remote, and many machines read a data set under the same paths; expected one on a shared disk, "
            "or neither --engine nor --shard."
        )


def videos_of(url: str, suffixes: frozenset[str]) -> list[str]:
    """Return the URL of a file, or those of the videos below the directory of a URL.

    Raises:
        InputError: The URL cannot be read, or is of a directory without a video.
    """
    if suffix_of(url):
        return [url]
    system, name = _filesystem(url)
    if not _again(url, lambda: system.isdir(name)):
        return [url]
    _, _, found = _find(url)
    chosen = sorted(path for path in found if suffix_of(path) in suffixes)
    if not chosen:
        raise InputError(f"{url} holds no video file (looked for {', '.join(sorted(suffixes))}).")
    return [path if "://" in path else system.unstrip_protocol(path) for path in chosen]


@dataclass(frozen=True, slots=True)
class _Marker:
    """What a directory of the cache stands for: a URL, and whether its files are copies and none is a placeholder."""

    url: str
    whole: bool


def _marker_of(path: Path) -> tuple[Path, _Marker] | None:
    """Return the directory of the cache that a path is in, and the content of its marker.

    Elsewhere a file of that name is of no account: a data set of unknown origin could send its reader to any URL.
    """
    cache = _cache()
    for place in (path, *path.parents):
        if place.parent in (cache, cache.resolve()) and (place / _MARKER).is_file():
            return place, read_json(place / _MARKER, _Marker)
    return None


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in LISTS


def _url_of_placeholder(path: Path) -> str | None:
    """Return the URL of a file that is a placeholder in a directory of the cache; None for any other."""
    marker = None if _is_list(path) else _marker_of(path)
    return None if marker is None or marker[1].whole else mirrored(path)


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL, and the name of the file there."""
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        named = f"the package {package}" if package else "another package"
        how = "; expected pip install 'istvt[remote]'" if package == "aiohttp" else ""
        raise InputError(f"{url} needs {named}, which is not installed ({error}){how}.") from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; expected a URL such as s3://, gs:// or https://.") from error


def _find(url: str) -> tuple[AbstractFileSystem, str, dict[str, dict[str, Any]]]:
    """Return the file system of a URL, the name of its directory there, and by name what is said of each file below."""
    system, name = _filesystem(url)
    name = name.rstrip("/")
    # Of HTTP's index pages one that cannot be read would be left out in silence; other systems have no pages.
    options = {"on_error": "raise"} if url.startswith("http") else {}
    return system, name, _again(url, lambda: system.find(name, detail=True, **options))


def _again(url: str, attempt: Callable[[], Any], stopped: Callable[[], bool] = lambda: False) -> Any:
    """Return what `attempt` returns, tried up to `ATTEMPTS` times.

    Raises:
        InputError: It fails; the sentence names the URL.
    """
    for number in range(ATTEMPTS):
        if stopped():
            raise InputError(f"{url}: its transfer was stopped.")
        try:
            return attempt()
        except MemoryError:
            raise
        except Exception as raised:  # of aiohttp, botocore and others, which share no type
            error = _behind(raised)
            status = getattr(error, "status", None)
            if isinstance(error, FileNotFoundError) or status == 404:
                raise InputError(f"{url} does not exist; expected a file or a directory there.") from raised
            if isinstance(error, PermissionError) or status in (400, 401, 403, 405, 410):
                raise InputError(f"{url} may not be read ({_reason(error)}).") from raised
            if number == ATTEMPTS - 1:
                raise InputError(f"{url} could not be read in {ATTEMPTS} attempts ({_reason(error)}).") from raised
            time.sleep(FIRST_PAUSE * 2**number)
    raise AssertionError("unreachable")


def _behind(error: Exception) -> BaseException:
    """Return what an error is of: fsspec says FileNotFoundError of HTTP also where no connection was made."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _range(system: AbstractFileSystem, name: str, start: int, size: int) -> bytes:
    """Return the next bytes of a file from `start` on: at most `CHUNK`, or all where the server knows no ranges."""
    end = min(start + CHUNK, size)
    data = system.cat_file(name, start=start, end=end)
    if len(data) == size > end - start:
        return data[start:]
    if len(data) != end - start:
        raise OSError(f"{len(data)} bytes came instead of {end - start}")
    return data


def _reason(error: BaseException) -> str:
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _version(info: dict[str, Any]) -> int:
    """Return a modification time, in ns, that differs between versions of a remote file."""
    found = [str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None][:1]
    return (1_000_000_000 + zlib.crc32(repr([info.get("size"), *found]).encode()) % 1_000_000_000) * 10**9


def _is_there(place: Path, size: int | None, version: int) -> bool:
    with contextlib.suppress(OSError):
        status = place.stat()
        return status.st_mtime_ns == version and size in (None, status.st_size)
    return False


def _cache() -> Path:
    """Return the directory of what is kept of remote data."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "istvt"
