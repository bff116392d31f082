"""The page of `istvt serve` in a real browser: drop, progress, cancel, scrubbing, keyboard, phone, axe-core."""

import base64
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs pip install 'istvt[test]'")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from service_helpers import TOKEN, Held

from istvt.cli.service.analysis import Analyzer
from istvt.config import ServeSettings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("ISTVT_SCREENSHOTS")  # directory of `istvt demo`: pictures of it go to docs/images
IMAGES = Path(__file__).parents[4] / "docs/images"
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "video/mp4" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(
      new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""
# The video at the middle of the chosen clip, its heatmaps at a frame of it.
TIMES = "() => ['source', 'heat-a', 'heat-b'].map((id) => document.getElementById(id).currentTime)"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here: the page is not tested (apt-get install chromium)")
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture
def open_page(browser):
    """A function that opens an address; errors of scripts, and requests that leave the machine, fail the test."""
    contexts, faults = [], []

    def open_page(address: str, viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        server = address.partition("/#")[0]
        page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
        page.on("request", lambda request: request.url.startswith(f"{server}/") or faults.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def is_fault(message) -> bool:
    """Whether a line of the console is an error, and not the status of an answer that the page shows as a sentence."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def dropped(page, video: Path, name: str) -> None:
    page.evaluate(DROP, [name, base64.b64encode(video.read_bytes()).decode()])


def shown(page) -> set[str]:
    return {name for name in ("choose", "working", "result", "problem") if page.is_visible(f"#{name}")}


def settled(page, letter: str = "a") -> None:
    """Wait until the heatmaps are loaded and stand where the curve does."""
    for _ in range(600):
        ready = page.evaluate(f"document.getElementById('heat-{letter}').readyState > 1")
        if ready and page.is_visible("#downloads a") and not page.evaluate("document.getElementById('source').seeking"):
            return
        page.wait_for_timeout(50)
    raise AssertionError("no heatmaps")


def findings(page) -> list[str]:
    """What axe-core finds, rule by rule."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


def test_a_dropped_video_is_followed_to_its_verdict_and_nothing_leaves_the_machine(
    open_page, address, video, client, done_job
):
    page = open_page(address)
    assert shown(page) == {"choose"}
    dropped(page, video, "my interview.mp4")
    page.wait_for_selector("#working:visible")
    stages = set()
    while not page.is_visible("#downloads a"):
        stages.add(page.inner_text("#stage"))
        page.wait_for_timeout(20)
    settled(page)
    assert stages & {"looking for faces", "scoring clips", "explaining clips", "drawing"}
    assert shown(page) == {"result"}
    result = done_job["result"]
    assert page.inner_text("#verdict") == f"{result['verdict'].capitalize()}: my interview.mp4"
    assert f"Probability of fake {result['probability_fake']:.3f}." in page.inner_text("#probability")
    assert "has only ever seen drawn faces" in page.inner_text("#doubts")
    assert done_job["video"]["sha256"] in page.text_content("#sha")
    links = page.eval_on_selector_all("#downloads a", "(links) => links.map((link) => link.href)")
    assert len(links) == 5
    assert all(client.get(link.replace(address, "")).status_code == 200 for link in links)
    assert page.reload().status == 200  # the address of the page has the job
    settled(page)
    job = page.url.partition("#job=")[2]
    page.click("#remove")
    page.wait_for_selector("#choose:visible")
    for _ in range(100):
        if client.get(f"/v1/jobs/{job}").status_code == 404:
            break
        page.wait_for_timeout(50)
    assert client.get(f"/v1/jobs/{job}").status_code == 404


def test_a_click_on_the_curve_or_an_arrow_key_moves_the_video_and_its_heatmaps(open_page, address, done_job):
    page = open_page(f"{address}/#job={done_job['id']}")
    settled(page)
    clips = done_job["result"]["clip_frames"]
    [explained] = done_job["explanations"][0]["explained"][0]["clip_frames"]
    first = clips.index(explained)
    box = page.locator("#curve").bounding_box()

    def frame_of(number: int) -> float:
        return (clips[number][len(clips[number]) // 2] + 0.5) / done_job["result"]["fps"]

    places = []
    for number in (len(clips) - 1, 0):
        seconds = (sum(clips[number]) / len(clips[number]) + 0.5) / done_job["result"]["fps"]
        x = 34 + seconds / (done_job["result"]["frames"] / done_job["result"]["fps"]) * (box["width"] - 46)
        page.mouse.click(box["x"] + x, box["y"] + 80)
        settled(page)
        source, heat, _ = page.evaluate(TIMES)
        assert source == pytest.approx(frame_of(number), abs=0.01)
        assert page.inner_text("#where").startswith(f"Clip {number + 1} of {len(clips)}")
        assert int(page.input_value("#clip")) == number
        places.append(heat)
        frame = clips[number][len(clips[number]) // 2]
        if frame in explained:
            assert heat == pytest.approx((explained.index(frame) + 0.5) / 4, abs=0.01)
    assert places[0] != places[1]
    page.focus("#clip")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.evaluate(TIMES)[0] == pytest.approx(frame_of(1), abs=0.01)
    assert page.get_attribute("#clip", "aria-valuetext").startswith(f"Clip 2 of {len(clips)}, at ")
    page.fill("#clip", str(first))
    assert "not explained" not in page.inner_text("#where")


def test_two_methods_stand_side_by_side_at_the_same_frame(open_page, address, done_job):
    page = open_page(f"{address}/#job={done_job['id']}")
    settled(page)
    page.select_option("#method-b", "rollout")
    settled(page, "b")
    assert (page.inner_text("#name-a"), page.inner_text("#name-b")) == ("lrp", "rollout")
    _, first, second = page.evaluate(TIMES)
    assert first == second > 0
    left, right = (page.locator(f"#panel-{letter}").bounding_box() for letter in "ab")
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.select_option("#view", "in_frame")
    settled(page, "b")
    assert "view=in_frame" in page.get_attribute("#heat-b", "src")


@pytest.mark.exhaustive
def test_one_of_several_people_is_picked(open_page, browser, start, people_analyzer, edited_video, tmp_path):
    page = open_page(start(people_analyzer))
    dropped(page, edited_video, "two people.mp4")
    settled(page)
    choices = page.locator("#people label")
    assert choices.count() == 2
    assert "the most suspicious of 2" in page.inner_text("#probability")
    before = page.inner_text("#curve-text"), page.get_attribute("#heat-a", "src")
    other = page.locator("#people input:not(:checked)")
    other.check()
    settled(page)
    assert (page.inner_text("#curve-text"), page.get_attribute("#heat-a", "src")) != before
    assert page.locator("#curve .cut").count() >= 1
    why = tmp_path / "explanation.html"  # a script cannot look at it where it is, in its sandbox
    why.write_bytes(page.request.get(page.locator("#downloads a").first.evaluate("(link) => link.href")).body())
    for scheme in ("light", "dark"):
        explanation = browser.new_page(color_scheme=scheme, viewport=PHONE)
        explanation.goto(why.as_uri())
        assert findings(explanation) == []
        explanation.close()


def test_a_video_is_canceled_and_a_wrong_one_is_refused_in_the_page(open_page, start, analyzer, video, tmp_path):
    held = Held(analyzer)
    page = open_page(start(held, max_mib=0.5))
    dropped(page, video, "slow.mp4")
    page.wait_for_selector("text=scoring clips")
    assert shown(page) == {"working"}
    page.wait_for_timeout(1200)
    assert "s left" in page.inner_text("#left")
    page.click("#cancel")
    page.wait_for_selector("#choose:visible")
    for _ in range(100):
        if held.canceled:
            break
        page.wait_for_timeout(50)
    assert held.canceled
    letter = tmp_path / "letter.mp4"
    letter.write_text("not a video" * 100)
    dropped(page, letter, "letter.mp4")
    page.wait_for_selector("#problem:visible")
    assert "letter.mp4 is not a video: no known video format was recognized in it." in page.inner_text("#problem")
    letter.write_bytes(bytes(600_000))
    dropped(page, letter, "letter.mp4")
    page.wait_for_selector("text=larger than 0.5 MiB")
    assert page.locator(":focus").get_attribute("id") == "file"


def test_all_of_it_is_done_without_a_mouse(open_page, address, video):
    page = open_page(address)
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("id") == "file"
    # Playwright asks for the chooser without waiting for an answer, so a key that overtakes that opens an unseen one.
    for _ in range(20):
        page.keyboard.press("Space")
        page.wait_for_timeout(500)
        if choosers:
            break
    choosers[0].set_files(video)
    page.wait_for_selector("#working:visible")
    page.keyboard.press("Tab")
    settled(page)
    reached = []
    page.focus("#verdict")
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.textContent")
        if page.evaluate("document.activeElement === document.body"):
            break
        reached.append(name)  # that of the video once for each of its own controls
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or name == "source", name
    assert {"clip", "source", "method-a", "method-b", "view", "One-page report (PDF)", "another", "remove"} <= set(
        reached
    )
    page.focus("#remove")
    page.keyboard.press("Enter")
    page.wait_for_selector("#choose:visible")


@pytest.mark.parametrize("how", [{"viewport": PHONE, "has_touch": True}, {"color_scheme": "dark"}])
def test_axe_finds_nothing_and_a_phone_shows_all_of_it(open_page, address, done_job, how):
    start_page = open_page(address, **how)
    assert findings(start_page) == []
    page = open_page(f"{address}/#job={done_job['id']}", **how)
    settled(page)
    for closed in page.locator("details").all():
        closed.evaluate("(details) => { details.open = true; }")
    assert findings(page) == []
    for each in (start_page, page):
        wide, inner = each.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner == how.get("viewport", DESKTOP)["width"]


def test_the_login_and_the_progress_are_without_findings_too(open_page, start, analyzer, video, browser):
    held = Held(analyzer, explainable=True)
    address = start(held, token=TOKEN)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    assert findings(page) == []
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#drop")
    page.set_input_files("#file", video)
    page.wait_for_selector("text=scoring clips")
    assert findings(page) == []
    held.free.set()
    settled(page)  # its media and events come with the cookie
    context.close()


@pytest.mark.skipif(SCREENSHOTS is None, reason="ISTVT_SCREENSHOTS names no directory of istvt demo")
def test_screenshots_for_the_documents(open_page, start, browser):
    demo = Path(SCREENSHOTS)
    analyzer = Analyzer.load(demo / "training", ServeSettings())
    [forged, *_] = sorted((demo / "fresh/manipulated_sequences").rglob("*.mp4"))
    address = start(analyzer, clips=3)
    IMAGES.mkdir(exist_ok=True)
    page = open_page(address)
    page.screenshot(path=IMAGES / "serve-start.png")
    dropped(page, forged, "interview.mp4")
    settled(page)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / "serve-result.png", full_page=True)
    job = page.url.partition("#job=")[2]
    phone = open_page(f"{address}/#job={job}", viewport=PHONE, has_touch=True, color_scheme="dark")
    settled(phone)
    phone.screenshot(path=IMAGES / "serve-phone.png", full_page=True)
    for name, source in [
        ("explanation", f"{address}/v1/jobs/{job}/explanation"),
        ("report", (demo / "report.html").as_uri()),
    ]:
        other = browser.new_page(viewport=DESKTOP)
        other.goto(source)
        other.wait_for_timeout(500)
        other.screenshot(path=IMAGES / f"{name}-page.png", clip={"x": 0, "y": 0, **DESKTOP})
        other.close()
