"""Predicted masks of drawn forgeries, half of which are in one half of the face, and half in some frames only."""

import pytest

from bench.experiments.masks import DETECTORS, measure, section


@pytest.mark.exhaustive
def test_masks_are_found_where_no_fixed_mask_is(tmp_path_factory):
    """`make masks`: 576 training clips an epoch; a mask that is the same in every video cannot follow the halves."""
    from rich.console import Console

    found = dict(measure(tmp_path_factory.mktemp("masks"), list(DETECTORS), Console(quiet=True)))
    print("\n" + section(found))
    for name, evaluation in found.items():
        _, mean, nothing = evaluation.masks.rows
        assert evaluation.videos.auc.low > 0.5, name
        assert nothing.model_above.low > 0.1, name  # IoU of fakes: nothing forged has 0
        assert mean.model_above_pooled.value > 0, name  # the mean mask marks every frame of real videos too
        assert nothing.accuracy_of_fakes.value > 0.8  # pixels right say little
