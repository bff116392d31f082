"""`istvt serve`: a local page and an HTTP interface that judge and explain videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from dataloading.errors import as_input_error
from istvt.cli.console import print_lines, printable, starting
from istvt.cli.options import (
    add_checkpoint,
    add_device,
    add_face_detection,
    add_precision,
    check_architecture,
    check_checkpoint,
    check_device_name,
    detect_option,
)
from istvt.config import DetectorConfig, ServeSettings


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_checkpoint(parser)
    parser.add_class_arguments(ServeSettings)
    parser.add_argument("--no-log", dest="no_log", action="store_true", help="print no line for each request")
    add_face_detection(parser)
    add_device(parser)
    add_precision(parser)


def run(options: Namespace, console: Console) -> int:
    """Open a page on this machine to drop videos on, and an HTTP interface for programs (/openapi.json describes it).

      istvt serve --checkpoint runs/ffpp

    Videos are judged one after another, as `istvt predict --isolate` does, and explained, as `istvt explain` does.
    Nothing leaves the machine. Videos and results are removed after --keep_minutes, and when the server ends (Ctrl-C).

    On any other address than this machine's own, requests have to bring a token: as Authorization: Bearer TOKEN, or
    entered in the page."""
    from istvt.cli.service.server import address_of, listen, read_token, require_packages, serve
    from istvt.run_dir import output_directory

    with as_input_error():
        settings = ServeSettings(**{field.name: options[field.name] for field in fields(ServeSettings)})
    detect = detect_option(options)
    check_device_name(options.device)
    check_checkpoint(options)
    token = read_token(settings)
    require_packages()
    if settings.storage is not None:
        output_directory(settings.storage)  # fails here, and not after the address is printed
    with listen(settings.host, settings.port) as listening:
        with starting(console):
            from dataloading.video.sandbox import missing
            from istvt.cli.service.analysis import Analyzer
            from istvt.device import pick_device
        check_architecture(options)
        analyzer = Analyzer.load(
            options.checkpoint,
            settings,
            device=str(pick_device(options.device)),
            detector=options.detector,
            detect=detect,
            precision=options.precision,
        )
        if unenforced := missing():
            print_lines(
                console, f"videos are isolated, but not limited here: {' and '.join(unenforced)}", style="yellow"
            )
        print_lines(console, *analyzer.notes, style="yellow")
        print_lines(console, str(analyzer.band or "no band of scores without a verdict"), style="dim")
        address = address_of(listening, settings.host)
        console.print(f"open [bold]{escape(printable(address))}[/]  (Ctrl-C ends)", soft_wrap=True, highlight=False)
        with _request_log(shown=not options.no_log):
            serve(listening, lambda: analyzer, settings, token)
    return 0


@contextmanager
def _request_log(shown: bool) -> Iterator[None]:
    """Print the log of requests, or errors alone, on standard error, apart from what other programs may read."""
    log, handler = logging.getLogger("istvt.serve"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(handler)
    before, log.propagate = (log.level, log.propagate), False
    log.setLevel(logging.INFO if shown else logging.ERROR)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[1]
        log.setLevel(before[0])
