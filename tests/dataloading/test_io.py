"""A file is there whole or not at all, and an error of the system says which file it was."""

import errno

import pytest

from dataloading.io import replacing, write_json


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "figures.json"
    for values in ({"accuracy": 0.5}, {"accuracy": 1.0}):
        write_json(path, values)
    assert path.read_text() == '{\n  "accuracy": 1.0\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "scores.csv"
    path.write_text("before")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_is_not_finite_is_refused_before_the_file_is_touched(tmp_path):
    write_json(tmp_path / "figures.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "figures.json", float("nan"))
    assert (tmp_path / "figures.json").read_text() == "1\n"


def test_a_full_disk_and_a_directory_that_is_not_there_name_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as full, replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as nowhere:
        write_json(tmp_path / "nowhere" / "a.json", 1)
    assert nowhere.value.filename == str(tmp_path / "nowhere" / "a.json")


def test_a_link_stays_one_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "figures.json"
    link.symlink_to(tmp_path / "there" / "figures.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert (tmp_path / "there" / "figures.json").read_text() == "1\n"
