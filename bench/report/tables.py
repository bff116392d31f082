"""Tables of runs in Markdown. Every number comes from a CSV file; a cell that nothing was measured of says so."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import ge, itemgetter, le, lt

from bench.checks.error_bound import FAILS
from bench.common.record import Row
from bench.common.tasks import NOT_RUN
from bench.kernels import spatial
from bench.kernels.relevance import PAIRS, REFERENCE
from bench.loader import comparison
from bench.report.devices import CASE, Device, Rows, entry_name
from bench.report.markdown import number, table
from bench.scaling import PASSES, QUANTITIES, claims, exponents, interval
from bench.training.steps import BATCH, METHODS, PROJECT

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
_HOLDS = {"at least": ge, "at most": le, "under": lt}
# What was promised of explaining: the published storage over this project's, and the time over a training step's.
_SAVING, _TIME_OVER_STEP = "at least 20", "at most 4"


def judged(promise: str, value: float | str | None) -> str:
    """Return whether a number keeps a promise, as "at least 3" or "under 20 %"; nothing where none was measured."""
    if value in (None, ""):
        return ""
    direction, limit = promise.removesuffix(" %").rsplit(" ", 1)
    return "yes" if _HOLDS[direction](float(value) * (100 if "%" in promise else 1), float(limit)) else "no"


def at_paper_size(rows: Rows) -> Rows:
    """Return the rows of the paper's size; all of them where there is none."""
    paper = [row for row in rows if all(row.get(key, value) in (value, "") for key, value in _PAPER.items())]
    return paper or rows


def _by(rows: Rows, line: Callable[[Row], Hashable], column: Callable[[Row], Hashable]) -> dict:
    """Return the rows by line, and in each line by column."""
    found: dict = {}
    for row in rows:
        found.setdefault(line(row), {})[column(row)] = row
    return found


def numerics(device: Device, name: str) -> str:
    """Return comparisons with float64 by operation and dtype, and by the architecture that kernels are compiled for."""
    keys = {"kernel": "operation", "dtype": "dtype"} | ({"sm": "compiled for sm"} if name == "execute" else {})
    groups: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in device.rows(name):
        groups[tuple(row[key] for key in keys)].append(row)
    body = []
    for key, rows in groups.items():
        count = Counter(row["verdict"] for row in rows)
        ratios = [float(row["ratio"]) for row in rows if row["ratio"]]
        finite = all(map(math.isfinite, ratios))  # no number is larger than one that is none
        largest = number(max(ratios, default=None)) if finite else "not a finite number"
        body.append([*key, str(len(ratios)), largest, str(count[FAILS]), str(count[NOT_RUN] or "")])
    header = (*keys.values(), "comparisons", "largest error over eager's", "failed", "cases not run")
    return table(header, body)


def execution_claim(device: Device) -> str:
    """Return two sentences: how compiled kernels are verified without a GPU, and what came of it."""
    every = device.rows("execute")
    rows = [row for row in every if row["verdict"] != NOT_RUN]
    if not rows:
        return ""
    omitted = f"; {len(every) - len(rows)} more were not run in the time given" if len(rows) < len(every) else ""
    failed = sum(row["verdict"] == FAILS for row in rows)
    cases = {entry_name("execute", row) for row in rows}
    dtypes = _listed(dict.fromkeys(row["dtype"] for row in rows))
    architectures = _listed(f"sm_{sm}" for sm in sorted({row["sm"] for row in rows}))
    largest = number(max((float(row["ratio"]) for row in rows if row["ratio"]), default=None))
    return (
        "What Triton compiles for a GPU is executed instruction by instruction on a CPU, tensor cores, asynchronous "
        "copies and barriers included, with every access checked for bounds, races and uninitialized memory "
        "([how](docs/ptx.md)). "
        f"{len(cases)} cases for {architectures} in {dtypes}, with {len(rows)} comparisons of outputs and gradients "
        f"with float64: {failed or 'none'} failed, and the largest error is {largest} times that of eager PyTorch in "
        f"the same dtype (1.5 is allowed){omitted}.\n"
    )


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def operation(device: Device, name: str) -> str:
    """Return an operation and its peers at the paper's size (8 clips of 6 frames): a line a method, a column a pass."""
    rows = at_paper_size(device.rows(name))
    names = [key for key in _ROW_NAMES if any(row.get(key) for row in rows)]
    passes = list(dict.fromkeys(row.get("pass", "") for row in rows))
    lines = _by(rows, lambda row: tuple(row.get(key, "") for key in names), lambda row: row.get("pass", ""))
    order = list(dict.fromkeys(key[1:] for key in lines))  # methods of one task stand together
    body = []
    for key, found in sorted(lines.items(), key=lambda line: order.index(line[0][1:])):
        notes = dict.fromkeys(row.get("note", "") for row in found.values())
        body.append([*key, *(_time(found.get(which, {})) for which in passes), " ".join(notes).strip()])
    header = [*(_ROW_NAMES[key] for key in names), *(f"{which}, µs".strip(", ") for which in passes), "note"]
    return table(header, body)


def _time(row: Row) -> str:
    beside = [f"{factor * float(row[key]):.0f} {unit}" for key, factor, unit in _BESIDE_TIME if row.get(key)]
    return number(row.get("microseconds"), ".1f") + (f" ({', '.join(beside)})" if beside else "")


def spatial_memory(device: Device, name: str) -> str:
    """Return peak memory of spatial attention against the positions S, forward and backward, and how it grows."""
    kinds, rows = (spatial.WITHOUT, spatial.WITH), device.rows(name)
    size = itemgetter("rows", "heads", "head_dim", "dtype")
    rows = [row for row in rows if size(row) == size(rows[0])]  # one kind of tensor
    body = [
        [positions, *(number(found.get(kind, {}).get("peak_bytes"), ".1f", 2**-10) for kind in kinds)]
        for positions, found in _by(rows, itemgetter("positions"), itemgetter("capture")).items()
    ]
    body.append(["grows as S to the", *map(interval, spatial.exponents(rows).values())])
    where = ", in Triton's interpreter" if device.kind == "CPU" else ""
    caption = "B = 1, F = {rows}, N = {heads}, D = {head_dim}, {dtype}".format(**rows[0])
    return f"{caption}{where}.\n\n" + table(("S", *(f"{kind}, KiB" for kind in kinds)), body)


def scaling(device: Device, name: str) -> str:
    """Return fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    rows = device.rows(name)
    fitted, body = exponents(rows), []
    for method, which in dict.fromkeys((row["method"], row["pass"]) for row in rows):
        body.append([method, which])
        for axis in ("T", "HW"):
            work, *others = (fitted.get((axis, which, method, quantity), {}) for quantity in QUANTITIES)
            body[-1] += [number(work.get("exponent")), *map(interval, others)]
    header = ("method", "pass", "work, T", "time, T", "memory, T", "work, HW", "time, HW", "memory, HW")
    return f"{table(header, body)}\n{scaling_claims(device)}"


def scaling_claims(device: Device, passes: Sequence[str] = PASSES) -> str:
    """Return which claims hold on a device, one sentence a line; nothing where nothing was measured."""
    rows = device.rows("scaling")
    sentences = claims(rows, device.name, passes) if rows else []
    return "".join(f"- {sentence}\n" for sentence in sentences)


def promises(device: Device) -> str:
    """Return what was promised of a training step in bfloat16 on one large GPU, what was measured, and if it holds."""
    steps = {entry_name("training", row): row for row in device.rows("training") if row["step_ms"]}

    def fastest(attention: str, *methods: str) -> dict[str, str]:
        names = [("seed", attention, "bfloat16", method, str(BATCH)) for method in methods]
        return min((steps[name] for name in names if name in steps), key=lambda row: float(row["step_ms"]), default={})

    def over(a: dict[str, str], b: dict[str, str]) -> float | None:
        return float(a["step_ms"]) / float(b["step_ms"]) if a and b else None

    full = fastest("full", *PROJECT)
    parts = [row for row in device.rows("training_families") if full and all(row[key] == full[key] for key in CASE)]
    attention = [float(row["share"]) for row in parts if row["family"] in ("temporal attention", "spatial attention")]
    lines = (
        ("model FLOP utilization", "at least 55 %", full.get("utilization_data_sheet")),
        ("speed over naive eager", "at least 3", over(fastest("full", "naive eager"), full)),
        ("speed over compiled SDPA", "at least 1.3", over(fastest("full", "compiled SDPA"), full)),
        ("step time over spatial-only", "at most 1.5", over(full, fastest("spatial_only", *PROJECT))),
        ("attention kernels in the step", "under 20 %", sum(attention) if parts else None),
    )
    body = [
        [name, promise, number(value, ".1%") if "%" in promise else number(value), judged(promise, value)]
        for name, promise, value in lines
    ]
    return table(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)


def families(device: Device, name: str) -> str:
    """Return where the time of a step goes: the full seed model in the first precision that was profiled."""
    first, *_ = rows = device.rows(name)
    rows = [row for row in rows if all(row[key] == first[key] for key in CASE if key != "method")]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    body = [
        [name, *(_share(found.get(method)) for method in methods)]
        for name, found in _by(rows, itemgetter("family"), itemgetter("method")).items()
    ]
    return "{preset}, {attention}, {precision}:\n\n".format(**first) + table(("family", *methods), body)


def _share(row: Row | None) -> str:
    return f"{100 * float(row['share']):.1f} % ({float(row['us_per_step']) / 1e3:.2f} ms)" if row else "-"


def listing(device: Device, name: str) -> str:
    """Return a table with a line for each record."""
    rows, columns = device.rows(name), _COLUMNS[name]
    if name == "spatial_capture":
        rows = at_paper_size(rows)
    elif name == "explanation_memory":
        saved = [row.get("over_light") if row["storage"] == REFERENCE else None for row in rows]
        rows = [row | {"holds": judged(_SAVING, value)} for row, value in zip(rows, saved, strict=True)]
    elif name == "explanation_time":
        rows = [_beside_step(device, row, step) for row in rows for of, step in PAIRS if of == row["arithmetic"]]
    return table(list(columns), [[_cell(row, *shown.split(":")) for shown in columns.values()] for row in rows])


def loader(device: Device, name: str) -> str:
    """Return the table of loaders, and a line for each kind of crops: how many times as fast they are."""
    lines = "".join(f"- {line}\n" for line in loader_claims(device))
    return listing(device, name) + (f"\n{lines}" if lines else "")


def loader_claims(device: Device) -> list[str]:
    """Return a sentence for each kind of crops and size of picture that a device has measured."""
    keys = ("clips_per_core", "decoded_per_core", "decoded_16_cores")
    rows = [row for row in device.rows("loader") if row.get("clips")]
    return comparison([row | {key: float(row[key]) for key in keys if row.get(key)} for row in rows])


def processor_claims(device: Device) -> list[str]:
    """Return a sentence for scoring and for training: the way of `istvt`, beside PyTorch with its defaults."""
    sentences = []
    for task, way, what in (("score", "folded", "Scoring"), ("train", "channels last", "Training")):
        rows = [row for row in device.rows("inference") if (row["task"], row["way"]) == (task, way)]
        for row in (row for row in rows if row.get("speed_up")):
            low, middle, high = (f"{float(row[key]):.2f}" for key in ("speed_up_low", "speed_up", "speed_up_high"))
            used, clips = float(row["seconds_per_clip"]), f"{row['batch']} clip{'s' * (row['batch'] != '1')} at once"
            sentences.append(
                f"{what} ({row['preset']}, {row['precision']}, {clips}, threads: {row['threads']}): "
                f"{used:.1f} s of processor time a clip, {middle} times ({low} to {high}) the speed of PyTorch with "
                "its defaults."
            )
    for row in device.rows("explanation_memory"):
        if row["storage"] == REFERENCE and row.get("over_light"):
            peak, less = float(row["peak_bytes"]) / 2**20, float(row["over_light"])
            what = f"{row['preset']}, from its {row['from']}"
            sentences.append(
                f"Explaining a clip ({what}) stores {peak / less:.0f} MiB, {less:.0f} times less than as published."
            )
    return sentences


def _beside_step(device: Device, row: Row, precision: str) -> Row:
    """Return the time of an explanation with that of the training step that it is compared with."""
    steps = {entry_name("training", step): step["step_ms"] for step in device.rows("training")}
    step = steps.get((row["preset"], "full", precision, "this project", row.get("clips")))
    ratio = float(row["explain_ms"]) / float(step) if row.get("explain_ms") and step else None
    beside = {"training": precision, "training_ms": step, "ratio": ratio}
    return row | beside | {"holds": judged(_TIME_OVER_STEP, ratio)}


def _cell(row: Row, key: str, form: str = "", unit: str = "1") -> str:
    """Return a number in its form and unit or that it was not measured; without a form, text."""
    if not form:
        return str(row.get(key) or "")
    return number(row.get(key), form, 1 / float(unit))


# By CSV file: the title of each column, and its key, with form and unit where it is a number.
_COLUMNS = {
    "ceilings": {"ceiling": "ceiling", "measured": "value:.2f", "unit": "unit"},
    "spatial_capture": {
        "D": "head_dim", "pass": "pass", "µs": "microseconds:.2f", "µs with capture": "microseconds_with_capture:.2f",
        "added over byte floor": "added_over_floor:.2f", "note": "note",
    },
    "explanation_memory": {
        "preset": "preset", "explained from": "from", "storage": "storage", "peak MiB": "peak_bytes:.0f:1048576",
        "over this project's": "over_light:.1f", _SAVING: "holds", "note": "note",
    },
    "explanation_time": {
        "preset": "preset", "clips": "clips", "explained in": "arithmetic", "trained in": "training",
        "explaining, ms": "explain_ms:.1f", "step, ms": "training_ms:.1f", "ratio": "ratio:.2f",
        _TIME_OVER_STEP: "holds", "note": "note",
    },
    "training": {
        **{key: key for key in CASE}, "clips/s": "clips_per_second:.2f", "step ms": "step_ms:.2f",
        "utilization": "utilization_data_sheet:.1%", "of needed work": "needed_data_sheet:.1%",
        "of measured peak": "utilization_measured_peak:.1%", "peak GB": "peak_bytes:.1f:1e9",
        "reserved GB": "reserved_bytes:.1f:1e9", "note": "note",
    },
    "loader": {
        "read from": "source", "picture": "picture", "decoder": "decoder", "onto": "device", "workers": "workers",
        "pixels": "image_size", "clips/s a core": "clips_per_core:.1f",
        "read and decoded alone": "decoded_per_core:.1f",
        "by 16 cores": "decoded_16_cores:.0f", "KiB a frame": "bytes_per_frame:.1f:1024",
        "MiB of memory": "memory_bytes:.0f:1048576",
        "MiB grown meanwhile": "grown_bytes:.0f:1048576", "without decoding": "lock_clips:.0f",
        "16 threads, of ideal": "thread_share:.0%", "note": "note",
    },
    "inference": {
        "task": "task", "way": "way", "clips at once": "batch", "precision": "precision", "preset": "preset",
        "processor s a clip": "seconds_per_clip:.2f", "on the clock": "clock_seconds_per_clip:.2f",
        "times as fast as plain": "speed_up:.2f", "lowest": "speed_up_low:.2f", "highest": "speed_up_high:.2f",
        "first call, s": "first_call_s:.1f", "probability differs by": "probability_differs_by:.0e", "note": "note",
    },
}  # fmt: skip
# By CSV file, in the order of the page: the title of a table, and what writes it.
TABLES: dict[str, tuple[str, Callable[[Device, str], str]]] = {
    "ceilings": ("Ceilings", listing),
    "numerics": ("Numerics", numerics),
    "execute": ("Compiled kernels, executed on this CPU", numerics),
    "temporal": ("Temporal attention", operation),
    "layer_norm_difference": ("LayerNorm and difference", operation),
    "spatial": ("Spatial attention", operation),
    "relevance": ("Relevance", operation),
    "spatial_capture": ("What a capture of spatial attention costs", listing),
    "spatial_memory": ("Memory of spatial attention", spatial_memory),
    "explanation_memory": ("Memory of explaining one clip", listing),
    "explanation_time": ("Time of explaining a batch", listing),
    "training": ("A training step", listing),
    "training_families": ("Where its time goes", families),
    "loader": ("Loader", loader),
    "inference": ("Scoring and training on a processor", listing),
    "scaling": ("Scaling", scaling),
}
