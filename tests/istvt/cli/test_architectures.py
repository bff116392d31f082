"""`--model.architecture`: other detectors through the commands, from training to a verdict."""

import json

import pytest
import torch
from commands import refused

from dataloading.io import parse_yaml
from istvt.cli.main import main
from istvt.comparison.settings import ComparisonSettings, DataSet, DetectorSettings, comparison_plan
from istvt.model.architectures import build, model_preset
from istvt.model.checkpoint import load_model, save_model

SIZES = {
    "xception": ["--model.image_size=40", "--model.dim=16", "--model.backbone_dims=[4,4,8,8]"],
    "timesformer": ["--model.image_size=40", "--model.dim=16", "--model.heads=1", "--model.depth=1"],
}
C3D = ["--model.architecture=c3d"]


def train_arguments(name, root, output, *more):
    return [
        "train", f"--data.root={root}", f"--output={output}", f"--model.architecture={name}", *SIZES[name],
        "--training.epochs=1", "--training.batch_size=8", "--data.evaluation_clips=1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=list(SIZES))
def trained(request, synthetic_set, tmp_path_factory):
    """A run of one epoch of each architecture in `SIZES`: its name and its directory."""
    run = tmp_path_factory.mktemp("architectures") / request.param
    assert main(train_arguments(request.param, synthetic_set, run)) == 0
    return request.param, run


def test_a_detector_is_trained_evaluated_and_gives_verdicts(trained, synthetic_set, tmp_path, capsys):
    name, run = trained
    model, info = load_model(run)
    assert info.config.architecture == model.config.architecture == name
    assert info.settings["model"]["architecture"] == name
    data = [f"--data.root={synthetic_set}", "--data.evaluation_clips=1", "--bootstrap=50"]
    assert main(["evaluate", f"--checkpoint={run}", *data, f"--output={tmp_path}"]) == 0
    title = json.loads((tmp_path / "evaluation.json").read_text())["title"]
    assert title.lower().startswith(name[:4])
    video = next(synthetic_set.rglob("*.mp4"))
    verdicts = tmp_path / "verdicts.json"
    arguments = [str(video), f"--checkpoint={run}", f"--model.architecture={name}", f"--json={verdicts}"]
    assert main(["predict", *arguments]) == 0
    assert 0 < json.loads(verdicts.read_text())[0]["probability_fake"] < 1
    assert "1 finished epoch; it is complete" not in capsys.readouterr().out
    assert main(train_arguments(name, synthetic_set, run)) == 0
    assert "1 finished epoch; it is complete" in capsys.readouterr().out


def test_a_run_of_another_detector_is_not_gone_on_with(trained, synthetic_set, capsys, train_arguments):
    name, run = trained
    message = refused(capsys, train_arguments(synthetic_set, run))
    assert f"{run} holds a run of {name}, and this one trains istvt; choose another output" in message


@pytest.mark.parametrize("command", ["predict", "evaluate", "explain"])
def test_a_checkpoint_of_another_detector_than_asked_for_is_refused(trained, synthetic_set, capsys, command):
    name, run = trained
    video = [str(next(synthetic_set.rglob("*.mp4")))] if command != "evaluate" else [f"--data.root={synthetic_set}"]
    message = refused(capsys, [command, *video, f"--checkpoint={run}", "--model.architecture=istvt"])
    assert f"{run}: is of {name}; expected istvt, as --model.architecture says" in message


def test_what_cannot_be_explained_says_so_before_the_work(trained, synthetic_set, tmp_path, capsys):
    name, run = trained
    expected = f"method lrp cannot explain a model of {name}; expected method shap or counterfactual"
    video = str(next(synthetic_set.rglob("*.mp4")))
    assert expected in refused(capsys, ["explain", video, f"--checkpoint={run}", f"--out={tmp_path / 'why'}"])
    assert not (tmp_path / "why").exists()
    arguments = [f"--checkpoint={run}", f"--data.root={synthetic_set}", f"--output={tmp_path / 'e'}", "--explain"]
    expected = f"explanations of a model of {name} cannot be measured; expected one of istvt, vtn"
    assert expected in refused(capsys, ["evaluate", *arguments])
    assert not (tmp_path / "e").exists()
    message = refused(capsys, ["convert", f"{run}/best.safetensors", str(tmp_path / "theirs.pth")])
    assert f"the model is {name}; expected istvt" in message


def test_another_detector_is_explained_by_shapley_values_from_the_command_line(
    trained, synthetic_set, tmp_path, capsys
):
    name, run = trained
    video = str(next(synthetic_set.rglob("*.mp4")))
    command = ["explain", video, f"--checkpoint={run}", f"--out={tmp_path}", "--clips=1", "--clips_scored=1"]
    assert main([*command, "--method=shap", "--tiles=2", "--spans=1", "--evaluations=20"]) == 0
    data = json.loads((tmp_path / "explanation.json").read_text())
    [clip] = data["people"][0]["explained_clips"]
    assert data["settings"]["model"]["architecture"] == name
    assert clip["shap"]["additivity_error"] < 1e-5
    assert "evaluations of the model" in (tmp_path / "explanation.html").read_text()


def test_weights_of_another_detector_in_a_checkpoint_are_refused(trained, synthetic_set, tmp_path, capsys):
    _, info = load_model(trained[1])
    save_model(tmp_path / "mixed.safetensors", build(model_preset("istvt")), info)
    video = str(next(synthetic_set.rglob("*.mp4")))
    message = refused(capsys, ["predict", video, f"--checkpoint={tmp_path}/mixed.safetensors"])
    assert "mixed.safetensors: is of another configuration: " in message


def test_videos_that_are_too_short_for_a_detector_are_named_before_training(synthetic_set, tmp_path, capsys):
    message = refused(capsys, ["train", f"--data.root={synthetic_set}", f"--output={tmp_path}/run", *C3D])
    assert "There is no usable real video to train on" in message
    assert "has 10 frames; a clip needs 16); expected at least one of each class" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*C3D, "--model.frames=6"], "model.frames is 6; expected 16 or more, because c3d halves them four times"),
        ([*C3D, "--backbone-weights=a.pth"], "backbone weights a.pth: c3d starts from random weights; expected none"),
        (["--model.architecture=resnet"], "model.architecture is 'resnet'; expected one of istvt, xception"),
        (["--model.architecture=xception", "--preset=seed"], "preset is 'seed'; expected one of published, small"),
        (["--model.architecture=xception", "--model.heads=3"], "heads"),
        (["--model.architecture=xception", "--model.dim=0"], "model.dim is 0; expected 1 or more"),
        (["--model.architecture=xception", "--model.image_size=20"], "model.image_size is 20; expected 27 or more"),
        (["--model.architecture=any"], "--model.architecture is 'any'; expected one of istvt, xception"),
    ],
)
def test_a_wrong_architecture_or_size_is_one_sentence(capsys, arguments, says):
    assert says in refused(capsys, ["model", *arguments])


def test_an_architecture_in_a_settings_file_has_its_own_options(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("preset: published\nmodel:\n  architecture: xception\n  middle_blocks: 2\n")
    assert main(["model", "--config", str(tmp_path / "settings.yaml")]) == 0
    assert "xception, 6 frames of 300 pixels: backbone_dims [32, 64, 128, 256], dim 728, middle_blocks 2" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert main(["model", "--model", "{architecture: xception, frames: 3}"]) == 0
    assert "xception, 3 frames of 64 pixels" in capsys.readouterr().out
    (tmp_path / "group.yaml").write_text("architecture: xception\nframes: 2\n")
    assert main(["model", "--model", str(tmp_path / "group.yaml")]) == 0
    assert "xception, 2 frames of 64 pixels" in capsys.readouterr().out


def test_help_shows_the_options_of_the_architecture(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--model.architecture", "xception", "--help"])
    text = capsys.readouterr().out
    assert "--model.middle_blocks" in text
    assert "--model.self_subtract" not in text


def test_imagenet_weights_are_checked_and_loaded(tmp_path, capsys, synthetic_set):
    source = build(model_preset("xception"))
    torch.save(source.backbone.state_dict(), tmp_path / "xception.pth")
    arguments = ["--model.architecture=xception", f"--backbone-weights={tmp_path}/xception.pth"]
    assert main(["model", *arguments]) == 0
    assert "fits the backbone; 0 tensors" in capsys.readouterr().out
    assert "has shape" in refused(capsys, ["model", *arguments, "--model.dim=32"])


def test_a_small_detector_starts_from_what_it_needs_to_learn(capsys):
    """A transformer over patches learned nothing with the settings that suit a convolution."""

    def defaults(*arguments):
        with pytest.raises(SystemExit, match="0"):
            main(["train", *arguments, "--print_config"])
        return parse_yaml(capsys.readouterr().out, "")["training"]

    common = defaults()
    for architecture, preset, expected in (
        ("vivit", "small", {"learning_rate": 1e-3, "epochs": 40}),
        ("vivit", "published", {}),
        ("xception", "small", {}),
    ):
        found = defaults(f"--model.architecture={architecture}", f"--preset={preset}")
        assert found == common | expected
    assert defaults("--model.architecture=vivit", "--training.epochs=3")["epochs"] == 3


def test_a_comparison_gives_each_detector_what_it_needs_unless_the_file_says_otherwise(tmp_path):
    def training(common, own):
        settings = ComparisonSettings(
            detectors={"one": DetectorSettings(architecture="vivit", training=own)},
            data={"drawn": DataSet(root=str(tmp_path))}, train=["drawn"], test=["drawn"], training=common,
        )  # fmt: skip
        [model] = comparison_plan(settings, tmp_path).models
        return model.training.epochs, model.training.learning_rate

    assert training({}, {}) == (40, 1e-3)
    assert training({"epochs": 5}, {}) == (5, 1e-3)
    assert training({"epochs": 5, "learning_rate": 2e-3}, {"epochs": 6}) == (6, 2e-3)
