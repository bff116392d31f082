"""Models of a comparison: what of an evaluation is done already, and what is not."""

import pytest

from istvt.comparison.models import evaluate_model
from istvt.comparison.settings import ComparisonSettings, DataSet, DetectorSettings, comparison_plan
from istvt.report import evaluate_checkpoint, evaluate_robustness
from istvt.report.evaluation_files import REPORT


def test_an_evaluation_that_was_stopped_before_its_report_was_written_goes_on(
    trained_run, synthetic_set, tmp_path, monkeypatch
):
    """Scores and metrics were there, so it counted as done: without a report, and with a journal that stayed."""
    settings = ComparisonSettings(
        detectors={"one": DetectorSettings(checkpoints=[str(trained_run)])},
        data={"drawn": DataSet(root=str(synthetic_set))}, test=["drawn"], perturb=["blur:2"], clips=1, bootstrap=10,
    )  # fmt: skip
    plan = comparison_plan(settings, tmp_path)
    [model] = plan.models
    output = model.output / "drawn"

    def evaluate():
        evaluate_model(model, "drawn", plan.data["drawn"], plan.settings, plan.sweeps)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    for module, journal in ((evaluate_checkpoint, "evaluation"), (evaluate_robustness, "robustness")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "render_files", stopped)
            evaluate()
        assert [path.name for path in output.glob("*.unfinished")] == [f"{journal}.json.unfinished"]
    monkeypatch.setattr(evaluate_checkpoint, "load_same_model", None)  # no video is scored again
    evaluate()
    assert list(output.glob("*.unfinished")) == []
    assert "sigma in pixels" in (output / REPORT).read_text()
