"""`from_pretrained`, `push_to_hub` and the model card, against a Hub on this machine."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from local_hub import TOKEN, local_hub

import istvt
from dataloading.errors import InputError
from istvt.cli.main import main
from istvt.inference.export import example_clips
from istvt.model.checkpoint import load_model, read_info
from istvt.report.hub import model_card


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with local_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


@pytest.fixture(scope="module")
def evaluated_run(tmp_path_factory, trained_run, synthetic_set):
    """A run with its evaluation beside it."""
    run = tmp_path_factory.mktemp("hub") / "run"
    shutil.copytree(trained_run, run)
    assert main(["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--data.workers=1"]) == 0
    return run


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(example_clips(model, 2))


def test_three_lines_give_a_run_a_file_or_a_copy_of_a_repository_without_a_package_of_the_hub(
    trained_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    expected, info = load_model(trained_run)
    shutil.copy(trained_run / "best.safetensors", tmp_path / "model.safetensors")
    for source in (trained_run, trained_run / "best.safetensors", tmp_path):
        model = istvt.from_pretrained(source)
        assert not model.training
        assert model.info == info
        assert torch.equal(logits_of(model), logits_of(expected))


def test_videos_are_cropped_as_in_training_by_a_model_that_knows_how(trained_run, synthetic_set):
    video = next(synthetic_set.rglob("*.mp4"))
    [with_info] = istvt.predict(istvt.from_pretrained(trained_run), [video], workers=1)
    model, info = load_model(trained_run)
    [expected] = istvt.predict(model, [video], info=info, workers=1)
    assert with_info.score.probability == expected.score.probability
    assert with_info.notes == expected.notes != ()


def test_what_is_pushed_is_loaded_again_bit_for_bit_by_branch_and_from_the_cache(hub, evaluated_run, monkeypatch):
    url = istvt.push_to_hub(evaluated_run, "somelab/istvt-test", token=TOKEN, license="cc-by-nc-4.0")
    assert url.startswith(f"{hub.url}/somelab/istvt-test/commit/")
    files = hub.repositories["somelab/istvt-test"]["main"]
    assert files["model.safetensors"] == (evaluated_run / "best.safetensors").read_bytes()
    assert json.loads(files["config.json"])["architecture"] == "istvt"
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]  # and no pickle

    model = istvt.from_pretrained("somelab/istvt-test")
    assert torch.equal(logits_of(model), logits_of(load_model(evaluated_run)[0]))
    asked = len(hub.requests)
    istvt.from_pretrained("somelab/istvt-test", local_files_only=True)
    assert len(hub.requests) == asked
    for _ in range(2):  # the branch is created, and then there
        istvt.push_to_hub(evaluated_run, "somelab/istvt-test", token=TOKEN, revision="second")
    assert torch.equal(logits_of(istvt.from_pretrained("somelab/istvt-test", revision="second")), logits_of(model))
    with pytest.raises(InputError, match="somelab/istvt-test: has no revision third; expected a branch, tag or commit"):
        istvt.from_pretrained("somelab/istvt-test", revision="third")


def test_what_the_hub_refuses_is_one_sentence(hub, trained_run):
    with pytest.raises(
        InputError, match=r"somelab/absent: no such file or directory here and no such model on http://"
    ):
        istvt.from_pretrained("somelab/absent")
    with pytest.raises(InputError, match=r"refuses this login \(401\); expected a token that may write"):
        istvt.push_to_hub(trained_run, "somelab/closed", token="hf_wrong")
    hub.repositories["somelab/other"] = {"main": {"pytorch_model.bin": b""}}
    with pytest.raises(InputError, match=r"somelab/other: holds no model.safetensors; expected a model that istvt\."):
        istvt.from_pretrained("somelab/other")
    hub.repositories["somelab/other"] = {"main": {"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}}
    with pytest.raises(InputError, match="holds no ISTVT configuration"):
        istvt.from_pretrained("somelab/other")
    with pytest.raises(InputError, match="repository is 'no slash'; expected OWNER/NAME"):
        istvt.push_to_hub(trained_run, "no slash")
    with pytest.raises(InputError, match="is a local path; expected OWNER/NAME of the Hub"):
        istvt.from_pretrained(trained_run, revision="main")
    with pytest.raises(InputError, match="somelab/absent: is not in the cache, and http"):
        istvt.from_pretrained("somelab/absent", local_files_only=True)


def test_a_hub_that_does_not_answer_is_one_sentence(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its five tries
    with pytest.raises(InputError, match=r"somelab/far: .*http://127.0.0.1:9 cannot be reached"):
        istvt.from_pretrained("somelab/far")


def test_without_the_package_the_sentence_names_the_command(monkeypatch, trained_run, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    says = r"no such file or directory here; huggingface_hub, .* is not installed: pip install 'istvt\[hub\]'"
    with pytest.raises(InputError, match=rf"runs/first: {says}"):
        istvt.from_pretrained("runs/first")
    with pytest.raises(InputError, match=r"pip install 'istvt\[hub\]'"):
        istvt.push_to_hub(trained_run, "somelab/model")
    with pytest.raises(InputError, match=r"runs/first/best.safetensors: no such file"):
        istvt.from_pretrained("runs/first/best.safetensors")


def test_the_card_has_the_measured_figures_with_intervals_and_what_the_model_cannot_do(evaluated_run, trained_run):
    card = model_card(evaluated_run, "somelab/istvt-test", license="cc-by-nc-4.0")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-nc-4.0"
    stored = json.loads((evaluated_run / "evaluation/evaluation.json").read_text())["videos"]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    validation, test, *manipulations = rows[1:]
    auc = stored["auc"]
    assert "by which the epoch was chosen: too high" in validation
    assert f"| {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}) |" in test
    assert f"{stored['real']} real, {stored['fake']} fake" in test
    assert len(manipulations) == 3
    calibration = read_info(evaluated_run).calibration
    wrong = sum(score > 0.5 for score in calibration.real)
    assert f"| {wrong / len(calibration.real):.3f} (" in validation
    assert "It was not scored on any data set but its own" in text
    assert "whole pictures that hold one face" in text
    assert "synthetic" in text or "drawn" in text  # the caveat of a model that knows drawn faces alone
    assert str(evaluated_run) not in text.replace("somelab/istvt-test", "")
    assert not re.search(r"root /", text)  # paths are of this machine
    # Without an evaluation the validation figures stand alone; that of another model is refused.
    assert len([line for line in model_card(trained_run).splitlines() if line.startswith("| ")]) == 2
    with pytest.raises(InputError, match=r"is an evaluation of .*; expected one of "):
        changed = evaluated_run.parent / "changed"
        shutil.copytree(evaluated_run, changed, dirs_exist_ok=True)
        text = (changed / "evaluation/evaluation.json").read_text()
        checksum = read_info(evaluated_run).checksum
        (changed / "evaluation/evaluation.json").write_text(text.replace(checksum, "0" * 32))
        model_card(changed, evaluations=[changed / "evaluation"])


def test_importing_the_package_imports_nothing_heavy():
    """Names that need PyTorch are looked up when they are used."""
    code = (
        "import sys, istvt; heavy = {'torch', 'numpy', 'pydantic', 'rich', 'huggingface_hub'} & set(sys.modules);"
        "assert not heavy, heavy; assert 'from_pretrained' in istvt.__all__; print(len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
