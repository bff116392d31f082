"""Every small detector of faces learns `blend` of the synthetic set, and those of a part the forgery of that part.

ISTVT sees `flicker`, which a judge of frames cannot see.

`make detectors`: cells of `python -m bench detectors`, without perturbations, drawn and trained from nothing. Each
prints the AUC, with its 95 % interval, of 144 videos (72 for parts of the face) of people that were not trained on. A
detector that saw nothing would have .5, with a standard error of .048 (.068).
"""

import pytest

from bench.experiments.detectors import cell, detectors_of, draw, measure

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="session")
def auc(tmp_path_factory):
    """A function of detector and kind: the AUC of a training with seed 0, with its interval."""
    from rich.console import Console

    output = tmp_path_factory.mktemp("detectors")

    def of(name, kind):
        draw(output, kind)
        list(measure(output, [name], [kind], [0], [], Console(quiet=True)))
        found = cell(output, name, kind, [0]).plain
        print(f"\n{name} on {kind}: AUC {found}", flush=True)
        return found

    return of


@pytest.mark.parametrize("name", detectors_of("blend"))
def test_it_learns_blend(name, auc):
    assert auc(name, "blend").value > 0.8


def test_xception_by_frame_cannot_see_flicker(auc):
    found = auc("xception", "flicker")
    assert found.low < 0.5 < found.high


def test_istvt_sees_flicker_in_the_same_videos(auc):
    """So that the test above is one of the detector, and not of the videos."""
    assert auc("istvt", "flicker").low > 0.6


def test_lip_motion_learns_lips_that_move_out_of_order(auc):
    assert auc("lip_motion", "mouth").low > 0.8


def test_lrcn_learns_eyes_that_never_blink(auc):
    """A real video whose two clips show open eyes alone is like a fake: .89 is the most that can be had."""
    assert auc("lrcn", "eyes").low > 0.5
