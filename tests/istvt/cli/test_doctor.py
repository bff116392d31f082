"""`istvt doctor`: installed parts, and usable ones only where they were tried."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from dataloading.video import decoder as decoder_choice
from istvt.cli import doctor
from istvt.cli.main import main


def test_json_has_versions_and_every_finding_and_the_same_status(capsys, monkeypatch):
    findings = [doctor.Finding("torch", "ok", "2.13"), doctor.Finding("DALI", "warning", "a [bracket] and \x1b")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["findings"] == [vars(finding) for finding in findings]
    assert {"istvt", "python", "torch"} <= printed["versions"].keys()
    assert printed["platform"]


def test_extras_that_are_absent_are_named_with_the_command_that_brings_one(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "onnxscript" else True)
    here, absent = doctor._extras()
    assert (here.state, absent.state) == ("ok", "missing")
    assert "hub" in here.detail and "export" not in here.detail
    assert absent.detail == "export; pip install 'istvt[export]'"


def test_the_command_works_as_a_process_and_doctor_lists_what_is_here():
    done = subprocess.run(
        [sys.executable, "-m", "istvt", "doctor"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "absent   xformers" not in done.stdout  # it is installed, and of no use without a GPU
    for part in ("torch", "GPU", "kernels", "Triton", "xformers", "DALI", "PyAV", "face detector"):
        assert part in done.stdout


def test_doctor_warns_when_kernels_is_another_distributions(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    code = "import kernels; from istvt.cli.doctor import _kernels; print(_kernels())"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert "state='warning'" in done.stdout
    assert "another distribution" in done.stdout


def test_doctor_says_what_is_wrong_where_triton_is_not_installed(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["doctor"]) == 1
    assert "kernels         cannot be imported (import of triton halted" in capsys.readouterr().out


def test_doctor_calls_usable_only_what_it_has_tried(monkeypatch, capsys, tmp_path):
    """A yuface, a DALI and an xformers whose import fails were all "ok", because their packages were installed."""
    for name in ("yuface", "nvidia.dali"):
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
    (tmp_path / "yuface.py").write_text("raise RuntimeError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "opencv is used" in text
    assert "warning  face detector   The face detector yuface cannot be used (yuface: built for another numpy)" in text
    assert "PyAV            cannot be imported (" in text
    assert "is installed, but NVIDIA DALI, which crops and augments clips, cannot be imported" in text


def test_doctor_promises_on_a_gpu_only_what_works_there(monkeypatch):
    """NVDEC and xformers were promised wherever there was a GPU and the package."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(decoder_choice, "has_nvdec", lambda: False)
    monkeypatch.setitem(sys.modules, "xformers", None)
    [_, decoding] = doctor._dali()
    assert decoding.detail.startswith("PyAV; NVIDIA's video decoder (libnvcuvid.so.1) is not installed")
    assert doctor._xformers().state in ("missing", "unusable")
