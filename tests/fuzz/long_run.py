"""`make fuzz`: thousands of damaged inputs through the commands, and the counts of the run in SECURITY.md.

    python tests/fuzz/long_run.py --inputs 2000                                       all kinds, by their shares
    python tests/fuzz/long_run.py --target predict --first 58 --inputs 1 --results one.jsonl     one of them again

Every input is one of a target, a seed and a number, and is made from these alone. Results are written to a file as they
come: a run that was stopped goes on where it was, and one that was finished starts anew. Every hundredth input goes
through the real `istvt` executable too, which must end as the fork did.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from fork_server import ForkServer
from fuzzing import ALLOWED, RESIDENT, SECONDS, run_input
from rich.progress import Progress
from seeds import make_seeds
from targets import TARGETS

BEGIN, END = "<!-- counts of the last long run, by make fuzz -->", "<!-- end of the counts -->"
EXECUTABLE_EVERY = 100


def main() -> int:
    """Run the inputs, print what went wrong, write the counts; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2_000, help="how many, over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), help="inputs of this one alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--workers", type=int, default=1, help="processes that run inputs")
    parser.add_argument("--results", type=Path, default=Path("runs/fuzz.jsonl"), help="a line an input")
    parser.add_argument("--write", type=Path, help="put the counts into this file")
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1] / "dataloading"))  # `video_fixtures`, as pytest has it
    wanted = inputs(options.inputs, options.first, [options.target] if options.target else list(TARGETS))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if options.results.exists():
        rows = map(json.loads, options.results.read_text().splitlines())
        done = {(row["target"], row["seed"], row["number"]): row for row in rows}
    todo = [each for each in wanted if (each[0], options.seed, each[1]) not in done]
    if not todo:  # of a run that is finished: the next one starts anew
        options.results.unlink()
        todo, done = wanted, {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-seeds")))
        seeds = make_seeds(place) if todo else None
        servers: SimpleQueue[ForkServer] = SimpleQueue()
        for _ in range(options.workers if todo else 0):
            servers.put(stack.enter_context(ForkServer(ALLOWED, SECONDS)))
        progress = stack.enter_context(Progress())
        shown = progress.add_task("damaged inputs", total=len(wanted), completed=len(wanted) - len(todo))
        file = stack.enter_context(options.results.open("a"))

        def run(each: tuple[str, int]) -> dict:
            server = servers.get()
            try:
                target, number = each
                real = sum(map(ord, target)) % EXECUTABLE_EVERY == number % EXECUTABLE_EVERY
                return asdict(run_input(server, seeds, target, options.seed, number, real)) | {"seed": options.seed}
            finally:
                servers.put(server)

        for row in stack.enter_context(ThreadPoolExecutor(options.workers)).map(run, todo):
            done[row["target"], options.seed, row["number"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            if row["problem"]:
                line = f"{row['target']} {row['number']}: {row['problem']} ({row['what']})"
                progress.console.print(line, markup=False)
            progress.advance(shown)
    rows = [done[target, options.seed, number] for target, number in wanted]
    text = counts(rows, options.seed)
    print(text)
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return int(any(row["problem"] for row in rows))


def inputs(count: int, first: int, names: list[str]) -> list[tuple[str, int]]:
    """Return target and number of so many inputs, each target with its share, spread over the run."""
    whole = sum(TARGETS[name][0] for name in names)
    found = []
    for name in names:
        share = TARGETS[name][0] / whole * count
        found += [((number + 0.5) / share, name, first + number) for number in range(round(share))]
    return [(name, number) for _, name, number in sorted(found)]


def counts(rows: list[dict], seed: int) -> str:
    """Return the counts of a run as a table and some sentences in Markdown."""
    lines = ["| input | inputs | exit 0 | exit 1 | exit 2 | wrong |", "|---|---:|---:|---:|---:|---:|"]
    for name in TARGETS:
        of = [row for row in rows if row["target"] == name]
        by = Counter(row["status"] for row in of)
        wrong = sum(row["problem"] is not None for row in of)
        if of:
            lines.append(f"| {name} | {len(of)} | {by[0]} | {by[1]} | {by[2]} | {wrong} |")
    by, wrong = Counter(row["status"] for row in rows), [row for row in rows if row["problem"]]
    lines.append(f"| all | {len(rows)} | {by[0]} | {by[1]} | {by[2]} | {len(wrong)} |")
    scored, real = sum(row["scored"] for row in rows), sum(row["executable"] for row in rows)
    slowest, largest = max(row["seconds"] for row in rows), max(row["memory"] for row in rows)
    lines += [
        "",
        f"{len(rows):,} inputs, seed {seed}, {datetime.now(UTC):%Y-%m-%d}. {scored} damaged videos were scored, and "
        "their scores were compared with those of the pictures that a plain decoder gives. "
        f"{real} inputs went through the real executable too. The slowest took {slowest:.0f} s (allowed: "
        f"{SECONDS:.0f}), the largest {largest / 2**20:,.0f} MiB (allowed: {RESIDENT / 2**20:,.0f}).",
    ]
    lines += [""] * bool(wrong)
    lines += [f"- {row['target']} {row['number']}: {row['problem']} ({row['what'][:100]!r})" for row in wrong]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
