"""`istvt convert`: from the authors' file to a checkpoint that the other commands take, and back."""

import authors_network as theirs
import pytest
import torch

from istvt.cli.main import main
from istvt.model.checkpoint import load_model

HEADS = f"--heads={theirs.HEADS}"


@pytest.fixture
def authors(tmp_path):
    torch.save(theirs.random_state(), tmp_path / "authors.pth")
    return tmp_path / "authors.pth"


def output_of(capsys, status: int, *arguments) -> str:
    """Return the output of a command; for a failure its one sentence."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status
    streams = capsys.readouterr()
    if status:
        assert streams.err.startswith("istvt: ")
        assert streams.err.count("\n") == 1
    return streams.err if status else streams.out


def test_a_state_dict_becomes_a_checkpoint_and_a_checkpoint_a_state_dict_bit_for_bit(authors, tmp_path, capsys):
    ours, again = tmp_path / "published.safetensors", tmp_path / "again.pth"
    printed = output_of(capsys, 0, "convert", authors, ours, HEADS)
    assert "parameters as a checkpoint; 4 tensors of Xception beyond the entry flow were ignored" in printed
    model, info = load_model(ours)
    assert model.config.head_norm
    assert "torch" in info.versions
    assert "parameters as a state dict of the authors' code" in output_of(capsys, 0, "convert", ours, again)
    state, found = theirs.random_state(), torch.load(again, weights_only=True)
    assert set(state) - set(found) == {name for name in state if "block4" in name or "conv3" in name or "bn4" in name
                                       or "last_linear" in name}  # fmt: skip
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_what_to_write_can_be_said_and_must_be_possible(authors, tmp_path, capsys):
    ours = tmp_path / "published.safetensors"
    output_of(capsys, 0, "convert", authors, ours, HEADS, "--to=checkpoint")
    assert "authors.pth: not a readable safetensors file" in output_of(
        capsys, 2, "convert", authors, tmp_path / "x.pth", "--to=authors"
    )
    message = output_of(capsys, 2, "convert", ours, tmp_path / "x.safetensors", "--to=checkpoint")
    assert "published.safetensors: is a checkpoint of istvt; expected " in message
    assert "expected a state dict of the ISTVT authors' code" in message


def test_a_model_of_another_network_is_refused(trained_run, tmp_path, capsys):
    message = output_of(capsys, 2, "convert", trained_run, tmp_path / "x.pth")
    assert "x.pth: cannot be written (model.position_embedding is 'all'; expected 'frames'" in message


def test_places_that_cannot_be_are_one_sentence(authors, tmp_path, capsys):
    assert "absent.pth: no such file" in output_of(capsys, 2, "convert", tmp_path / "absent.pth", tmp_path / "x")
    assert "is a directory; expected a file to write" in output_of(capsys, 2, "convert", authors, tmp_path)
    assert "there is no directory" in output_of(capsys, 2, "convert", authors, tmp_path / "nowhere" / "x")
    assert "is the file to convert" in output_of(capsys, 2, "convert", authors, authors)
    assert torch.load(authors, weights_only=True).keys() == theirs.random_state().keys()
