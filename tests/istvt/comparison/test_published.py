"""The paper's numbers, found by what was measured."""

import pytest

from istvt.comparison.published import published_results, published_value

VANILLA = {"attention": "joint", "self_subtract": False}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("Table I", "istvt", "accuracy", "faceforensics", "c23", "NeuralTextures"), 0.968),
        (("Table I", "stil", "accuracy", "faceforensics", "c40", "Face2Face"), 0.921),
        (("Table I", "xception", "accuracy", "dfdc-preview", "", ""), 0.846),
        (("Table I", "stil", "accuracy", "faceforensics", "raw", "Face2Face"), None),
        (("Table II", "ftcn", "auc", "celeb-df", "", ""), 0.869),
        (("Table II", "istvt", "auc", "plain", "", ""), None),
        (("Table III", "istvt", "auc", "faceforensics", "c40", "", VANILLA), 0.94),
        (("Table III", "istvt", "auc", "celeb-df", "", "", {"attention": "parallel", "self_subtract": True}), None),
    ],
)  # fmt: skip
def test_a_published_number_is_found_by_detector_and_videos(where, value):
    assert published_value(published_results(), *where) == value
