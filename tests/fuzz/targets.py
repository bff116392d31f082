"""Damaged inputs by kind: what is damaged, the command that reads it, and what must hold of the result.

A target writes the files of one input into a directory and returns a `Case`; the same random numbers give the same.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import torch
from fork_server import Result
from mutations import (
    NUMBERS,
    TEXTS,
    changed_csv,
    changed_json,
    changed_lines,
    changed_option,
    changed_yaml,
    damaged,
    fields,
    odd_name,
)
from safetensors.torch import load_file, safe_open, save_file
from seeds import LISTS, MODEL, Seeds, adapting, comparing, copy_tree, cutting, training, write

CANARY = "code was run"
Target = Callable[[Random, Seeds, Path], "Case"]


@dataclass
class Case:
    """One input.

    Attributes:
        what: what was damaged, and how.
        arguments: of the command.
        function: that is called with them.
        scored: the video and the file of scores, where its scores are to be checked.
        after: returns what is wrong with what the command left, or None.
    """

    what: str
    arguments: list[str]
    function: str = "istvt.cli.main:main"
    scored: tuple[Path, Path] | None = None
    after: Callable[[Result], str | None] = field(default=lambda result: None)


def _evaluation(checkpoint: Path, root: Path) -> list[str]:
    return ["evaluate", f"--checkpoint={checkpoint}", f"--data.root={root}", "--bootstrap=9"]


# Videos.


def _damaged_video(random: Random, seeds: Seeds, names: list[str] | None = None) -> tuple[str, bytes, str]:
    name, donor = random.choice(names or [*seeds.videos]), random.choice([*seeds.videos])
    data, what = damaged(seeds.videos[name].read_bytes(), random, seeds.videos[donor].read_bytes())
    return name, data, f"{name}: {what} (donor {donor})"


def predict(random: Random, seeds: Seeds, place: Path) -> Case:
    name, data, what = _damaged_video(random, seeds)
    path, scores = write(place / name, data), place / "scores.json"
    how = random.choice(("--detect", "--detect", "--no-detect"))
    arguments = ["predict", str(path), f"--checkpoint={seeds.run}", how, f"--json={scores}"]
    return Case(f"{what}, {how}", arguments, scored=(path, scores))


def explain(random: Random, seeds: Seeds, place: Path) -> Case:
    name, data, what = _damaged_video(random, seeds)
    path, out = write(place / name, data), place / "why"
    arguments = ["explain", str(path), f"--checkpoint={seeds.run}", "--no-detect", f"--out={out}", "--clips=1"]

    def after(result: Result) -> str | None:
        if result.status == 0 and not 0 <= json.loads((out / "explanation.json").read_text())["probability_fake"] <= 1:
            return "a probability that is none"
        return None

    return Case(what, arguments, after=after)


def prepare(random: Random, seeds: Seeds, place: Path) -> Case:
    name, data, what = _damaged_video(random, seeds)
    root, suffix = place / "set", Path(name).suffix
    suffix = {".ts": ".mpg"}.get(suffix, suffix)  # .ts is none of the suffixes of videos in sets
    for kind in ("real", "fake"):
        (root / kind).mkdir(parents=True)
    write(root / "real" / f"damaged{suffix}", data)
    os.link(seeds.videos["h264.mp4"], root / "fake" / "whole.mp4")
    how = random.choice(([], ["--no-detect"], ["--every=1"]))

    def after(result: Result) -> str | None:
        entries = {}
        for line in (root / "face_index.jsonl").read_text().splitlines():
            entry = json.loads(line)
            entries[entry["video"]] = entry.get("error")
        if set(entries) != {"real/damaged", "fake/whole"} or entries["fake/whole"]:
            return f"the index is {entries}"
        # A video that is too short for a clip is no error, and the status is 1 all the same.
        return f"status 0, but {entries}" if entries["real/damaged"] and result.status == 0 else None

    return Case(f"{what}, {how}", ["prepare", str(root), "--workers=1", *how], after=after)


def train_on_video(random: Random, seeds: Seeds, place: Path) -> Case:
    _, data, what = _damaged_video(random, seeds)
    root = copy_tree(seeds.small, place / "set")
    video = random.choice(sorted(root.rglob("*.mp4")))
    write(video, data)
    arguments = [*training(root, place / "run"), "--training.epochs=1", "--data.train_clips=2"]

    def after(result: Result) -> str | None:
        if result.status == 0 and not (place / "run" / "best.safetensors").is_file():
            return "there is no model"
        return None

    return Case(f"{what} as {video.name}", arguments, after=after)


# Lists and indices of data sets.


def dataset_list(random: Random, seeds: Seeds, place: Path) -> Case:
    name = random.choice([*LISTS])
    change = {".json": changed_json, ".csv": changed_csv, ".txt": changed_lines}[Path(name).suffix]
    content = json.loads(LISTS[name]) if name.endswith(".json") else LISTS[name]
    data, what = change(content, random)
    root = copy_tree(seeds.lists / name.split("/")[0], place / "set")
    write(root / name.partition("/")[2], data)
    return Case(f"{name}: {what}", ["dataset", str(root)])


def synthetic_settings(random: Random, seeds: Seeds, place: Path) -> Case:
    data, what = changed_json(json.loads((seeds.set / "synthetic.json").read_text()), random)
    root = copy_tree(seeds.set, place / "set")
    write(root / "synthetic.json", data)
    arguments = ["synthesize", str(root), "--identities=8", "--frames=10", "--size=48", "--workers=1"]
    return Case(f"synthetic.json: {what}", arguments)


def face_index(random: Random, seeds: Seeds, place: Path) -> Case:
    root = copy_tree(seeds.small, place / "set")
    entries = [json.loads(line) for line in (root / "face_index.jsonl").read_text().splitlines()]
    shots = [[0, 6], [7, 15]]
    boxes = {"frame": [0, 5, 15], "x": [48.0, 50.0, 48.5], "y": [48.0, 48.0, 50.0], "size": [40.0, 41.0, 42.0]}
    more = {
        "boxes": boxes,
        "boxes_of": "train/real/train_real",
        "shots": shots,
        "others": [boxes],
        "detector": "yuface",
    }
    entry = random.choice(entries)
    entry |= more if random.random() < 0.7 else {}
    number = entries.index(entry)
    data, what = changed_json(entry, random)
    lines = [json.dumps(entry).encode() for entry in entries]
    lines[number] = data.replace(b"\n", b" ") if random.random() < 0.9 else data
    write(root / "face_index.jsonl", b"\n".join(lines) + b"\n" * random.choice((0, 1, 1)))
    run = place / "run"
    commands = {
        "train": [*training(root, run), "--training.epochs=1"],
        "evaluate": [*_evaluation(seeds.run, root), f"--output={run}", "--split=val"],
        "prepare": ["prepare", str(root), "--workers=1", *random.choice(([], ["--no-detect"], ["--replace"]))],
    }  # fmt: skip
    name = random.choice([*commands])
    return Case(f"face_index.jsonl line {number}: {what}, {name}", commands[name])


def boxes_file(random: Random, seeds: Seeds, place: Path) -> Case:
    root = copy_tree(seeds.small, place / "set")
    (root / "face_index.jsonl").unlink()
    boxes = {
        f"{split}/{kind}/{split}_{kind}": [[0, 10, 10, 60, 60], [9, 12.5, 10, 62, 61]]
        for split in ("train", "val")
        for kind in ("real", "fake")
    }
    data, what = changed_json(boxes, random)
    file = write(place / "boxes.json", data)
    return Case(f"boxes: {what}", ["prepare", str(root), f"--boxes={file}", "--no-detect", "--workers=1"])


def landmarks(random: Random, seeds: Seeds, place: Path) -> Case:
    root = copy_tree(seeds.set, place / "set")
    if random.random() < 0.3:
        faces = json.loads((root / "faces.json").read_text())
        name = random.choice([*faces])
        data, what = changed_json({name: faces[name]} if random.random() < 0.5 else faces, random)
        write(root / "faces.json", data)
        return Case(f"faces.json: {what}", ["prepare", str(root), "--no-detect", "--replace", "--workers=1"])
    lines = (root / "face_index.jsonl").read_bytes().splitlines()
    number = random.randrange(len(lines))
    entry = json.loads(lines[number])
    if random.random() < 0.5:
        entry["boxes"] = entry.pop("face")
    path = random.choice([path for path in fields(entry) if path[:1] in (("face",), ("boxes",))])
    data, what = changed_json(entry, random, path)
    lines[number] = data.replace(b"\n", b" ")
    write(root / "face_index.jsonl", b"\n".join(lines) + b"\n")
    region = random.choice(("eyes", "mouth"))
    arguments = [*training(root, place / "run"), "--training.epochs=1", f"--data.region={region}"]
    return Case(f"face_index.jsonl line {number}: {what}, {region}", arguments)


def masks(random: Random, seeds: Seeds, place: Path) -> Case:
    root = copy_tree(seeds.set, place / "set")
    if random.random() < 0.4:
        data, what = changed_json(json.loads((root / "forgeries.json").read_text()), random)
        write(root / "forgeries.json", data)
        arguments = [*_evaluation(seeds.run, root), f"--output={place}/out", "--data.evaluation_clips=1", "--explain"]
        return Case(f"forgeries.json: {what}", [*arguments, "--methods=[raw]", "--data.manipulations=[blend]"])
    _, data, what = _damaged_video(random, seeds)
    chosen = sorted(root.rglob("masks/videos/*.mp4"))
    for mask in chosen if random.random() < 0.3 else [random.choice(chosen)]:
        write(mask, data)
    arguments = [*training(root, place / "run"), "--training.epochs=1", "--model.mask_head=2"]
    return Case(f"masks: {what}", arguments)


def crop_store(random: Random, seeds: Seeds, place: Path) -> Case:
    store = copy_tree(seeds.crops, place / "crops")
    name = random.choice(("store.json", "crops.jsonl", "face_index.jsonl", "table", "table", "crops"))
    if name == "crops":
        path = random.choice(sorted(store.rglob("*.mkv")))
        data, what = damaged(path.read_bytes(), random, seeds.videos["h264.mp4"].read_bytes())
    elif name in ("store.json", "table"):
        path = store / name if name == "store.json" else random.choice(sorted((store / "videos").rglob("*.json")))
        data, what = changed_json(json.loads(path.read_text()), random)
    else:
        path = store / name
        lines = path.read_bytes().splitlines()
        number = random.randrange(len(lines))
        data, what = changed_json(json.loads(lines[number]), random)
        lines[number] = data.replace(b"\n", b" ") if random.random() < 0.9 else data
        data = b"\n".join(lines) + b"\n" * random.choice((0, 1, 1))
    write(path, data)
    video = path.with_suffix(".mkv") if name in ("table", "crops") else sorted(store.rglob("*.mkv"))[0]
    commands = {
        "train": [*training(store, place / "run"), "--training.epochs=1"],
        "evaluate": [*_evaluation(seeds.run, store), f"--output={place}/out", "--split=val"],
        "dataset": ["dataset", str(store)],
        "prepare": cutting(seeds.small, store),  # it goes on
        "predict": ["predict", str(video), f"--checkpoint={seeds.run}", f"--json={place}/scores.json"],
    }
    command = random.choice([*commands])
    return Case(f"{path.name}: {what}, {command}", commands[command])


def remote_marker(random: Random, seeds: Seeds, place: Path) -> Case:
    """A data set that was copied with what the cache of remote files keeps in a directory."""
    marker = {"url": (place / "elsewhere").as_uri(), "whole": False}
    data, what = changed_json(marker, random)
    root = copy_tree(seeds.small, place / "set")
    write(root / ".remote.json", data)
    commands = {
        "dataset": ["dataset", str(root)],
        "predict": ["predict", str(root), f"--checkpoint={seeds.run}", f"--json={place}/scores.json", "--clips=1"],
        "prepare": ["prepare", str(root), "--no-detect", "--replace", "--workers=1"],
    }
    command = random.choice([*commands])
    return Case(f".remote.json: {what}, {command}", commands[command], after=_is_used)


def _is_used(result: Result) -> str | None:
    return "a file that is of no account was" if result.status else None


EDITED = {
    "fps": 25,
    "size": 48,
    "shots": [[0, 8], [9, 14], [15, 20]],
    "people": [[1], [1, 2], [2]],
    "places": [[[24.0, 0.0, 72.0, 48.0]], [[0.0, 0.0, 48.0, 48.0], [48.0, 0.0, 96.0, 48.0]], [[24.0, 0.0, 72.0, 48.0]]],
    "forged_person": 2,
    "forged_shot": 3,
    "manipulation": "both",
}


def edited_video(random: Random, seeds: Seeds, place: Path) -> Case:
    data, what = changed_json(EDITED, random)
    write(place / "edited.json", data)
    return Case(f"edited.json: {what}", [str(place / "edited.mp4")], "python_calls:edited_video")


def token(random: Random, seeds: Seeds, place: Path) -> Case:
    path = place / "token"
    if random.random() < 0.2:
        path = Path(random.choice(("/dev/zero", "/proc/self/mem", "/", f"{place}/none", f"{place}/\0")))
    else:
        data = random.choice((b"0123456789abcdef\n", b"short", b"two words, 16 letters"))
        write(path, damaged(data, random, seeds.videos["h264.mp4"].read_bytes())[0])
    return Case(f"token: {path.name}", [str(path)], "python_calls:token")


def request(random: Random, seeds: Seeds, place: Path) -> Case:
    """An upload to the service, or the wish for another explanation."""
    if random.random() < 0.2:
        data, what = changed_json({"method": "lrp", "clips": 1}, random)
        route, kind = "/v1/jobs/none/explanations", "application/json"
    else:
        head = b'--part\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        file = odd_name(random) if random.random() < 0.5 else b"video.mp4"
        video = seeds.videos[random.choice(("h264.mp4", "vp8.webm"))].read_bytes()
        options = {b"clips": random.choice(("1", *NUMBERS, *TEXTS)).encode(), b"method": b"lrp"}
        parts = [head % (b"file", b'; filename="' + file + b'"', video)]
        parts += [head % (name, b"", value) for name, value in options.items() if random.random() < 0.3]
        random.shuffle(parts)
        data, what = b"".join(parts) + b"--part--\r\n", f"{file!r}, {len(parts) - 1} fields"
        if random.random() < 0.5:
            data, change = damaged(data, random, video)
            what = f"{what}, {change}"
        route, kind = "/v1/videos", "multipart/form-data; boundary=part"
    if random.random() < 0.2:
        kind = damaged(kind.encode(), random)[0].decode("latin-1").translate({0: "0", 10: " ", 13: " "})
    body = write(place / "body", data)
    return Case(f"{route} {kind!r}: {what}", [str(seeds.run), route, kind, str(body)], "python_calls:request")


# Settings.


@lru_cache
def _option_names(command: str) -> list[str]:
    from istvt.cli.main import build_parser
    from istvt.config import preset

    options = build_parser(preset("small"))[1][command]._actions
    names = [option.dest for option in options if option.dest not in ("help", "config", "print_config")]
    return [*names, "model", "data", "training", "unknown"]


def settings_file(random: Random, seeds: Seeds, place: Path) -> Case:
    command = random.choice(
        ("model", "train", "train", "evaluate", "predict", "explain", "prepare", "synthesize", "calibrate")
    )
    data, what = changed_yaml(_option_names(command), random)
    file = write(place / "settings.yaml", data)
    config = f"--config={file}"
    video = seeds.videos["h264.mp4"]
    fixed = {
        "model": ["model", config],
        # Of a finished run: what is no other setting ends at once.
        "train": [*training(seeds.set, copy_tree(seeds.run, place / "run")), config] if command == "train" else [],
        "evaluate": [*_evaluation(seeds.run, seeds.set), f"--output={place}/out", config],
        "predict": ["predict", str(video), f"--checkpoint={seeds.run}", config],
        "explain": ["explain", str(video), f"--checkpoint={seeds.run}", f"--out={place}/why", config],
        "prepare": ["prepare", str(seeds.small), config],
        "synthesize": ["synthesize", str(place / "synthetic"), "--identities=3", config],
        "calibrate": ["calibrate", str(seeds.run), f"--output={place}/calibrated.safetensors", "--replace", config],
    }  # fmt: skip
    arguments = fixed[command]
    if command in ("train", "evaluate") and random.random() < 0.8:
        # On the command line the later one wins: that of the file is then what counts.
        given = what.split(":")[0]
        arguments = [argument for argument in arguments if not argument.startswith(f"--{given}=")]
    if random.random() < 0.4:  # the same value on the command line
        name, value = changed_option(_option_names(command), random)
        arguments = [argument for argument in arguments if argument != config and not argument.startswith(f"--{name}=")]
        return Case(f"option of {command}: --{name}={value[:60]!r}", [*arguments, f"--{name}={value}"])
    return Case(f"settings of {command}: {what}", arguments)


def comparison(random: Random, seeds: Seeds, place: Path) -> Case:
    settings = comparing(seeds.set, seeds.run)
    data, what = changed_json(settings, random)
    file = write(place / "compare.yaml", data)
    return Case(f"compare.yaml: {what}", ["compare", str(file), f"--output={place}/out"])


def kept_comparison(random: Random, seeds: Seeds, place: Path) -> Case:
    out = copy_tree(seeds.compared, place / "out")
    file = write(place / "compare.yaml", json.dumps(comparing(seeds.set, seeds.run)).encode())
    name = random.choice(("evaluation.json", "scores.csv", "robustness.json", "robustness.csv"))
    what = _change_in_place(out / f"evaluations/{random.choice('ab')}/checkpoint-0/drawn/{name}", random)
    return Case(f"kept {name}: {what}", ["compare", str(file), f"--output={out}"])


def _change_in_place(path: Path, random: Random) -> str:
    """Change a JSON or CSV file, or one line of a journal; return what was done."""
    text = path.read_text()
    if path.suffix == ".json":
        data, what = changed_json(json.loads(text), random)
    elif path.suffix == ".csv":
        data, what = changed_csv(text, random)
    else:
        lines = text.encode().splitlines()
        number = 0 if random.random() < 0.4 else random.randrange(len(lines))
        changed, what = changed_json(json.loads(lines[number]), random)
        lines[number] = changed.replace(b"\n", b" ")
        data, what = b"\n".join(lines) + b"\n" * random.choice((0, 1, 1)), f"line {number}: {what}"
    write(path, data)
    return what


# Checkpoints, runs and weights.


def _reads_checkpoint(random: Random, seeds: Seeds, place: Path, file: Path) -> list[str]:
    video = seeds.videos["h264.mp4"]
    commands = (
        ["predict", str(video), f"--checkpoint={file}"],
        ["predict", str(video), f"--checkpoint={file}"],
        [*_evaluation(file, seeds.small), "--split=val", f"--output={place}/out"],
        ["explain", str(video), f"--checkpoint={file}", "--no-detect", f"--out={place}/why", "--clips=1"],
        ["convert", str(file), f"{place}/authors.pth"],
    )  # fmt: skip
    return random.choice(commands)


def checkpoint_metadata(random: Random, seeds: Seeds, place: Path) -> Case:
    source = seeds.run / "best.safetensors"
    with safe_open(source, framework="pt") as file:
        metadata = json.loads(file.metadata()["istvt"])
    data, what = changed_json(metadata, random)
    text = data.decode(errors="replace").replace("\0", "\\u0000")
    path = place / "best.safetensors"
    save_file(load_file(source), path, metadata={"istvt": text})
    return Case(f"metadata: {what}", _reads_checkpoint(random, seeds, place, path))


def learned(random: Random, seeds: Seeds, place: Path) -> Case:
    """What a checkpoint says of its training, its data sets and its validation videos."""
    run = copy_tree(seeds.adapted, place / "run")
    with safe_open(run / "best.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["istvt"])
    metadata["calibration"] |= {"real": [0.2] * 30, "fake": [0.8] * 30}  # enough for an error rate
    of = random.choice((("settings", "data"), ("settings", "adaptation"), ("calibration",), ("metrics",), ()))
    path = random.choice([path for path in fields(metadata) if path[: len(of)] == of and path[:1] != ("config",)])
    data, what = changed_json(metadata, random, path)
    text = data.decode(errors="replace").replace("\0", "\\u0000")
    tensors = load_file(run / "best.safetensors")
    (run / "best.safetensors").unlink()
    save_file(tensors, run / "best.safetensors", metadata={"istvt": text})
    commands = {
        "adapt": adapting(run, seeds.set, place / "out", "--data.train_clips=1"),
        "calibrate": ["calibrate", str(run), "--replace", f"--output={place}/calibrated.safetensors"],
        "evaluate": [*_evaluation(run, seeds.small), "--split=val"],
        "predict": ["predict", str(seeds.videos["h264.mp4"]), f"--checkpoint={run}", "--max-error=0.2"],
        "card": [str(run)],
    }
    command = random.choice(["adapt", *commands])
    function = "python_calls:card" if command == "card" else "istvt.cli.main:main"
    return Case(f"metadata: {what}, {command}", commands[command], function)


def adaptation(random: Random, seeds: Seeds, place: Path) -> Case:
    """The state of an adaptation that was stopped, the history of the run that it adapts, and its settings."""
    run, out = copy_tree(seeds.run, place / "old"), copy_tree(seeds.adapted, place / "out")
    arguments = adapting(seeds.run, seeds.set, out)
    kind = random.choice(("run.json", "run.json", "kept", "kept", "settings", "settings", "old", "bytes"))
    if kind == "settings":
        data, what = changed_yaml(_option_names("adapt"), random)
        given = what.split(":")[0]
        arguments = [argument for argument in arguments if not argument.startswith(f"--{given}=")]
        arguments += [f"--config={write(place / 'settings.yaml', data)}"]
        return Case(f"settings of adapt: {what}", arguments)
    if kind == "old":
        what = _change_in_place(run / "history.csv", random)
        return Case(f"history.csv of the old run: {what}", adapting(run, seeds.set, out))
    if kind == "bytes":
        path = random.choice((out / "best.safetensors", *out.glob("checkpoints/*/*.distcp")))
        data, what = damaged(path.read_bytes(), random, seeds.videos["h264.mp4"].read_bytes())
        write(path, data)
    elif kind == "run.json":
        [path] = out.glob("checkpoints/*/run.json")
        state = json.loads(path.read_text())
        of = random.choice((("settings", "adaptation"), ()))
        chosen = random.choice([path for path in fields(state) if path[: len(of)] == of])
        data, what = changed_json(state, random, chosen)
        write(path, data)
    else:
        kept = ("evaluations/before-new/evaluation.json", "evaluations/before-new/scores.csv")
        name = random.choice((*kept, "evaluations/before-old/evaluation.json.unfinished", "history.csv", "steps.csv"))
        path, what = out / name, _change_in_place(out / name, random)
    return Case(f"{path.name} of an adaptation: {what}", arguments)


def checkpoint_tensors(random: Random, seeds: Seeds, place: Path) -> Case:
    source = seeds.run / "best.safetensors"
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    state, what = _odd_tensors(load_file(source), random)
    path = place / "best.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"istvt": metadata["istvt"]}
    )

    def after(result: Result) -> str | None:
        wrong = what.split()[-1] in _CANNOT_BE
        return "weights that cannot be right were used" if wrong and result.status != 2 else None

    return Case(f"tensors: {what}", _reads_checkpoint(random, seeds, place, path), after=after)


_CANNOT_BE = ("int8", "bool", "nan", "inf", "shape", "missing", "unknown", "empty", "all-int8", "all-zero")


def _odd_tensors(state: dict[str, torch.Tensor], random: Random) -> tuple[dict[str, torch.Tensor], str]:
    name = random.choice([name for name, tensor in state.items() if tensor.is_floating_point()])
    tensor = state[name]
    kinds = {
        "int8": lambda: tensor.to(torch.int8),
        "bool": lambda: tensor.to(torch.bool),
        "float64": lambda: tensor.double(),
        "float16": lambda: tensor.half(),
        "bfloat16": lambda: tensor.bfloat16(),
        "nan": lambda: torch.where(torch.arange(tensor.numel()).reshape(tensor.shape) == 0, float("nan"), tensor),
        "inf": lambda: torch.full_like(tensor, float("inf")),
        "shape": lambda: torch.zeros(*tensor.shape, 2),
        "empty": lambda: torch.zeros(0),
        "huge": lambda: tensor * 1e30,
        "zero": lambda: torch.zeros_like(tensor),
    }
    kind = random.choice([*kinds, "missing", "unknown", "all-zero", "all-int8", "all-half"])
    if kind == "missing":
        del state[name]
    elif kind == "unknown":
        state["unknown.weight"] = torch.zeros(3)
    elif kind == "all-zero":
        state = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    elif kind == "all-int8":
        state = {name: tensor.to(torch.int8) for name, tensor in state.items()}
    elif kind == "all-half":
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    else:
        state[name] = kinds[kind]()
    return state, f"{name} {kind}"


def checkpoint_bytes(random: Random, seeds: Seeds, place: Path) -> Case:
    data, what = damaged((seeds.run / "best.safetensors").read_bytes(), random, seeds.videos["h264.mp4"].read_bytes())
    path = write(place / "best.safetensors", data)

    def after(result: Result) -> str | None:
        same = data == (seeds.run / "best.safetensors").read_bytes()
        return "a damaged model was used" if result.status != 2 and not same else None

    return Case(f"best.safetensors: {what}", _reads_checkpoint(random, seeds, place, path), after=after)


class _RunsCode:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self.canary,)


def _no_code_was_run(place: Path) -> Callable[[Result], str | None]:
    return lambda result: "code of the file was run" if (place / CANARY).exists() else None


def run_state(random: Random, seeds: Seeds, place: Path) -> Case:
    run = copy_tree(seeds.half_run, place / "run")
    [checkpoint] = (run / "checkpoints").glob("epoch-0001-*") if random.random() < 2 else []
    name = random.choice(
        ("run.json", "run.json", "run.json", ".metadata", "distcp", "steps.csv", "history.csv", "pickle")
    )
    if name == "run.json":
        data, what = changed_json(json.loads((checkpoint / name).read_text()), random)
        write(checkpoint / name, data)
    elif name == "pickle":
        what = "a pickle that runs code"
        metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
        if random.random() < 0.5:
            metadata = _RunsCode(place / CANARY)
        else:
            metadata.planner_data = _RunsCode(place / CANARY)
        write(checkpoint / ".metadata", pickle.dumps(metadata))
    else:
        path = {"steps.csv": run / name, "history.csv": run / name, ".metadata": checkpoint / name}.get(name)
        path = path or random.choice(sorted(checkpoint.glob("*.distcp")))
        change = changed_csv if name.endswith(".csv") else None
        data, what = change(path.read_text(), random) if change else damaged(path.read_bytes(), random)
        write(path, data)
    return Case(f"{name}: {what}", training(seeds.set, run), after=_no_code_was_run(place))


def evaluation(random: Random, seeds: Seeds, place: Path) -> Case:
    run = copy_tree(seeds.run, place / "run")
    name = random.choice(("evaluation/evaluation.json", "evaluation/scores.csv", "history.csv"))
    content = (run / name).read_text()
    data, what = changed_json(json.loads(content), random) if name.endswith("json") else changed_csv(content, random)
    write(run / name, data)
    if name == "evaluation/scores.csv" or random.random() < 0.5:
        arguments = [str(run), str(seeds.set), str(run / "evaluation")]
        return Case(f"{name}: {what}, report", arguments, "python_calls:render")
    arguments = [
        "evaluate",
        f"--checkpoint={run}",
        f"--data.root={seeds.set}",
        "--bootstrap=9",
        "--data.evaluation_clips=2",
    ]
    return Case(f"{name}: {what}, evaluate", arguments)


def shard(random: Random, seeds: Seeds, place: Path) -> Case:
    merged, run = place / "merged", seeds.run
    shards = {"scores.json": run, "evaluation.json": run / "evaluation", "robustness.json": run / "evaluation"}
    shards |= {"face_index.jsonl": seeds.small, "crops.jsonl": seeds.crops}
    name = random.choice([*shards])
    if name in ("robustness.json", "crops.jsonl"):  # of an evaluation, and of files, that are there
        copy_tree(shards[name], merged)
    lines = (shards[name] / f"{name}.shard-1-of-1").read_bytes().splitlines()
    number = 0 if random.random() < 0.6 else random.randrange(len(lines))
    data, what = changed_json(json.loads(lines[number]), random)
    lines[number] = data.replace(b"\n", b" ") if random.random() < 0.9 else data
    file = write(place / "shard", b"\n".join(lines) + b"\n" * random.choice((0, 1, 1)))
    return Case(f"{name} line {number}: {what}", ["merge", str(file), f"--output={merged}"])


_CURVES = {name: [[0.7, 0.4], None] for name in ("deletion", "insertion", "counterfactual_deletion")}
FAITHFULNESS = {
    "fractions": [0.0, 0.5],
    "frames": 6,
    "clips": [
        {"video": "a", "label": 1, "manipulation": "blend", "probability": 0.7, "forged": [1, 2], "mask_share": 0.2},
        {"video": "b", "label": 0, "manipulation": "original", "probability": 0.2},
    ],
    "methods": {
        "raw": _CURVES
        | {"counterfactual_insertion": [[0.1, 0.9], None], "hottest": [1.0, None], "rank": [0.5, None]}
        | {"mass": [0.5, None], "by_frame": [[0.1, 0.5, 0.1, 0.1, 0.1, 0.1], None]},
    },
    "skipped": [["c", "it is too short"]],
    "settings": {"split": "val"},
    "sanity": {
        "stages": ["head"],
        "videos": ["a"],
        "methods": {
            "raw": {
                "cascade": [[0.1]],
                "other_clip": [0.2],
                "other_target": [0.1],
                "sensitivity": [0.3],
                "conservation": None,
            }
        },
    },
}


def unfinished(random: Random, seeds: Seeds, place: Path) -> Case:
    """Journal of a job that was stopped, and what an evaluation keeps of perturbed videos and of explanations."""
    run = copy_tree(seeds.run, place / "run")
    kind = random.choice(("predict", "robustness.json", "robustness.csv", "explanations"))
    if kind == "predict":
        file = write(place / "scores.json.unfinished", (run / "scores.json.shard-1-of-1").read_bytes())
        what = _change_in_place(file, random)
        videos = sorted(map(str, (seeds.set / "original_sequences").rglob("*.mp4")))[:2]
        arguments = ["predict", *videos, f"--checkpoint={seeds.run}", f"--json={place}/scores.json", "--clips=1"]
        return Case(f"scores.json.unfinished: {what}", arguments)
    kept, out = seeds.compared / "evaluations" / "a" / "checkpoint-0" / "drawn", place / "kept"
    copy_tree(kept, out)
    if kind == "explanations":
        (out / kind).mkdir()
        evaluated = json.loads((out / "evaluation.json").read_text())["evaluated"]
        file = write(out / kind / "faithfulness.json", json.dumps(FAITHFULNESS | {"evaluated": evaluated}).encode())
        what = _change_in_place(file, random)
    else:
        what = _change_in_place(out / kind, random)
    arguments = [f"--checkpoint={seeds.run}", f"--data.root={seeds.set}", "--split=val", "--bootstrap=10"]
    arguments += ["--data.manipulations=[blend]", "--data.evaluation_clips=2", f"--output={out}"]
    return Case(f"{kind}: {what}", ["evaluate", *arguments, "--perturb=jpeg:30"])


_ODD_OBJECTS = (
    3,
    None,
    [],
    {},
    {1: torch.zeros(2)},
    {("a", 2): torch.zeros(2)},
    torch.zeros(3),
    {"a": 1},
    {"state_dict": {3: 4}},
    {"model": {"model": {}}},
    {"conv1.weight": torch.zeros(2).to_sparse()},
    {"conv1.weight": torch.zeros(2, dtype=torch.complex64)},
    {"": torch.zeros(1)},
    {"module.": torch.zeros(1)},
    {"\ud800": torch.zeros(1)},
    {"vit.pos_embedding": torch.zeros(1, 6, 10**6 + 1, 1)[..., :0]},
)


def weights(random: Random, seeds: Seeds, place: Path) -> Case:
    source = random.choice(sorted(seeds.weights.iterdir()))
    path = place / source.name
    kind = random.choice(("bytes", "tensors", "object", "pickle"))
    if kind == "bytes":
        data, what = damaged(source.read_bytes(), random, seeds.videos["h264.mp4"].read_bytes())
        write(path, data)
    elif kind == "pickle":
        what = "a pickle that runs code"
        state = {"conv1.weight": _RunsCode(place / CANARY)}
        torch.save(state, path) if random.random() < 0.5 else path.write_bytes(pickle.dumps(state))
    elif kind == "object" and path.suffix == ".pth":
        content = random.choice(_ODD_OBJECTS)
        what = f"holds {str(content)[:40]!r}"
        torch.save(content, path)
    else:
        state = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=True)
        state, what = _odd_tensors(dict(state), random)
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, path) if source.suffix == ".safetensors" else torch.save(state, path)
    if source.stem == "authors":
        arguments = ["convert", str(path), f"{place}/model.safetensors", "--heads=2"]
    else:
        arguments = ["model", *MODEL, f"--backbone-weights={path}"]
    wrong = kind == "pickle" or (kind == "object" and path.suffix == ".pth")
    # A backbone of zeros may be trained; the model that it becomes is refused where it is still one of zeros.
    wrong = wrong or what.split()[-1] in _CANNOT_BE[:-1]

    def after(result: Result) -> str | None:
        if wrong and result.status != 2:
            return "weights that cannot be right were used"
        return _no_code_was_run(place)(result)

    return Case(f"{source.name}: {what}", arguments, after=after)


# Names.


def file_name(random: Random, seeds: Seeds, place: Path) -> Case:
    name = odd_name(random)
    directory = os.fsencode(place) + b"/"
    suffix = random.choice((b".mp4", b".avi", b"", b".jpg"))
    kind = random.choice(("predict", "predict in", "explain", "prepare", "dataset", "train", "checkpoint", "out"))
    what = f"{kind} {name!r}"
    h264 = seeds.videos["h264.mp4"]
    predicting = [f"--checkpoint={seeds.run}", "--no-detect", f"--json={place}/scores.json"]
    path = os.fsdecode(directory + name + suffix)
    try:
        if kind in ("predict", "explain"):
            os.link(h264, path)
            if kind == "predict":
                return Case(what, ["predict", path, *predicting])
            return Case(
                what, ["explain", path, f"--checkpoint={seeds.run}", "--no-detect", f"--out={place}/why", "--clips=1"]
            )
        if kind == "predict in":
            (place / "in").mkdir()
            os.link(h264, os.fsdecode(directory + b"in/" + name + b".mp4"))
            return Case(what, ["predict", str(place / "in"), *predicting])
        if kind in ("prepare", "dataset", "train"):
            root = copy_tree(seeds.small, place / "set")
            os.link(h264, os.fsdecode(os.fsencode(root) + b"/train/real/" + name + b".mp4"))
            commands = {
                "prepare": ["prepare", str(root), "--no-detect", "--workers=1"],
                "dataset": ["dataset", str(root)],
                "train": [*training(root, place / "run"), "--training.epochs=1"],
            }
            return Case(what, commands[kind])
        if kind == "checkpoint":
            os.link(seeds.run / "best.safetensors", path)
            return Case(what, ["predict", str(h264), f"--checkpoint={path}"])
        return Case(
            what, ["explain", str(h264), f"--checkpoint={seeds.run}", "--no-detect", f"--out={path}", "--clips=1"]
        )
    except (OSError, ValueError):  # a name that this file system does not take
        return Case(f"{what}, which is no name here", ["predict", str(place / "absent.mp4"), *predicting])


# With their shares of a long run.
TARGETS: dict[str, tuple[int, Target]] = {
    "predict": (24, predict),
    "prepare": (12, prepare),
    "explain": (2, explain),
    "train": (5, train_on_video),
    "dataset_list": (8, dataset_list),
    "synthetic_settings": (2, synthetic_settings),
    "face_index": (7, face_index),
    "boxes_file": (4, boxes_file),
    "landmarks": (4, landmarks),
    "masks": (3, masks),
    "crop_store": (7, crop_store),
    "remote_marker": (2, remote_marker),
    "edited_video": (2, edited_video),
    "token": (1, token),
    "request": (4, request),
    "settings_file": (9, settings_file),
    "comparison": (5, comparison),
    "kept_comparison": (3, kept_comparison),
    "checkpoint_metadata": (7, checkpoint_metadata),
    "learned": (6, learned),
    "adaptation": (6, adaptation),
    "checkpoint_tensors": (6, checkpoint_tensors),
    "checkpoint_bytes": (3, checkpoint_bytes),
    "run_state": (6, run_state),
    "evaluation": (5, evaluation),
    "shard": (6, shard),
    "unfinished": (4, unfinished),
    "weights": (6, weights),
    "file_name": (6, file_name),
}
