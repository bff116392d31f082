"""What an adaptation changed, as Markdown, HTML and JSON: accuracy and AUC on old and new sets, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dataloading.io import replacing, write_json
from istvt.comparison.pages import html_page, markdown_page
from istvt.comparison.tables import Table
from istvt.config import AdaptationSettings, DataSettings
from istvt.evaluation.results import Estimate
from istvt.evaluation.seeds import common_scores, mean_metrics
from istvt.inference.video_score import VideoScore
from istvt.report.html import write_page

NAME = "adaptation"


@dataclass(frozen=True)
class SetChange:
    """Metrics by video of one data set before and after.

    Attributes:
        name: new, old, old-2, ...
        data: its directory, and the manipulations where they are not all.
        real, fake: videos that both networks have scored.
        accuracy_before, accuracy_after, auc_before, auc_after: with 95 % intervals.
        accuracy_change, auc_change: after minus before; the interval is of resamples of videos with both scores.
    """

    name: str
    data: str
    real: int
    fake: int
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_change: Estimate
    auc_before: Estimate
    auc_after: Estimate
    auc_change: Estimate


@dataclass(frozen=True)
class AdaptationResult:
    """A finished adaptation.

    Attributes:
        before, checkpoint: the old and the new model file.
        best_epoch: of the new run.
        settings: rehearsal and distillation.
        changes: one a data set, the new one first.
        split: that was evaluated.
        bootstrap: resamples behind the intervals.
        page: HTML file.
    """

    before: str
    checkpoint: str
    best_epoch: int
    settings: AdaptationSettings
    changes: list[SetChange]
    split: str = "test"
    bootstrap: int = 2000
    page: str = ""

    @property
    def title(self) -> str:
        """Title of the page."""
        return "What was learned, and what was forgotten"

    @property
    def notes(self) -> list[str]:
        """What was adapted, one sentence each."""
        kept = f"{self.settings.rehearsal:.0%} of the training clips were of the old sets"
        taught = f"a distillation of weight {self.settings.distillation:g}, temperature {self.settings.temperature:g}"
        how = f"{kept}, with {taught if self.settings.distillation else 'no distillation'}."
        plain = "A plain continuation: no clip of the old sets, no distillation."
        made = f"{self.before} was adapted: {self.checkpoint}, epoch {self.best_epoch}."
        sets = [f"The {each.name} set: {each.data}." for each in self.changes]
        return [made, how if self.settings.rehearsal else plain, *sets]

    @property
    def table(self) -> Table:
        """Two rows for each data set: AUC and accuracy."""
        rows = []
        for each in self.changes:
            for metric in ("AUC", "accuracy"):
                names = (f"{metric.lower()}_{part}" for part in ("before", "after", "change"))
                before, after, change = (getattr(each, name) for name in names)
                cells = [shown(before), shown(after), shown(change, "+")]
                rows.append([f"{metric}, {each.name} set", *cells, f"{each.real}, {each.fake}"])
        return Table(f"By video, {self.split} split", ["", "before", "after", "change", "real, fake"], rows)

    @property
    def method(self) -> list[str]:
        """What must be known to read the table."""
        trivial = " and ".join(
            f"{max(each.real, each.fake) / (each.real + each.fake):.3f} on the {each.name} set" for each in self.changes
        )
        return [
            "Below each value its 95% interval: Wilson's of an accuracy, the percentiles of "
            f"{self.bootstrap:,} resamples of videos within each class of an AUC and of a change, which is of the same "
            "videos before and after.",
            f"A blind guess has an AUC of 0.5, and calling every video what most are an accuracy of {trivial}. Sets "
            "may have real videos in common.",
        ]

    @property
    def markdown(self) -> str:
        """The page as Markdown."""
        return markdown_page(self.title, self.notes, [self.table], self.method)


def change_of(
    name: str, data: DataSettings, before: Sequence[VideoScore], after: Sequence[VideoScore], bootstrap: int
) -> SetChange:
    """Return the metrics of one data set from the scores of both networks."""
    first, second = common_scores([before, after])
    old, new = mean_metrics([first], bootstrap=bootstrap), mean_metrics([second], [first], bootstrap=bootstrap)
    fake = sum(score.label for score in first)
    where = f"{data.root}" + (f" ({', '.join(data.manipulations)})" if data.manipulations else "")
    metrics = {}
    for metric in ("accuracy", "auc"):
        metrics[f"{metric}_before"], metrics[f"{metric}_after"] = old[metric].mean, new[metric].mean
        metrics[f"{metric}_change"] = new[metric].change
    return SetChange(name, where, len(first) - fake, fake, **metrics)


def shown(estimate: Estimate, sign: str = "") -> str:
    """Return a value with its interval on a second line, as tables of comparisons have it."""
    if estimate.value is None:
        return estimate.reason
    value, *limits = (
        f"{number:{sign}.3f}" for number in (estimate.value, estimate.low, estimate.high) if number is not None
    )
    return "\n".join([value, *([" to ".join(limits)] if limits else [])])


def write_adaptation(result: AdaptationResult, output: Path) -> AdaptationResult:
    """Write all files of an adaptation; return it with the place of its page."""
    paths = {kind: output / f"{NAME}.{kind}" for kind in ("md", "html", "json")}
    result = replace(result, page=str(paths["html"]))
    with replacing(paths["md"]) as temporary:
        temporary.write_text(result.markdown, encoding="utf-8")
    write_page(paths["html"], html_page(result.title, result.notes, [result.table], [], result.method))
    write_json(paths["json"], asdict(result))
    return result
