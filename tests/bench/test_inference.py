"""`python -m bench inference`: ways take turns on one processor, and what it cannot do is a record that says so."""

import csv

import torch

from bench.__main__ import main


def test_every_way_gives_the_same_probability_and_a_missing_instruction_is_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    out = tmp_path / "run"
    given = ["inference", "--preset=small", "--rounds=2", "--way=folded", "--batch=2", f"--output={out}"]
    assert main(given) == 0
    rows = list(csv.DictReader((out / "inference.csv").open()))
    assert [row["precision"] for row in rows if row["note"]] == ["bfloat16"]
    assert "does not multiply bfloat16" in next(row["note"] for row in rows if row["note"])
    [measured] = [row for row in rows if not row["note"]]
    assert float(measured["probability_differs_by"]) < 1e-4
    assert 0 < float(measured["speed_up_low"]) <= float(measured["speed_up"]) <= float(measured["speed_up_high"])
