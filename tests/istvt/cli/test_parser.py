"""Options, settings files and help of every command; each error is one sentence."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused

from istvt.cli.main import COMMANDS, build_parser, main
from istvt.cli.options import chosen_model
from istvt.cli.parser import _expected, _kind
from istvt.config import __version__

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["explain", "a.mp4", "--method=lime"],
            "--method is 'lime'; expected one of lrp, attnlrp, gradient, rollout, raw",
        ),
        (["train", "--training.epochs=many"], "--training.epochs is 'many'; expected a whole number"),
        (["train", "--training.epochs=3.0"], "--training.epochs is '3.0'; expected a whole number"),
        (["train", "--training.tf32=1"], "--training.tf32 is '1'; expected true or false"),
        (["train", "--training.learning_rate=nan"], "--training.learning_rate is 'nan'; expected a number"),
        (["train", "--training.learning_rate=1e400"], "--training.learning_rate is '1e400'; expected a number"),
        (["train", "--training.precision=int8"], "--training.precision is 'int8'; expected one of auto, float32"),
        (["model", "--model.grid=3"], "--model.grid is '3'; expected two whole numbers such as [19,19]"),
        (["model", "--model.backbone_dims=[1]"], "--model.backbone_dims is '[1]'; expected four whole numbers"),
        (["evaluate", "--methods=3"], "--methods is '3'; expected a list such as [a,b]"),
        (["evaluate", "--split=all"], "--split is 'all'; expected one of train, val, test"),
        (["evaluate", "--methods=lrp,3"], "--methods is 'lrp,3'; expected a list such as [a,b]"),
        (["serve", "--hosts=3"], "--hosts is '3'; expected a list such as [a,b]"),  # it was a traceback
        (
            ["explain"],
            "VIDEO is missing; expected istvt explain VIDEO [options]; istvt explain --help lists the options",
        ),
        (["merge"], "SHARDS and --output are missing; expected istvt merge SHARDS [options]"),
        (["train", "--data.root"], "argument --data.root: expected one argument; istvt train --help"),
        (
            ["dataset", "here", "there"],
            "there is more than the command takes; expected istvt dataset DATASET [options]",
        ),
        (["trian"], "the command is 'trian'; expected one of synthesize, dataset, prepare, train,"),
        (
            ["model", "--pre=seed"],
            "--pre is not an option of istvt model; closest: --preset; istvt model --help lists the options",
        ),
        (
            ["predict", "a.mp4", "--chekpoint=run"],
            "--chekpoint is not an option of istvt predict; closest: --checkpoint",
        ),
        (["train", "--epochs", "3"], "--epochs is not an option of istvt train; closest: --training.epochs"),
        (["predict", "a.mp4", "--method", "lrp"], "--method is not an option of istvt predict, but of explain, serve;"),
        (
            ["train", "--data=absent.yaml"],
            "--data absent.yaml: cannot be read (No such file or directory); expected a readable file",
        ),
        (  # it did nothing
            ["evaluate", "--data.train_clips=2"],
            "--data.train_clips is not an option of istvt evaluate, but of train, adapt",
        ),
    ],
)
def test_an_option_that_is_no_option_or_has_no_such_value_is_one_sentence(capsys, arguments, says):
    """It used to be the whole usage, then a line that spoke of Python's types."""
    assert says in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "settings.yaml: cannot be read (No such file or directory)"),
        ("model: [", "settings.yaml: not YAML"),
        ("3", "settings.yaml: holds 3; expected options, each as NAME: VALUE"),
        ("model:\n  depths: 3\n", "settings.yaml: model.depths is not an option of this command; istvt model --help"),
        ("model:\n  depth: three\n", "settings.yaml: model.depth is 'three'; expected a whole number"),
        ("preset: huge\n", "preset is 'huge'; expected one of seed, published, small"),
        ("model:\n  depth: 2\n  depth: 3\n", "model.depth: given in line 2 and again in line 3; expected it once"),
        ("model: " + "[" * 5000 + "]" * 5000, "settings.yaml: nested too deeply"),
        ("model: {depth: [" + "2, " * 2000 + "2]}", "settings.yaml: model.depth is [2, 2, 2, 2, 2, 2, 2, 2,"),
        ("#" * 5_000_000, "settings.yaml: larger than"),
    ],
)
def test_a_settings_file_with_a_mistake_is_one_sentence(tmp_path, capsys, content, says):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_text(content)
    assert says in refused(capsys, ["model", f"--config={path}"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("training: [1, 2]", "settings.yaml: training is [1, 2]; expected options of this group, each by its name"),
        ("data: 3", "settings.yaml: data is 3; expected options of this group, each by its name"),
        ("data: {root: null}", "settings.yaml: data.root is null; expected a path"),
        ("data: {workers: null}", "settings.yaml: data.workers is null; expected a whole number"),
        ("model: {backbone_dims: null}", "settings.yaml: model.backbone_dims is null; expected four whole numbers"),
        ("training: {precision: null}", "settings.yaml: training.precision is null; expected one of auto, float32"),
        ("preset: null", "settings.yaml: preset is null; expected one of seed, published, small"),
        ("device: null", "settings.yaml: device is null; expected text"),
    ],
)
def test_a_group_that_is_none_and_a_value_that_is_missing_are_one_sentence(tmp_path, capsys, content, says):
    """Each was a traceback."""
    (tmp_path / "settings.yaml").write_text(f"output: run\n{content}\n")
    assert says in refused(capsys, ["train", f"--config={tmp_path}/settings.yaml"])


@pytest.mark.parametrize("content", ["model:\n  # depth: 3\n", "model:", "model: null\npreset: small\n", "model: {}\n"])
def test_a_group_of_which_everything_is_commented_out_is_as_if_it_were_not_there(tmp_path, capsys, content):
    """It was a traceback."""
    (tmp_path / "settings.yaml").write_text(content)
    for arguments, depth in (([], 2), (["--model.depth=5"], 5)):
        assert main(["model", *arguments, f"--config={tmp_path}/settings.yaml"]) == 0
        assert f"M={depth}" in capsys.readouterr().out


def test_a_preset_in_a_settings_file_sets_the_model_and_the_command_line_wins(tmp_path, capsys):
    """The file's preset stood in the checkpoint, and the model was another."""
    (tmp_path / "settings.yaml").write_text("preset: seed\nmodel:\n  depth: 3\n")
    assert main(["model", "--config", str(tmp_path / "settings.yaml")]) == 0
    assert "C=728, N=8, D=91, M=3" in capsys.readouterr().out
    assert main(["model", "--config", str(tmp_path / "settings.yaml"), "--preset=small"]) == 0
    assert "C=64, N=4, D=16, M=3" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["5e-4", "5.0e-4", "0.0005", "'0.0005'"])
def test_a_number_in_a_settings_file_may_be_written_in_any_way(tmp_path, capsys, rate):
    """YAML takes 5e-4 for text."""
    (tmp_path / "settings.yaml").write_text(f"training:\n  learning_rate: {rate}\n")
    with pytest.raises(SystemExit, match="0"):
        main(["train", f"--config={tmp_path}/settings.yaml", "--print_config"])
    assert "learning_rate: 0.0005\n" in capsys.readouterr().out


def test_what_print_config_prints_is_a_settings_file(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--print_config"])
    (tmp_path / "settings.yaml").write_text(capsys.readouterr().out)
    arguments = ["explain", f"--config={tmp_path}/settings.yaml"]
    assert "VIDEO is missing" in refused(capsys, arguments)
    assert "--checkpoint is runs/latest, its default, which does not exist" in refused(capsys, [*arguments, "a.mp4"])


def test_a_group_can_be_given_as_a_file_and_as_a_mapping_and_a_list_item_by_item(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text("root: /nowhere\n")
    for given in (f"--data={tmp_path}/data.yaml", "--data={root: /nowhere}"):
        assert "/nowhere does not exist" in refused(capsys, ["train", given, "--data.manipulations+=blend"])
    assert "data.rot is not an option of this command" in refused(capsys, ["train", "--data={rot: /nowhere}"])


@pytest.mark.parametrize("command", ["train", "evaluate", "adapt"])
def test_a_data_set_is_given_by_its_directory_or_by_options_or_a_file_of_the_group(
    tmp_path, capsys, command, synthetic_set
):
    settings = tmp_path / "data.yaml"
    settings.write_text(f"root: {synthetic_set}\nworkers: 3\n")
    for given in (["--data", str(synthetic_set)], [f"--data.root={synthetic_set}"], [f"--data={settings}"]):
        with pytest.raises(SystemExit):
            main([command, *given, "--print_config"])
        assert f"root: {synthetic_set}\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--videos-per-identity", "--videos_per_identity"])
def test_options_of_a_command_have_dashes_and_may_have_underscores(tmp_path, capsys, option):
    assert "videos_per_identity is 0" in refused(capsys, ["synthesize", str(tmp_path / "set"), f"{option}=0"])


@pytest.mark.parametrize("option", ["--clips-scored", "--clips_scored"])
def test_options_of_settings_may_have_dashes_too(capsys, option):
    """`evaluate --batch-size` and `explain --batch_size` were each refused with the other's sign."""
    assert "clips_scored is 0" in refused(capsys, ["explain", "a.mp4", option, "0"])


@pytest.mark.parametrize("given", ["mouth", "[mouth]", "mouth,eyes", "[mouth,eyes]"])
def test_a_list_of_names_needs_no_brackets(capsys, given):
    with pytest.raises(SystemExit, match="0"):
        main(["synthesize", "set", "--manipulations", given, "--print_config"])
    names = given.strip("[]").split(",")
    assert "\n".join(["manipulations:", *(f"- {name}" for name in names), "edited:"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["predict", "a.mp4"],
            "--checkpoint is runs/latest, its default, which does not exist; expected the directory",
        ),
        (["adapt"], "--from is runs/latest, its default, which does not exist"),
        (
            ["train"],
            "--data is data/synthetic, its default, which does not exist; expected the directory of a data set",
        ),
    ],
)
def test_a_default_that_is_not_there_is_named_with_the_option_that_gives_another(
    tmp_path, monkeypatch, capsys, arguments, says
):
    """It was "runs/latest: no such file", a path that its reader had never written."""
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, arguments)


def test_every_option_of_every_command_has_words_for_what_it_expects():
    """One that had none was a traceback where its value was wrong."""
    _, commands = build_parser(chosen_model([]))
    for parser in commands.values():
        for action in parser._actions:
            if _kind(action):
                assert _expected(_kind(action)), action.option_strings


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"istvt {__version__}\n"


def test_every_command_explains_itself_in_its_help(capsys):
    for name, (command, _) in COMMANDS.items():
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        usage, _, rest = capsys.readouterr().out.partition("\n\n")
        assert usage.startswith(f"usage: istvt {name}")
        assert "\n" not in usage
        assert rest.startswith(command.run.__doc__.splitlines()[0])
        assert "<class" not in rest


EXAMPLES = [
    line.split("   ")[0].split()
    for command, _ in COMMANDS.values()
    for line in inspect.cleandoc(command.run.__doc__).splitlines()
    if line.startswith("  istvt ")
]


def test_help_of_every_command_that_needs_arguments_has_an_example():
    assert {name for _, name, *_ in EXAMPLES} >= COMMANDS.keys() - {"demo", "doctor"}


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_an_example_of_the_help_is_a_command_line_that_the_command_takes(capsys, words):
    with pytest.raises(SystemExit, match="0"):
        main([*words[1:], "--print_config"])
    assert capsys.readouterr().out


def test_help_and_completions_may_end_in_a_pipe_that_is_closed():
    """`istvt --print_completion shtab-bash | head` was a traceback."""
    command = f"{sys.executable} -m istvt --print_completion shtab-bash | head -c 9 > /dev/null"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_settings_come_from_a_file_and_the_command_line_wins(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("model:\n  depth: 4\n  dim: 96\n")
    assert main(["model", "--config", str(tmp_path / "settings.yaml"), "--model.depth", "6"]) == 0
    text = capsys.readouterr().out
    assert "C=96" in text
    assert "M=6" in text


def test_help_teaches_without_importing_torch():
    code = "import sys; from istvt.cli.main import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--training.learning_rate" in done.stdout
    assert "warm-up" in done.stdout
