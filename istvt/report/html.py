"""HTML pages from the templates in `templates/`: one self-contained file each, without script or network."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from dataloading.errors import InputError
from dataloading.io import replacing

_SEPARATORS = re.compile(r"([/_,])")


def render(template: str, folder: Path | None = None, **values: Any) -> str:
    """Return the HTML of a template of `templates/`, or of a further folder, with these values.

    Values are escaped unless they are `Markup`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [*filter(None, [folder]), Path(__file__).parent / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(template).render(**values)


def write_page(path: str | os.PathLike[str], html: str) -> None:
    """Write a page, whole or not at all; its directory is made where it does not exist.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # File names need not be valid Unicode: invalid bytes are written as escapes.
            temporary.write_bytes(html.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def data_address(content: bytes, kind: str) -> str:
    """Return the data URL of a file of the MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _breakable(text: str) -> Markup:
    """Return the escaped text with a place to break the line after each slash, underscore and comma."""
    return Markup(_SEPARATORS.sub(r"\1<wbr>", str(escape(text))))
