"""`istvt export`: programs of other runtimes give the logits of the model, and say how they are to be fed."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refused

from dataloading.errors import InputError
from istvt.cli.main import main
from istvt.config import ATTENTIONS, ISTVTConfig
from istvt.inference import export as exporting
from istvt.inference.export import METADATA_FILE, METADATA_KEY, compare, describe, example_clips, export
from istvt.model.architectures import ARCHITECTURES, build, model_preset
from istvt.model.checkpoint import Calibration, CheckpointInfo, load_model, save_model

LEAST = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


def python_blocks(suffix: str) -> str:
    """The code of the documentation that reads a file of this suffix."""
    text = (Path(__file__).parents[3] / "docs/other-programs.md").read_text()
    [block] = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"model{suffix}" in code]
    return block


@pytest.fixture
def checkpoint(tmp_path):
    """Called with a configuration, the file of a model of random weights with a calibration."""

    def write(config):
        torch.manual_seed(0)
        info = CheckpointInfo(config, detectors=["yuface"], calibration=Calibration(1.5, [0.1, 0.4], [0.9]))
        save_model(tmp_path / "model.safetensors", build(config).eval(), info)
        return tmp_path / "model.safetensors"

    return write


def test_the_command_writes_onnx_with_an_attention_operator_any_number_of_clips_and_its_preprocessing(
    trained_run, tmp_path, capsys, monkeypatch
):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert main(["export", str(trained_run), f"--output={path}"]) == 0
    printed = capsys.readouterr().out
    assert "logits of 6 drawn clips differ from the model's by at most" in printed
    assert "has only ever seen drawn faces" in printed
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]

    model, info = load_model(trained_run)
    written = onnx.load(path)
    assert {entry.version for entry in written.opset_import if not entry.domain} == {23}
    assert "Attention" in {node.op_type for node in written.graph.node}
    assert {node.domain for node in written.graph.node} <= {""}  # operators of ONNX alone
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["clips", 6, 3, 40, 40]
    assert session.get_outputs()[0].shape == ["clips"]
    clips = example_clips(model, 5, seed=9)
    with torch.no_grad():
        expected = model(clips)
    [found] = session.run(None, {"clips": clips.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)

    monkeypatch.chdir(tmp_path)
    exec(python_blocks(".onnx"), read := {})
    assert 0 < read["score"] < 1
    says = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert says == read["says"]
    assert says["input"]["shape"] == ["clips", 6, 3, 40, 40]
    assert (says["input"]["color_order"], says["input"]["mean"], says["input"]["std"]) == ("RGB", [0.5] * 3, [0.5] * 3)
    assert (says["input"]["frames"], says["input"]["interval"], says["input"]["size"]) == (6, 1, 40)
    assert says["input"]["crop"]["rule"].startswith("the whole upright picture")
    assert says["checkpoint"]["sha256"] == hashlib.sha256((trained_run / "best.safetensors").read_bytes()).hexdigest()
    assert says["calibration"]["temperature"] == info.calibration.temperature


def test_a_program_runs_where_this_project_is_not_installed(checkpoint, tmp_path, monkeypatch):
    source = checkpoint(LEAST)
    written = export(source, tmp_path / "model.pt2")
    model, _ = load_model(source)
    clips = example_clips(model, 4, seed=5)
    torch.save(clips, tmp_path / "clips.pt")
    code = (
        "import json, sys, torch\n"
        "sys.modules['istvt'] = sys.modules['kernels'] = sys.modules['dataloading'] = None\n"
        f"extra = {{{METADATA_FILE!r}: ''}}\n"
        "program = torch.export.load('model.pt2', extra_files=extra).module()\n"
        f"says = json.loads(extra[{METADATA_FILE!r}])\n"
        "print(json.dumps([program(torch.load('clips.pt')).tolist(), says]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    logits, says = json.loads(done.stdout)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), model(clips), rtol=0, atol=1e-6)
    assert says == json.loads(json.dumps(written.metadata, default=str))
    assert says["input"]["crop"]["margin"] == 1.25
    assert says["calibration"]["temperature"] == 1.5
    monkeypatch.chdir(tmp_path)
    exec(python_blocks(".pt2"), read := {})
    assert read["logits"].shape == (3,)
    assert written.spread > 1e-3  # logits that tell clips apart, or the comparison says little


def test_the_crop_of_a_model_of_eyes_is_said_by_landmarks():
    info = CheckpointInfo(model_preset("lrcn"), detectors=["none"], settings={"data": {"region": "eyes"}})
    crop = describe(info, Path(__file__))["input"]["crop"]
    assert crop["region"] == "eyes"
    assert crop["rule"].startswith("one square for all frames of a clip: 1.75 times the largest of the faces' scales")
    assert "between right eye and left eye" in crop["rule"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_becomes_both(name, suffix, checkpoint, tmp_path):
    written = export(checkpoint(model_preset(name)), tmp_path / f"model.{suffix}")
    assert written.difference <= min(1e-4, written.spread / 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize("self_subtract", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_variant_becomes_onnx(attention, self_subtract, checkpoint, tmp_path):
    config = replace(LEAST, attention=attention, self_subtract=self_subtract)
    written = export(checkpoint(config), tmp_path / "model.onnx")
    assert written.difference <= min(1e-4, written.spread / 100)


def test_a_program_with_other_logits_is_not_written_and_what_was_there_stays(checkpoint, tmp_path, monkeypatch):
    """The comparison runs on what was written: weights changed on the way are seen."""
    source = checkpoint(LEAST)
    (tmp_path / "model.pt2").write_bytes(b"before")
    whole = exporting._write_program

    def write(path, traced, metadata):
        traced.state_dict["head.bias"] = torch.nn.Parameter(traced.state_dict["head.bias"] + 2e-4)
        whole(path, traced, metadata)

    monkeypatch.setattr(exporting, "_write_program", write)
    with pytest.raises(InputError, match=r"logits differ from the model's by 0\.0002; expected at most 0\.0001"):
        export(source, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_bytes() == b"before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pt2", "model.safetensors"]


def test_logits_that_are_not_numbers_count_as_different(checkpoint):
    model, _ = load_model(checkpoint(LEAST))
    difference, _ = compare(model, lambda clips: model(clips) * float("nan"))
    assert not difference <= exporting.TOLERANCE


def test_a_comparison_of_logits_that_are_all_alike_says_something_too(checkpoint, tmp_path, monkeypatch):
    """Logits of a network of random weights differed by 1e-5, so that any program was within 1e-4 of it."""
    source = checkpoint(LEAST)
    model, info = load_model(source)
    with torch.no_grad():
        model.head.weight *= 1e-5
    save_model(source, model, info)
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **how: None)  # seconds, and not what is tested
    monkeypatch.setattr(exporting, "_write_program", lambda path, *_: path.touch())
    monkeypatch.setattr(exporting, "_read_program", lambda path: lambda clips: model(clips) + 1e-6)
    with pytest.raises(InputError, match=r"differ from the model's by 1e-06; expected at most \d"):
        export(source, tmp_path / "model.pt2")


def test_what_cannot_be_written_is_one_sentence(checkpoint, tmp_path, capsys, monkeypatch):
    source = str(checkpoint(LEAST))
    assert "has the suffix '.onx'; expected .pt2 or .onnx" in refused(capsys, ["export", source, "--out", "x.onx"])
    nowhere = str(tmp_path / "nowhere/model.onnx")
    assert "there is no directory" in refused(capsys, ["export", source, "--output", nowhere])
    output = str(tmp_path / "model.onnx")
    assert "no such file" in refused(capsys, ["export", str(tmp_path / "absent"), "--output", output])
    monkeypatch.setattr(exporting, "LARGEST_ONNX", 10)
    assert "and a file of ONNX holds 2; use .pt2" in refused(capsys, ["export", source, "--output", output])
    for name in ("onnx", "onnxruntime", "onnxscript"):
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, name, None)
            message = refused(capsys, ["export", source, "--output", output])
        assert f"{name}, which ONNX needs, is not installed: pip install 'istvt[export]'" in message
