"""The judge of landmarks knows pose and paths of five points, and no pixel."""

import numpy as np
import pytest

from bench.__main__ import main
from bench.experiments.landmarks import HEAD, features, pose
from dataloading import read_dataset
from dataloading.faces.prepare import prepare
from dataloading.synthetic import synthesize


def seen(rotation, shift=(0.0, 0.0), scale=40.0):
    """The head, turned by a rotation vector, as a camera sees it: float64 [5, 2] in pixels."""
    import cv2

    projected, _ = cv2.projectPoints(
        HEAD, np.array(rotation, float), np.array([0, -0.5, 10.0]), np.diag([10.0, 10, 1]), None
    )
    return scale * projected.reshape(5, 2) + shift


def test_the_pose_of_a_rigid_head_is_found_wherever_and_however_large_it_is_in_the_picture():
    for rotation in ([0, 0, 0.0], [0.1, -0.3, 0.05], [-0.2, 0.2, -0.4]):
        found = pose(seen(rotation))
        assert found[:3] == pytest.approx(rotation, abs=0.05)
        assert np.abs(found[6:]).max() < 0.02  # five points of one rigid head: no residual
        assert pose(seen(rotation, (300, 200), 90.0)) == pytest.approx(found, abs=1e-4)


def test_a_mouth_that_moves_against_the_head_is_a_residual_and_not_a_turn():
    still = seen([0, 0.1, 0])
    moved = still + np.array([(0, 0), (0, 0), (0, 0), (-6, 0), (6, 0)])
    assert np.abs(pose(moved)[6:]).max() > 3 * np.abs(pose(still)[6:]).max() + 0.02
    path = np.stack([still, moved] * 3)
    assert features(path).shape == (64,)
    assert features(path)[32:48].max() > 10 * features(np.stack([still] * 6))[32:48].max() + 0.02


def test_it_sees_lips_out_of_order_and_by_construction_nothing_of_eyes_that_do_not_blink(tmp_path, capsys):
    """An eyelid is no landmark: real and forged videos have the same ones, so each pair of them is a tie."""
    root = tmp_path / "set"
    how = {"identities": 16, "frames": 12, "size": 32, "splits": (2, 0, 1), "workers": 1, "progress": False}
    synthesize(root, manipulations=("mouth", "eyes"), **how)
    prepare(read_dataset(root), detect=False, workers=1, progress=False)
    assert main(["landmarks", f"--root={root}", "--manipulations", "mouth"]) == 0
    assert main(["landmarks", f"--root={root}", "--manipulations", "eyes"]) == 0
    mouth, eyes = (float(line.split("AUC ")[1].split()[0]) for line in capsys.readouterr().out.splitlines())
    assert mouth > 0.8
    assert eyes == 0.5


def test_a_set_without_landmarks_is_refused_with_the_first_reason(tmp_path, capsys):
    root = tmp_path / "set"
    synthesize(
        root, identities=4, frames=8, size=32, splits=(1, 0, 1), manipulations=("blend",), workers=1, progress=False
    )
    prepare(read_dataset(root), detect=False, workers=1, progress=False)
    (root / "faces.json").unlink()
    assert main(["landmarks", f"--root={root}"]) == 2
    error = capsys.readouterr().err
    assert "landmarks of real and of fake training videos are needed" in error
    assert "shows no face" in error and "Traceback" not in error
