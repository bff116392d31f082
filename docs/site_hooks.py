"""What `mkdocs build` needs beyond docs/: pages of the commands and of files of the repository, and their links."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site by the file of the repository that they show.
SHOWN = {
    "bench/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the commands into the navigation."""
    from istvt.cli.main import COMMANDS

    [commands] = [part for part in config.nav if isinstance(part, dict) and "Commands" in part]
    commands["Commands"] = ["commands/index.md", *({f"istvt {name}": f"commands/{name}.md"} for name in COMMANDS)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made when the site is."""
    pages = {page: (ROOT / source).read_text() for source, page in SHOWN.items()} | command_pages()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files outside docs/ at their pages; the name of a file that has none is left as code."""
    source = next((name for name, shown in SHOWN.items() if shown == page.file.src_uri), f"docs/{page.file.src_uri}")

    def changed(match: re.Match) -> str:
        picture, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (ROOT / source).parent.joinpath(target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # mkdocs says that it leads nowhere
        name = path.relative_to(ROOT).as_posix()
        if name in SHOWN:
            return f"{picture}[{text}]({_relative(page, SHOWN[name])}{anchor or ''})"
        if name == "README.md":
            return f"[{text}]({_relative(page, 'index.md')})"
        if name.startswith("docs/"):
            return f"{picture}[{text}]({_relative(page, name.removeprefix('docs/'))}{anchor or ''})"
        return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}`)"

    return _LINK.sub(changed, markdown)


def command_pages() -> dict[str, str]:
    """Return a page a command, of its own --help, and one that lists them."""
    from istvt.cli.main import COMMANDS, main

    lines = [
        "# Commands",
        "",
        "Every option can stand in a YAML file (`--config FILE`); `--print_config` prints one.",
        "",
    ]
    pages = {}
    with patch.dict("os.environ", COLUMNS="100"):
        for name, (_, summary) in COMMANDS.items():
            with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
                main([name, "--help"])
            pages[f"commands/{name}.md"] = f"# istvt {name}\n\n```text\n{_plain(text.getvalue())}\n```\n"
            lines.append(f"- [`istvt {name}`]({name}.md): {summary}")
    return pages | {"commands/index.md": "\n".join(lines) + "\n"}


def _relative(page: Page, target: str) -> str:
    return "../" * page.file.src_uri.count("/") + target


def _plain(text: str) -> str:
    return text.replace(" \b", "").strip()  # jsonargparse joins --print_config and its [=flags] by a backspace
