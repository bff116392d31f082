"""The HTML report: self-contained, with every number, with escaped names."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from dataloading.errors import InputError
from istvt.evaluation.metrics import compute_metrics
from istvt.explain.faithfulness.results import Faithfulness, MeasuredClip, MethodValues, Sanity, SanityRow
from istvt.inference.video_score import VideoScore
from istvt.report.evaluation_files import HistoryRow, StoredEvaluation
from istvt.report.examples import Example, choose_examples
from istvt.report.report import write_report

HOSTILE = """<script>alert("1")</script>/&'"><img src=http://example.org/x>"""
STORED = {"settings", "versions", "skipped", "title", "notes"}
VOID = {"meta", "link", "img", "br", "hr", "wbr", "input", "col"}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, text by element, and tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.text, self.unmatched, self._open = [], [], [], []
        self.feed(self.source)
        self.close()
        self.unmatched += self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.unmatched.append(tag)

    def handle_data(self, data):
        if "style" not in self._open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def charts_of(page):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)]


def pieces_and_markers(page, description, color):
    """Of the line of a color in the chart of that description: of how many pieces it is, and its number of markers."""
    (chart,) = [chart for chart in charts_of(page) if chart.get("aria-label").startswith(description)]
    drawn = [
        (part.tag, part.get("d", "")) for part in chart.iter() if f"stroke: var(--{color})" in part.get("style", "")
    ]
    pieces = [path.count("M") for tag, path in drawn if tag == "path" and "L" in path and "z" not in path.lower()]
    return pieces[0] if pieces else 0, sum(tag == "use" for tag, _ in drawn)


def scores_of(real=20, fakes=("blend", "flicker"), each=10, seed=0, apart=1.0):
    generator = np.random.default_rng(seed)
    scores = []
    for position in range(real + each * len(fakes)):
        label = int(position >= real)
        manipulation = fakes[(position - real) // each] if label else "original"
        values = 1 / (1 + np.exp(-generator.normal(apart if label else -apart, 1.5, 3)))
        name = f"{manipulation}/{position:03d}"
        probability = float(values.mean())
        scores.append(
            VideoScore(name, f"/set/{name}.mp4", label, manipulation, probability, values.tolist(), [[0]] * 3)
        )
    return scores


def history_of(epochs=4):
    keys = ("train_loss", "val_loss", "val_accuracy", "val_precision", "val_recall", "val_f1", "val_auc")
    return [
        HistoryRow(e, learning_rate=5e-4 / e, seconds=2.5, **dict.fromkeys(keys, 0.5 + 0.09 * e))
        for e in range(1, epochs + 1)
    ]


def write(path, scores=None, **arguments):
    scores = scores_of() if scores is None else scores
    stored = {name: arguments.pop(name) for name in STORED & arguments.keys()}
    evaluation = StoredEvaluation(**vars(compute_metrics(scores, bootstrap=100)) | stored)
    return evaluation, Page(write_report(path, evaluation, scores, **arguments))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything a report can hold."""
    scores = scores_of()
    generator = np.random.default_rng(0)
    examples = [
        Example(score, generator.integers(0, 256, (6, 300, 240, 3), dtype=np.uint8), range(10, 16))
        for score in choose_examples(scores)
    ]
    return write(
        tmp_path_factory.mktemp("runs") / "demo" / "report.html",
        scores,
        history=history_of(),
        examples=examples,
        settings={"seed": 7, "model": {"dim": 64, "head_dim": None}, "data": {"faces": {"detector": "yuface"}}},
        versions={"torch": "2.13.0", "device": "cpu"},
        skipped=[("original/099", "has 3 frames, fewer than a clip of 6")],
        title="The synthetic set",
        notes=["Drawn, not filmed."],
    )


def test_the_report_is_whole_and_opens_without_network_or_script(full):
    _, page = full
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.unmatched == []
    without_pictures = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page.source)
    assert not re.search(r"https?:|//|url\(|@import|<script|javascript:", without_pictures, re.IGNORECASE)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith(("#", "data:"))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_link_leads_to_a_section_and_every_section_is_linked(full):
    _, page = full
    targets = {link["href"][1:] for link in page.all("a")}
    sections = {section["id"] for section in page.all("section")}
    assert targets == sections
    assert {"result", "errors", "manipulations", "examples", "training", "skipped", "settings"} <= sections
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_the_report_shows_every_metric_with_its_interval(full):
    evaluation, page = full
    shown = page.words.replace(" ", "")
    result = evaluation.videos
    for estimate in (result.accuracy, result.auc, result.average_precision, result.equal_error_rate):  # the headline
        assert f"{estimate.value:.3f}{estimate.low:.3f}–{estimate.high:.3f}01" in shown
    for name, video in result.estimates().items():
        clip = evaluation.clips.estimates()[name]
        row = "".join(f"{estimate.value:.3f}{estimate.low:.3f}–{estimate.high:.3f}" for estimate in (video, clip))
        assert name.replace(" ", "") + row in shown
    for name, metrics in evaluation.manipulations.items():
        estimates = (metrics.auc, metrics.average_precision, metrics.equal_error_rate, metrics.recall, metrics.accuracy)
        row = "".join(f"{estimate.value:.3f}{estimate.low:.3f}–{estimate.high:.3f}" for estimate in estimates)
        assert f"{name}10{row}" in shown
    for row in result.classification_rows:
        assert f"{row.name.replace(' ', '')}{row.precision:.3f}{row.recall:.3f}{row.f1:.3f}{row.support}" in shown
    counts = result.confusion
    assert f"{counts.true_negatives + counts.true_positives} of 40 videos judged right" in page.words
    assert "Every metric, by video and by clip" in page.words


def test_the_report_shows_settings_versions_notes_and_what_was_skipped(full):
    _, page = full
    for words in ("The synthetic set", "Drawn, not filmed.", "original/099", "has 3 frames, fewer than a clip of 6"):
        assert words in page.words
    for name, value in (("seed", "7"), ("dim", "64"), ("head_dim", "none"), ("faces.detector", "yuface")):
        assert f"{name}{value}" in page.words
    assert "torch2.13.0" in page.words


def test_every_chart_is_well_formed_and_described_in_words(full):
    evaluation, page = full
    charts = charts_of(page)
    # ROC, four sets of curves, and one row of bars for the real videos and for each manipulation.
    assert len(charts) == 1 + 4 + 3
    assert all(chart.get("role") == "img" and len(chart.get("aria-label")) > 20 for chart in charts)
    labels = " ".join(chart.get("aria-label") for chart in charts)
    assert f"AUC {evaluation.videos.auc}" in labels
    assert "validation: 0.59 at epoch 1, 0.86 at epoch 4." in labels


def test_example_frames_are_the_frames_given_small_and_described(tmp_path):
    ramp = np.zeros((4, 320, 160, 3), np.uint8)
    ramp[..., 0] = 200  # red
    for position in range(4):
        ramp[position, ..., 2] = position * 60
    score = scores_of()[0]
    _, page = write(tmp_path / "report.html", examples=[Example(score, ramp, [3, 4, 5, 9])])
    images = page.all("img")
    assert [image["alt"] for image in images] == [f"{score.name}, frame {number}" for number in (3, 4, 5, 9)]
    for position, image in enumerate(images):
        data = np.frombuffer(base64.b64decode(image["src"].split(",")[1]), np.uint8)
        red, green, blue = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].reshape(-1, 3).mean(0)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (160, 80, 3)
        assert (red, green, blue) == pytest.approx((200, 0, position * 60), abs=4)


def test_a_hostile_name_is_shown_and_not_obeyed(tmp_path):
    scores = scores_of()
    scores[0] = VideoScore(HOSTILE, HOSTILE, 0, "original", 0.9, [0.9], [[0]])
    scores[-1] = VideoScore(f"{HOSTILE}2", HOSTILE, 1, HOSTILE, 0.1, [0.1], [[0]])
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    _, page = write(
        tmp_path / "report.html",
        scores,
        examples=[Example(scores[0], frames), Example(scores[-1], frames)],
        skipped=[(HOSTILE, HOSTILE)],
        title=HOSTILE,
        notes=[HOSTILE],
        settings={HOSTILE: HOSTILE, "group": {HOSTILE: [HOSTILE]}},
        versions={HOSTILE: HOSTILE},
        history=[HistoryRow(1, val_auc=0.5)],
    )
    assert page.unmatched == []
    assert page.all("script") == []
    assert all(image["src"].startswith("data:image/jpeg") for image in page.all("img"))
    assert page.words.count(HOSTILE) >= 10


def test_a_name_that_is_not_valid_unicode_does_not_stop_the_report(tmp_path):
    scores = scores_of()
    name = b"clip\xff".decode("utf-8", "surrogateescape")
    scores[0] = VideoScore(name, name, 0, "original", 0.2, [0.2], [[0]])
    _, page = write(tmp_path / "report.html", scores)
    assert "clip\\udcff" in page.words


@pytest.mark.parametrize(("label", "name"), [(0, "real"), (1, "fake")])
def test_a_split_of_one_class_is_said_in_words_and_never_nan(tmp_path, label, name):
    scores = [score for score in scores_of() if score.label == label]
    _, page = write(tmp_path / "report.html", scores, history=[HistoryRow(1)])
    assert f"AUC is undefined: the split holds only {name} videos" in page.words
    assert "There is no ROC curve" in page.words
    assert not re.search(r"\b(nan|None|inf)\b", page.words)
    assert not re.search(r"\bnan\b", page.source, re.IGNORECASE)


def test_measured_explanations_are_a_section_and_a_sentence_takes_its_place(tmp_path):
    clips = [
        MeasuredClip("a", 1, "blend", 0.9, True, [2], 0.125, half=True),
        MeasuredClip("b", 1, "blend", 0.8, True, [0, 1, 2, 3, 4, 5], 0.125),
        MeasuredClip("c", 0, "original", 0.1),
    ]

    def values(first, last):
        curves = [[[first, last], [first, last], None], [[0.5, last], [0.5, last], None]]
        deletion = [*curves[0][:2], [0.1, 0.2]]
        return MethodValues(deletion, curves[1], curves[0], curves[1], [1, 0, None], [0.5, 1, None], [0.4, 0.6, None],
                            [[0, 0, 1, 0, 0, 0], None, None])  # fmt: skip

    methods = {"random": values(0.9, 0.7), "lrp": values(0.9, 0.3)}
    row = SanityRow([[0.1, 0.2]], [0.3, 0.3], [1.0, 1.0], [0.5, 0.5], None)
    measured = Faithfulness([0.0, 0.3], 6, clips, methods, [("a", "no mask")], {})
    measured.sanity = Sanity(["backbone"], ["a", "b"], {"lrp": row})
    _, page = write(tmp_path / "report.html", explanations=measured)
    assert page.unmatched == []
    assert "3 videos, of which 2 are fakes and 2 of these are detected" in page.words
    assert "lrp0.60 (0.60 to 0.60)" in page.words  # the lowest deletion first
    assert page.words.index("lrp0.60 (0.60 to 0.60)") < page.words.index("random0.80 (0.80 to 0.80)")
    assert "lrp0.50 (0.50 to 0.50)1.00 (1.00 to 1.00)" in page.words  # rank accuracy and hottest pixel of the half
    assert "1.00 (1.00 to 1.00) fails0.50 (0.50 to 0.50)noneno" in page.words
    assert "Masks cover 12.5\u2009% of the pixels and the forged frame is one of 6" in page.source.replace(
        "&thinsp;", "\u2009"
    )
    assert "1 clip or mask could not be used" in page.words
    assert page.source.count("<h3>P(fake) by") == 4
    _, page = write(tmp_path / "report.html", explanations="They are of another model.")
    assert "Whether the explanations are true They are of another model." in page.words
    assert "P(fake) by" not in page.source


def test_an_evaluation_without_training_has_no_training_section(tmp_path):
    _, page = write(tmp_path / "report.html")
    sections = {section["id"] for section in page.all("section")}
    assert sections == {"result", "errors", "manipulations", "probabilities", "metrics", "videos", "skipped"}
    assert "Nothing: every video was scored." in page.words


def test_an_undefined_metric_leaves_a_gap_in_its_curve(tmp_path):
    history = [replace(row, val_accuracy=None) for row in history_of(5)]
    history[2] = replace(history[2], val_auc=None)
    _, page = write(tmp_path / "report.html", history=history)
    assert pieces_and_markers(page, "AUC:", "real") == (2, 4)
    assert "undefined" in page.words


def test_a_metric_that_is_undefined_is_said_below_its_curve(tmp_path):
    """Precision was missing from the plot and from its legend, and nothing said why."""
    history = [HistoryRow(e, val_precision=None if e < 3 else 0.7, val_recall=0.0, val_f1=0.0) for e in (1, 2, 3)]
    _, page = write(tmp_path / "some.html", history=history)
    assert "Precision is undefined in epochs 1, 2: no video was called fake." in page.words
    _, page = write(tmp_path / "all.html", history=history[:2])
    assert "Precision is undefined in every epoch: no video was called fake." in page.words


def test_the_best_epoch_is_the_one_given_or_the_first_with_the_highest_auc(tmp_path):
    history = history_of(5)
    history[1], history[3] = replace(history[1], val_auc=0.99), replace(history[3], val_auc=0.99)
    _, page = write(tmp_path / "report.html", history=history)
    assert "The dashed line marks epoch 2, with the highest validation AUC." in page.words
    _, page = write(tmp_path / "report.html", history=history, best_epoch=4)
    assert "The dashed line marks epoch 4, whose weights were evaluated." in page.words


def test_a_single_epoch_is_a_point(tmp_path):
    _, page = write(tmp_path / "report.html", history=history_of(1))
    assert pieces_and_markers(page, "training:", "real") == (1, 2)  # one marker is in the legend, as is the line


def test_everything_that_was_skipped_is_listed(tmp_path):
    skipped = [(f"original/{i:04d}", f"reason {i}") for i in range(1500)]
    _, page = write(tmp_path / "report.html", skipped=skipped)
    assert "1500 entries were not scored" in page.words
    assert all(f"{name}{reason}" in page.words for name, reason in skipped)


def test_a_long_list_of_videos_says_how_many_it_leaves_out_and_keeps_the_worst(tmp_path):
    scores = scores_of(real=700, each=300)
    evaluation, page = write(tmp_path / "report.html", scores)
    assert "The 1,000 worst of 1,300 videos, the most wrong first." in page.words
    table = page.source[page.source.index('id="videos"') : page.source.index('id="skipped"')]
    wrong = evaluation.videos.confusion.false_positives + evaluation.videos.confusion.false_negatives
    assert table.count("✗") == wrong > 0
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_a_report_with_twelve_examples_stays_below_three_megabytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 300, 300, 3), dtype=np.uint8)  # the hardest to compress
    scores = scores_of()
    write(tmp_path / "report.html", scores, examples=[Example(score, noise) for score in scores[:12]])
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_examples_take_turns_between_manipulations_and_put_sure_mistakes_first():
    scores = scores_of(real=30, fakes=("a", "b", "c"), each=20, apart=0.2)
    chosen = choose_examples(scores)
    wrong = [score for score in chosen if not score.is_correct()]
    assert chosen[: len(wrong)] == wrong
    assert [score.manipulation for score in wrong] == ["original", "a", "b", "c", "original", "a"]
    assert [score.manipulation for score in chosen[6:]] == ["original", "a", "b", "c", "original", "a"]
    mistakes = [score for score in scores if score.label == 0 and not score.is_correct()]
    assert wrong[0] == max(mistakes, key=lambda score: score.probability)
    assert choose_examples(scores) == choose_examples(scores[::-1])


@pytest.mark.parametrize(
    ("frames", "numbers", "sentence"),
    [
        (
            np.zeros((2, 8, 8, 3), np.float32),
            None,
            "must be uint8 [frames, height, width, 3], got float32 [2, 8, 8, 3]",
        ),
        (np.zeros((8, 8, 3), np.uint8), None, "got uint8 [8, 8, 3]"),
        (np.zeros((2, 8, 8, 3), np.uint8), [1], "has 2 frames to show but 1 frame numbers"),
    ],
)
def test_frames_that_cannot_be_shown_are_named(tmp_path, frames, numbers, sentence):
    score = scores_of()[0]
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        write(tmp_path / "report.html", examples=[Example(score, frames, numbers)])
    assert score.name in str(caught.value)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"report\.html cannot be written: "):
        write(tmp_path / "file" / "report.html")
