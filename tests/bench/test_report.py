"""`python -m bench report`: every number in the tables comes from a CSV file, and a cell without one says so."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.common import record
from bench.common.record import (
    NOT_MEASURED,
    RESULTS,
    output_folder,
    prepare_folder,
    read_run,
    read_runs,
    write_table,
)
from bench.kernels.relevance import LIGHT, REFERENCE
from bench.report import pages as report
from bench.report.markdown import replace_section
from bench.training.measurement import work
from bench.training.steps import GRAPHS, Case
from dataloading.errors import InputError

ROOT = Path(__file__).parents[2]
README = "before\n\n" + "".join(
    f"<!-- begin: {section} -->\nold 12.5\n<!-- end: {section} -->\n" for section in ("verification", "performance")
) + "\nafter\n"  # fmt: skip
BENCH = "how to read\n<!-- begin: tables -->\nold 12.5\n<!-- end: tables -->\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "bench" / "README.md").write_text(BENCH)
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def environment(device="Example GPU", kind="GPU", date="2020-01-01T00:00:00+00:00"):
    return {"device": device, "kind": kind, "date": date, "commit": "abc", "python": "3.11", "versions": {"torch": "9"},
            "threads": 1, "cores": 2, "load": 0.5}  # fmt: skip


def training_row(case, batch, note=""):
    return case._asdict() | {"batch": batch} | work(case) | {"step_ms": None, "note": note}


def training_rows(**milliseconds):
    rows = []
    for attention in ("full", "spatial_only"):
        for method in ("this project", "compiled SDPA", "naive eager", "eager SDPA"):
            spent = milliseconds.get(f"{attention} {method}".replace(" ", "_"))
            row = training_row(Case("seed", attention, "bfloat16", method), 8, "" if spent else "not measured: a test")
            if spent:
                row |= {"step_ms": spent, "clips_per_second": 8000 / spent, "utilization_data_sheet": 0.6,
                        "peak_bytes": 5_000_000_000}  # fmt: skip
            rows.append(row)
    return rows


def written(root, found):
    report.write(found, root)
    return (root / "bench" / "README.md").read_text(), (root / "README.md").read_text()


def test_without_a_measurement_every_measured_cell_says_so_and_the_text_around_stays(root):
    tables, readme = written(root, [])
    assert readme.startswith("before\n\n<!-- begin") and readme.endswith("<!-- end: performance -->\n\nafter\n")
    assert tables.startswith("how to read\n")
    assert "12.5" not in tables + readme
    assert "On a GPU nothing has been measured yet" in readme
    assert "promised" not in readme, "a table of empty cells"
    for line in (tables + readme).splitlines():
        if line.startswith(("| seed", "| model FLOP", "| speed over")):
            assert NOT_MEASURED in line
            assert not re.search(r"\| \d+(\.\d+)? ", line.split("this project")[-1])


def test_promises_are_judged_by_what_was_measured(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    times = {"full_this_project": 100.0, "full_compiled_SDPA": 120.0, "full_naive_eager": 400.0}
    write_table(folder, "training", training_rows(**times, spatial_only_this_project=80.0))
    families = [
        {"preset": "seed", "attention": "full", "precision": "bfloat16", "method": "this project", "batch": 8,
         "family": family, "us_per_step": 1000 * share, "share": share, "calls_per_step": 3}
        for family, share in (("matrix product", 0.7), ("spatial attention", 0.2), ("temporal attention", 0.1))
    ]  # fmt: skip
    write_table(folder, "training_families", families)
    tables, readme = written(root, read_runs([root]))
    for text in (tables, readme):
        assert "| model FLOP utilization | at least 55 % | 60.0 % | yes |" in text
        assert "| speed over naive eager | at least 3 | 4.00 | yes |" in text
        assert "| speed over compiled SDPA | at least 1.3 | 1.20 | no |" in text
        assert "| step time over spatial-only | at most 1.5 | 1.25 | yes |" in text
        assert "| attention kernels in the step | under 20 % | 30.0 % | no |" in text
    assert "| seed | full | bfloat16 | this project | 8 | 80.00 | 100.00 | 60.0 % |" in tables
    assert "| seed | spatial_only | bfloat16 | naive eager | 8 | not measured | not measured |" in tables
    assert "Measured 2020-01-01T00:00:00+00:00; commit abc" in tables
    assert "| matrix product | 70.0 % (0.70 ms) |" in tables


def test_promises_are_judged_by_the_faster_of_this_projects_two_ways_to_run_a_step(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    rows = training_rows(full_this_project=100.0, full_naive_eager=400.0)
    replayed = Case("seed", "full", "bfloat16", GRAPHS)
    rows.append(training_row(replayed, 8) | {"step_ms": 80.0, "clips_per_second": 100.0, "utilization_data_sheet": 0.7})
    write_table(folder, "training", rows)
    _, readme = written(root, read_runs([root]))
    assert "| model FLOP utilization | at least 55 % | 70.0 % | yes |" in readme
    assert "| speed over naive eager | at least 3 | 5.00 | yes |" in readme


def test_a_measurement_of_a_cpu_is_named_after_it_and_fills_no_cell_of_a_gpu(root):
    folder = prepare_folder(root / "bench/results/cpu/a", environment("Example CPU", "CPU"))
    case = Case("small", "full", "float32", "this project")
    row = training_row(case, 2) | {"step_ms": 77.77, "clips_per_second": 25.7}
    write_table(folder, "training", [row])
    tables, readme = written(root, read_runs([root]))
    gpu, cpu = tables.split("## Example CPU (a CPU)")
    assert "## GPU: not measured" in gpu and "77.77" not in gpu + readme
    assert "77.77" in cpu and "It says nothing of any GPU." in cpu


def test_the_newest_measurement_counts_but_one_that_measured_nothing_hides_none(root):
    for name, date, spent in (("a", "2020", 100.0), ("b", "2021", 50.0), ("c", "2022", None)):
        folder = prepare_folder(root / f"bench/results/gpu/{name}", environment(date=date))
        write_table(folder, "training", training_rows(full_this_project=spent))
    tables, _ = written(root, read_runs([root]))
    assert "| seed | full | bfloat16 | this project | 8 | 160.00 | 50.00 |" in tables
    assert "Measured 2021" in tables and "2020" not in tables


def test_a_newer_run_that_was_cut_short_hides_no_row_of_an_older_one(root):
    """It hid them all: a table was the newest recording's alone. Each row says in its table where it may come from."""
    case = {"preset": "seed", "attention": "full", "precision": "bfloat16", "batch": 8}
    for name, date, times in (
        ("a", "2020", {"full_this_project": 100.0, "full_naive_eager": 400.0}),
        ("b", "2021", {"full_this_project": 50.0}),
    ):
        folder = prepare_folder(root / f"bench/results/gpu/{name}", environment(date=date) | {"commit": f"of {name}"})
        write_table(folder, "training", training_rows(**times))
        methods = [key.removeprefix("full_").replace("_", " ") for key in times]
        part = {"family": f"in {name}", "us_per_step": 1, "share": 1}
        parts = [case | {"method": method} | part for method in methods]
        write_table(folder, "training_families", parts)
    tables, readme = written(root, read_runs([root]))
    assert "| seed | full | bfloat16 | this project | 8 | 160.00 | 50.00 |" in tables
    assert "| seed | full | bfloat16 | naive eager | 8 | 20.00 | 400.00 |" in tables
    assert "| speed over naive eager | at least 3 | 8.00 | yes |" in readme
    for text in (tables, readme):
        assert "- 1 row measured 2021; commit of b; " in text and "bench/results/gpu/b.\n" in text
        assert "- 1 row measured 2020; commit of a; " in text and "bench/results/gpu/a.\n" in text
    # The families of a step are those of the recording that timed it, and no others.
    assert "| in b | 100.0 % (0.00 ms) | - |" in tables
    assert "| in a | - | 100.0 % (0.00 ms) |" in tables


def scaling_rows(frames, factor=1.0):
    rows = []
    for t in frames:
        for method, power in (("naive joint", 2), ("naive factorized", 1)):
            for axis in ("T", "HW"):
                rows += [
                    {"axis": axis, "T": t, "HW": t, "method": method, "pass": name, "dtype": "float32", "clips": 1,
                     "heads": 2, "head_dim": 8,
                     "macs_counted": 100 * (t + 1) ** power, "macs_formula": 100 * (t + 1) ** power,
                     "time_us": factor * (t + 1) ** power, "peak_bytes": 1000.0 * t, "note": ""}
                    for name in ("forward", "forward and backward")
                ]  # fmt: skip
    return rows


def test_exponents_are_fitted_from_what_a_killed_run_had_and_a_longer_line_counts_more_than_a_newer_one(root):
    """They were written by a run that came to its end, and only then; few small sizes say little of growth."""
    for name, date, sizes in (("a", "2020", (1, 3, 7, 15, 31, 63)), ("b", "2021", (1, 2, 3))):
        folder = prepare_folder(root / f"bench/results/gpu/{name}", environment(date=date))
        write_table(folder, "scaling", scaling_rows(sizes))
    tables, readme = written(root, read_runs([root]))
    assert "| naive joint | forward | 2.00 | 2.00 [2.00, 2.00] |" in tables
    assert "that factorized attention grows more slowly holds" in readme
    assert "At T=63, HW=63 on Example GPU" in readme
    scaling = tables.split("### Scaling")[1]
    assert "Measured 2020" in scaling and "2021" not in scaling


def test_lines_of_a_scaling_run_that_had_only_begun_are_not_measured(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    rows = [row for row in scaling_rows((1,)) if row["axis"] == "T"]
    write_table(folder, "scaling", rows)
    tables, _ = written(root, read_runs([root]))
    assert f"| naive joint | forward | {' | '.join([NOT_MEASURED] * 6)} |" in tables
    assert report.draw_plots(read_runs([root])) == [folder / "scaling.png"]


def test_promises_are_about_the_batch_that_they_were_made_for(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    rows = training_rows(full_this_project=100.0)
    write_table(folder, "training", [*rows, *(row | {"batch": 32, "utilization_data_sheet": 0.9} for row in rows)])
    tables, _ = written(root, read_runs([root]))
    assert "| model FLOP utilization | at least 55 % | 60.0 % | yes |" in tables
    assert "| seed | full | bfloat16 | this project | 32 | 80.00 | 100.00 | 90.0 % |" in tables


def test_an_operation_is_one_line_a_method_at_the_papers_size_with_the_refusals_of_peers(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    at = {"mode": "fused", "dtype": "bfloat16", "clips": 8, "frames": 6, "positions": 362, "head_dim": 91}
    rows = [
        {"contender": "ours", **at, "pass": "forward", "microseconds": 30.04, "share_of_floor": 0.97, "note": ""},
        {"contender": "ours", **at, "pass": "backward", "microseconds": 55.0, "share_of_floor": 0.9, "note": ""},
        {"contender": "ours", **at, "clips": 1, "pass": "forward", "microseconds": 11.0, "note": ""},
        {"contender": "sdpa cudnn", **at, "pass": "forward", "note": "head_dim should be a multiple of 8"},
    ]
    write_table(folder, "temporal", rows)
    spatial = {"attention": "spatial", "dtype": "bfloat16", "clips": 8, "rows": 7, "positions": 362, "head_dim": 64}
    write_table(folder, "spatial", [
        {"contender": "ours", **spatial, "pass": "both", "microseconds": 200.0, "teraflops": 321.4},
        {"contender": "ours", **spatial, "attention": "joint", "pass": "both", "microseconds": 900.0},
    ])  # fmt: skip
    tables, _ = written(root, read_runs([root]))
    assert "| ours | fused | bfloat16 | 91 | 30.0 (97 % of floor) | 55.0 (90 % of floor) |  |" in tables
    refused = (
        "| sdpa cudnn | fused | bfloat16 | 91 | not measured | not measured | head_dim should be a multiple of 8 |"
    )
    assert refused in tables
    assert "| ours | bfloat16 | 64 | 200.0 (321 TFLOP/s) |  |" in tables
    assert "11.0" not in tables and "900.0" not in tables


def test_a_comparison_that_could_not_be_made_failed_and_one_that_was_cut_off_is_counted_apart(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    case = {"kernel": "softmax", "dtype": "float16", "quantity": "out"}
    write_table(
        folder, "numerics",
        [
            case | {"ratio": 1.2, "verdict": "holds", "note": ""},
            case | {"ratio": 0.9, "verdict": "holds", "note": ""},
            case | {"ratio": None, "verdict": "FAILS", "note": "RuntimeError: CUDA error"},
            case | {"shape": "b", "ratio": None, "verdict": "not run", "note": "the time was used up"},
            case | {"dtype": "float32", "ratio": 0.5, "verdict": "holds"},
            case | {"dtype": "float32", "ratio": float("nan"), "verdict": "FAILS"},
        ],
    )  # fmt: skip
    tables, _ = written(root, read_runs([root]))
    assert "| softmax | float16 | 2 | 1.20 | 1 | 1 |" in tables
    assert "| softmax | float32 | 2 | not a finite number | 1 |  |" in tables
    # Newer, and cut short: the case that it did not come to is the older one's; one that fails is not hidden by it.
    folder = prepare_folder(root / "bench/results/gpu/b", environment(date="2021"))
    write_table(
        folder, "numerics",
        [
            case | {"verdict": "not run"},
            case | {"shape": "b", "verdict": "FAILS", "note": "its process ended"},
            case | {"dtype": "float32", "ratio": 0.7, "verdict": "holds"},
        ],
    )  # fmt: skip
    tables, _ = written(root, read_runs([root]))
    assert "| softmax | float16 | 2 | 1.20 | 2 |  |" in tables
    assert "| softmax | float32 | 1 | 0.70 | 0 |  |" in tables


def test_memory_that_was_counted_in_the_interpreter_stands_under_the_cpu_it_was_counted_on(root):
    folder = prepare_folder(root / "bench/results/cpu/a", environment("Example CPU", "CPU"))
    sizes = {"dtype": "float16", "rows": 1, "heads": 1, "head_dim": 16}
    rows = [
        sizes | {"positions": positions, "capture": capture, "peak_bytes": size}
        for positions in (64, 128, 256, 512, 1024)
        for capture, size in (("without a capture", 16 * positions), ("with a capture", positions**2))
    ]
    write_table(folder, "spatial_memory", rows)
    tables, _ = written(root, read_runs([root]))
    gpu, cpu = tables.split("## Example CPU (a CPU)")
    assert "Not measured: " in gpu and "Memory of spatial attention" in gpu and "grows as S" not in gpu
    assert "in Triton's interpreter" in cpu and "float16" in cpu
    assert "| 128 | 2.0 | 16.0 |" in cpu
    assert "| grows as S to the | 1.00 [1.00, 1.00] | 2.00 [2.00, 2.00] |" in cpu


def test_what_an_explanation_takes_is_judged_and_its_training_step_looked_up_where_it_was_timed(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    write_table(folder, "training", training_rows(full_this_project=20.0))
    at = {"preset": "seed", "clips": 8, "note": ""}
    write_table(folder, "explanation_time", [
        {**at, "arithmetic": "float32", "explain_ms": 100.0},
        {**at, "arithmetic": "tf32", "explain_ms": 60.0},
    ])  # fmt: skip
    at = {"preset": "seed", "from": "clip", "note": ""}
    write_table(folder, "explanation_memory", [
        {**at, "storage": LIGHT, "peak_bytes": 2**27, "over_light": 1.0},
        {**at, "storage": REFERENCE, "peak_bytes": 2**31, "over_light": 16.0},
        {**at, "from": "tokens", "storage": REFERENCE, "peak_bytes": 2**32, "over_light": 32.0},
    ])  # fmt: skip
    tables, _ = written(root, read_runs([root]))
    assert "| seed | 8 | float32 | bfloat16 | 100.0 | 20.0 | 5.00 | no |  |" in tables
    assert "| seed | 8 | tf32 | bfloat16 | 60.0 | 20.0 | 3.00 | yes |  |" in tables
    assert "| seed | 8 | tf32 | tf32 | 60.0 | not measured | not measured |  |  |" in tables
    assert f"| seed | clip | {LIGHT} | 128 | 1.0 |  |  |" in tables
    assert f"| seed | clip | {REFERENCE} | 2048 | 16.0 | no |  |" in tables
    assert f"| seed | tokens | {REFERENCE} | 4096 | 32.0 | yes |  |" in tables


def test_plots_are_drawn_of_what_was_measured(root):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    write_table(folder, "training", training_rows(full_this_project=100.0, full_naive_eager=300.0))
    at = {"mode": "off", "dtype": "bfloat16", "clips": 8, "frames": 6, "positions": 362, "pass": "both"}
    write_table(folder, "temporal", [
        {"contender": name, **at, "head_dim": dim, "microseconds": time, "floor_microseconds": 70.0}
        for dim in (64, 91) for name, time in (("ours", 80.0), ("naive", 900.0))
    ])  # fmt: skip
    drawn = report.draw_plots(read_runs([root]))
    assert [path.name for path in drawn] == ["temporal.png", "training.png"]
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_a_check_names_the_files_that_are_out_of_date_and_writes_nothing(root):
    assert [path.name for path in report.write([], root, check=True)] == ["README.md", "README.md", "README.md"]
    assert (root / "README.md").read_text() == README
    report.write([], root)
    assert report.write([], root, check=True) == []


def test_a_folder_that_is_not_there_is_named_in_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    sentence = f"bench: {tmp_path}/nowhere: no such folder; expected one that a benchmark has written.\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    "text", ["", "<!-- end: x --><!-- begin: x -->", "<!-- begin: x --><!-- begin: x --><!-- end: x -->"]
)
def test_a_file_without_its_markers_is_not_written_over(text):
    with pytest.raises(ValueError, match="expected the markers <!-- begin: x -->"):
        replace_section(text, "x", "body")


def test_a_folder_without_its_environment_is_no_measurement(tmp_path):
    write_table(tmp_path, "training", training_rows())
    with pytest.raises(InputError, match="not a folder of measurements"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["", '{"device": "Exa', "[]", '{"device": "Example GPU"}'])
def test_a_folder_whose_environment_was_cut_off_is_left_out_in_a_sentence(root, text, capsys):
    write_table(prepare_folder(root / "bench/results/gpu/a", environment()), "training", training_rows())
    (root / "bench/results/gpu/b").mkdir()
    (root / "bench/results/gpu/b/environment.json").write_text(text)
    assert [one.folder.name for one in read_runs([root])] == ["a"]
    (sentence,) = capsys.readouterr().out.splitlines()
    assert "gpu/b/environment.json: " in sentence and sentence.endswith(". It is left out.")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n3\n", b"a,b\n1,2,3\n", b"a,b\n\xff\xfe,2\n"])
def test_a_run_whose_table_was_damaged_on_its_way_is_left_out_in_a_sentence(root, content, capsys):
    folder = prepare_folder(root / "bench/results/gpu/a", environment())
    write_table(folder, "empty", [])
    assert read_run(folder).tables == {"empty": []}
    (folder / "broken.csv").write_bytes(content)
    assert read_runs([root]) == []
    (sentence,) = capsys.readouterr().out.splitlines()
    assert "gpu/a/broken.csv: " in sentence and sentence.endswith(". It is left out.")


def test_a_benchmark_that_is_killed_while_it_writes_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    """Sections are killed at their limit; a table was emptied first and then written."""
    folder = prepare_folder(tmp_path, environment())
    write_table(folder, "table", [{"a": 1}])

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    monkeypatch.setattr(os, "replace", killed)
    for write in (lambda: write_table(folder, "table", [{"a": 1}, {"a": 2}]), lambda: prepare_folder(folder, {})):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert read_run(folder).tables == {"table": [{"a": "1"}]}


def test_a_command_that_is_told_where_to_write_says_what_it_measured_on(tmp_path, monkeypatch):
    """Without environment.json a report found no measurements there."""
    found = environment() | {"commit": "abc"}
    monkeypatch.setattr(record, "environment", lambda commit: found | ({"commit": commit} if commit else {}))
    folder = output_folder(tmp_path / "visit", "spatial")
    assert read_run(folder).environment == found
    assert output_folder(folder, "temporal") == folder  # the next one of the same visit
    with pytest.raises(InputError, match=r"holds measurements with commit abc, and now it is def; .*or say --commit"):
        output_folder(folder, "temporal", "def")
    found |= {"versions": {"torch": "10"}}
    with pytest.raises(InputError, match="holds measurements with versions"):
        output_folder(folder, "temporal")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file; expected a directory"):
        output_folder(tmp_path / "file", "temporal")


def test_the_tables_in_the_repository_are_what_its_measurements_give():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "bench/results"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a repository")
    folders = {(ROOT / line).parent for line in listed.stdout.split() if line.endswith("environment.json")}
    assert all(RESULTS in folder.parents for folder in folders)
    changed = report.write(read_runs(sorted(folders)), check=True)
    assert not changed, "run python -m bench report"


def test_the_readme_says_in_two_sentences_how_compiled_kernels_are_verified(root):
    case = {"kernel": "spatial_attention", "mode": "", "dtype": "bfloat16", "shape": "S=362"}
    rows = [
        case | {"sm": sm, "quantity": name, "error": 1e-3, "eager": 1e-3, "ratio": ratio, "verdict": "holds"}
        for sm, name, ratio in ((80, "out", 1.0), (80, "grad q", 1.21), (90, "out", 0.9))
    ]
    folder = prepare_folder(root / "bench" / "results" / "cpu" / "execute", environment("A CPU", "CPU"))
    write_table(folder, "execute", rows)
    tables, readme = written(root, read_runs([root]))
    assert "2 cases for sm_80 and sm_90 in bfloat16, with 3 comparisons of outputs and gradients" in readme
    assert "none failed, and the largest error is 1.21 times that of eager PyTorch" in readme
    assert "| spatial_attention | bfloat16 | 80 | 2 | 1.21 | 0 |" in tables
    assert "commit abc" in readme
