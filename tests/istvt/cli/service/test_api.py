"""HTTP interface: scores of `istvt predict`, files of `istvt explain`, and one sentence for whatever is wrong."""

import copy
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import av
import pytest
from face_fixtures import detector_or_skip
from fastapi.testclient import TestClient
from service_helpers import TOKEN, Held, Scorer, problem
from video_fixtures import cut_short, write_numbered, write_sound

from istvt.cli.main import main
from istvt.cli.service import uploads
from istvt.cli.service.analysis import Analyzer
from istvt.cli.service.uploads import safe_name
from istvt.config import ServeSettings
from istvt.inference.calibration import band_of
from istvt.model.architectures import build, model_preset
from istvt.model.checkpoint import Calibration


def test_an_uploaded_video_has_the_scores_of_predict_and_the_explanation_of_explain(
    client, done_job, video, trained_run, tmp_path
):
    named = tmp_path / "my interview.mp4"
    shutil.copy(video, named)
    command = [str(named), f"--checkpoint={trained_run}"]
    assert main(["predict", *command, "--isolate", f"--json={tmp_path}/scores.json"]) == 0
    [row] = json.loads((tmp_path / "scores.json").read_text())
    result = copy.deepcopy(done_job["result"])
    for person in result["people"]:
        assert person.pop("calibrated_probability_fake") is None
    assert result.pop("not_sure") is None
    assert result == {name: value for name, value in row.items() if name != "path"}

    assert main(["explain", *command, f"--out={tmp_path}/why", "--batch_size=8", "--clips=1"]) == 0
    here = json.loads((tmp_path / "why/explanation.json").read_text())
    there = client.get(f"/v1/jobs/{done_job['id']}/explanation", params={"format": "json"}).json()
    assert there["video"].pop("path") == "my interview.mp4" and here["video"].pop("path") == str(named)
    assert there["settings"].pop("checkpoint").startswith("run/best.safetensors (")
    here["settings"].pop("checkpoint")
    there["settings"]["batch_size"] = 8
    assert there == here
    page = client.get(f"/v1/jobs/{done_job['id']}/explanation")
    assert page.text.count("<video") == (tmp_path / "why/explanation.html").read_text().count("<video")
    assert str(video.parent) not in page.text and "sandbox" in page.headers["content-security-policy"]


def test_the_job_says_what_the_file_is(done_job, video):
    about = done_job["video"]
    assert about["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert (about["bytes"], about["frames"], about["codec"]) == (video.stat().st_size, 10, "h264")
    assert done_job["progress"] == {
        "stage": "done", "done": 0, "total": 0, "fraction": 1.0, "seconds_left": 0.0, "ahead": 0,
    }  # fmt: skip
    assert done_job["expires"] > "2026"


def test_explanations_come_as_page_data_video_and_one_page_report(client, done_job, tmp_path):
    kinds = {"html": "text/html", "json": "application/json", "mp4": "video/mp4", "pdf": "application/pdf"}
    for kind, media in kinds.items():
        answer = client.get(f"/v1/jobs/{done_job['id']}/explanation", params={"format": kind, "download": True})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(media)
        assert answer.headers["content-disposition"].startswith("attachment")
        (tmp_path / f"file.{kind}").write_bytes(answer.content)
    [person] = done_job["explanations"][0]["explained"]
    with av.open(str(tmp_path / "file.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == sum(map(len, person["clip_frames"]))
    assert (tmp_path / "file.pdf").read_bytes().count(b"/Type /Page ") == 1
    part = client.get(f"/v1/jobs/{done_job['id']}/video", headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    assert (tmp_path / "file.json").read_text().startswith("{")


def test_events_tell_every_stage_with_the_time_left_and_end(client, video, upload):
    job = upload(client, video).json()["id"]
    stages, fractions, kinds = [], [], []
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            elif line.startswith("data: {") and kinds[-1] == "job":
                progress = json.loads(line.removeprefix("data: "))["progress"]
                stages.append(progress["stage"])
                fractions.append(progress["fraction"])
    assert (kinds[-1], stages[-1], fractions[-1]) == ("end", "done", 1.0)
    assert fractions == sorted(fractions)
    assert {"drawing", "done"} <= set(stages) <= {
        "waiting", "looking for faces", "scoring clips", "explaining clips", "drawing", "done",
    }  # fmt: skip


def test_another_method_is_explained_without_scoring_again(client, done_job, finished):
    address = f"/v1/jobs/{done_job['id']}"
    missing = client.get(f"{address}/explanation", params={"method": "gradcam"})
    assert "explained by lrp" in problem(missing, 404, "not-explained")
    assert client.post(f"{address}/explanations", json={"method": "gradcam"}).status_code == 202
    job = finished(client, done_job["id"])
    first, second = job["explanations"]
    assert (second["method"], second["status"]) == ("gradcam", "done")
    assert first["explained"] == second["explained"]  # the same clips: they can stand side by side
    assert job["result"] == done_job["result"]
    page = client.get(f"{address}/explanation", params={"method": "gradcam"}).text
    assert "Grad-CAM" in page
    again = client.post(f"{address}/explanations", json={"method": "gradcam"})
    assert again.json()["status"] == "done"
    wrong = client.post(f"{address}/explanations", json={"method": "magic"})
    assert "method: Input should be 'lrp'" in problem(wrong, 422, "invalid-request")


def test_another_architecture_is_explained_by_the_methods_that_ask_for_its_logit_alone(
    serving, analyzer, video, upload, finished
):
    other = copy.copy(analyzer)
    other.model = build(replace(model_preset("s_mil", "small"), image_size=40))
    other.info = replace(analyzer.info, config=other.model.config)
    service = serving(analyzer=other)
    known = service.get("/v1/service").json()
    assert (known["methods"], known["method"]) == (["shap", "counterfactual"], "shap")
    wrong = upload(service, video, method="lrp")
    assert "method is 'lrp'; expected one of shap, counterfactual" in problem(wrong, 422, "invalid-request")
    job = finished(service, upload(service, video, method="counterfactual").json()["id"])
    assert [found["status"] for found in job["explanations"]] == ["done"]
    address = f"/v1/jobs/{job['id']}"
    assert "was made by this program" in service.get(f"{address}/explanation").text
    assert service.get(f"{address}/explanation", params={"format": "pdf"}).content.startswith(b"%PDF")
    never = service.post(f"{address}/explanations", json={"method": "lrp"})
    assert "expected one of shap, counterfactual" in problem(never, 422, "not-explainable")


def test_people_are_judged_and_chosen_by_number(people_analyzer, edited_video, serving, upload, finished):
    service = serving(analyzer=people_analyzer)
    everyone = finished(service, upload(service, edited_video).json()["id"])
    assert everyone["status"] == "done", everyone
    numbers = [person["person"] for person in everyone["result"]["people"]]
    assert numbers == [1, 2]
    address = f"/v1/jobs/{everyone['id']}/explanation"
    for number in numbers:
        assert service.get(address, params={"format": "mp4", "person": number}).status_code == 200
    sentence = problem(service.get(address, params={"format": "mp4", "person": 9}), 404, "unknown-person")
    assert "person is 9; expected one of 1, 2." in sentence
    service = serving(analyzer=Scorer(people_analyzer))
    one = finished(service, upload(service, edited_video, person=2).json()["id"])
    assert one["result"]["people"] == everyone["result"]["people"][1:]
    none = finished(service, upload(service, edited_video, person=7).json()["id"])
    assert none["status"] == "failed" and none["problem"]["type"].endswith("unknown-person")
    assert "person is 7, and 2 people can be scored" in none["problem"]["detail"]


def test_a_video_without_a_face_is_refused_in_one_sentence(analyzer, serving, upload, finished, tmp_path):
    detector = detector_or_skip("opencv")
    faces = Analyzer(analyzer.model, analyzer.info, analyzer.name, None, analyzer.crop)
    faces.detector = detector.name
    service = serving(analyzer=faces)
    job = finished(service, upload(service, write_numbered(tmp_path, "grid", frames=12), "grid.mp4").json()["id"])
    assert job["status"] == "failed" and job["result"] is None
    sentence = problem(service.get(f"/v1/jobs/{job['id']}/explanation"), 422, "no-face")
    assert sentence.startswith("grid.mp4 shows no face: ")


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "sound"])
def test_what_is_no_video_is_refused_by_the_name_that_the_client_gave(client, video, upload, tmp_path, kind):
    made = {
        "text": lambda path: path.write_text("a letter, not a video" * 50),
        "empty": lambda path: path.write_bytes(b""),
        "cut short": lambda path: cut_short(video, path, 0.5),
        "sound": write_sound,
    }
    path = tmp_path / "file.mp4"
    made[kind](path)
    sentence = problem(upload(client, path, "my clip.mp4"), 415, "not-a-video")
    assert sentence.startswith("my clip.mp4 ") and "/" not in sentence


def test_size_and_length_are_limited_before_anything_is_decoded(serving, video, upload, tmp_path, monkeypatch):
    service = serving(max_mib=1 / 256, max_minutes=0.01)
    assert "larger than 0.00390625 MiB" in problem(upload(service, video), 413, "too-large")

    def chunks():  # without a Content-Length
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        yield from [bytes(1000)] * 50

    answer = service.post("/v1/videos", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"})
    problem(answer, 413, "too-large")
    long = serving(max_minutes=0.01)
    monkeypatch.setattr(Analyzer, "score", None)
    sentence = problem(upload(long, write_numbered(tmp_path, "a", frames=50)), 422, "too-long")
    assert sentence == "clip.mp4 is 0.0 minutes long; this server takes at most 0.01."
    assert list((tmp_path / "storage").glob("*/[!.]*")) == []  # nothing of a refused upload is left


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"--x\r\nbroken", 400, "cut short or damaged"),
        (b'--x\r\nContent-Disposition: form-data; name="person"\r\n\r\n1\r\n--x--\r\n', 400, "has no file"),
        (
            b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
            + bytes(5_000)
            + b"\r\n--x--\r\n",
            400,
            "The file is in the field 'video'; expected it in the field 'file'.",
        ),
        (b"", 400, "cut short"),
    ],
)
def test_a_form_without_a_file_is_refused(client, body, kind, says):
    answer = client.post("/v1/videos", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert says in problem(answer, kind, "not-a-form")


def test_wrong_fields_are_named(client, video, upload):
    for fields, says in [
        ({"person": "0"}, "person is '0'; expected a whole number from 1"),
        ({"method": "magic"}, "method is 'magic'; expected one of lrp,"),
        ({"clips": "many"}, "clips is 'many'"),
        ({"color": "red"}, "no field 'color'"),
    ]:
        assert says in problem(upload(client, video, **fields), 422, "invalid-request")
    assert "too long" in problem(upload(client, video, person="1" * 2000), 400, "not-a-form")


def test_an_unknown_job_is_404_everywhere(client):
    for method, address in [
        ("GET", ""), ("GET", "/events"), ("GET", "/explanation"), ("GET", "/video"), ("DELETE", ""),
    ]:  # fmt: skip
        assert "kept for 60 minutes" in problem(client.request(method, f"/v1/jobs/none{address}"), 404, "unknown-job")
    problem(client.get("/v1/nothing"), 404, "not-found")
    problem(client.put("/v1/videos"), 405, "wrong-method")


def test_a_full_queue_is_429_with_the_time_to_wait_and_is_open_again_later(serving, analyzer, video, upload, finished):
    held = Held(analyzer)
    service = serving(analyzer=held, queue=2)
    jobs = [upload(service, video).json()["id"]]
    assert held.began.wait(20)
    jobs += [upload(service, video).json()["id"] for _ in range(2)]
    assert [service.get(f"/v1/jobs/{job}").json()["progress"]["ahead"] for job in jobs] == [0, 1, 2]
    answer = upload(service, video)
    assert "2 videos are waiting already" in problem(answer, 429, "queue-full")
    assert 1 <= int(answer.headers["retry-after"]) <= 600
    unready = service.get(f"/v1/jobs/{jobs[1]}/explanation")
    assert "not scored yet" in problem(unready, 409, "not-ready")
    never = service.post(f"/v1/jobs/{jobs[1]}/explanations", json={"method": "raw"})
    assert "no explanations of the architecture istvt" in problem(never, 422, "not-explainable")
    held.free.set()
    assert {finished(service, job)["status"] for job in jobs} == {"done"}
    assert upload(service, video).status_code == 202


def test_a_deleted_job_is_ended_and_all_of_it_is_removed(serving, analyzer, video, upload, finished, tmp_path):
    held = Held(analyzer)
    service = serving(analyzer=held)
    running, waiting, last = (upload(service, video).json()["id"] for _ in range(3))
    assert held.began.wait(20)
    assert len(list((tmp_path / "storage").glob("*/*/clip.mp4"))) == 3
    for job in (running, waiting):
        assert service.delete(f"/v1/jobs/{job}").status_code == 204
        problem(service.get(f"/v1/jobs/{job}"), 404, "unknown-job")
    deadline = time.monotonic() + 60
    while not held.canceled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held.canceled
    held.free.set()
    assert finished(service, last)["status"] == "done"
    assert [path.parent.name for path in (tmp_path / "storage").glob("*/*/clip.mp4")] == [last]


def test_files_are_removed_after_their_time(serving, analyzer, video, upload, tmp_path):
    service = serving(analyzer=Scorer(analyzer), keep_minutes=0.001)
    job = upload(service, video).json()["id"]
    deadline = time.monotonic() + 60
    while service.get(f"/v1/jobs/{job}").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    problem(service.get(f"/v1/jobs/{job}"), 404, "unknown-job")
    assert list((tmp_path / "storage").glob("*/[!.]*")) == []


def test_an_unexpected_error_fails_one_job_and_not_the_service(serving, analyzer, video, upload, finished, caplog):
    class Broken(Held):
        def score(self, *arguments):
            if not self.free.is_set():
                self.free.set()
                raise ZeroDivisionError("a secret of the code")
            return Analyzer.score(self, *arguments)

    service = serving(analyzer=Broken(analyzer))
    first, second = (upload(service, video).json()["id"] for _ in range(2))
    sentence = problem_of = finished(service, first)["problem"]
    assert problem_of["status"] == 500 and "secret" not in str(sentence)
    assert finished(service, second)["status"] == "done"
    assert service.get("/health").json()["status"] == "ok"


def test_scores_in_the_band_of_a_calibrated_model_have_no_verdict(serving, analyzer, video, upload, finished):
    unsure = copy.copy(analyzer)
    unsure.info = copy.copy(analyzer.info)
    unsure.info.calibration = Calibration(2.0, [0.1] * 200 + [0.6] * 20, [0.9] * 200 + [0.4] * 20)
    unsure.band = band_of(unsure.info.calibration, 0.05)
    service = serving(analyzer=unsure)
    assert service.get("/v1/service").json()["not_sure"].startswith("not sure between 10.0% and 90.0%")
    job = finished(service, upload(service, video).json()["id"])
    result = job["result"]
    assert (result["verdict"], result["people"][0]["verdict"]) == ("not sure", "not sure")
    assert result["people"][0]["calibrated_probability_fake"] is not None
    assert result["not_sure"] == {"max_error": 0.05, "between": pytest.approx([0.1, 0.9])}
    assert "in the band without a verdict" in service.get(f"/v1/jobs/{job['id']}/explanation").text


def test_with_a_token_every_address_but_health_and_the_login_asks_for_it(serving, video, upload):
    service = serving(token=TOKEN)
    for address in ("/v1/service", "/v1/jobs/x", "/metrics", "/openapi.json", "/page.js"):
        answer = service.get(address)
        problem(answer, 401, "wrong-token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(upload(service, video), 401, "wrong-token")
    wrong = service.get("/v1/service", headers={"Authorization": "Bearer wrong"})
    problem(wrong, 401, "wrong-token")
    assert service.get("/health").status_code == 200
    assert service.get("/v1/service", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    page = service.get("/")
    assert page.status_code == 401 and 'name="token"' in page.text
    assert service.post("/login", data={"token": "wrong"}).status_code == 401
    entered = service.post("/login", data={"token": TOKEN}, follow_redirects=False)
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert service.get("/v1/service").status_code == 200


def test_other_hosts_and_pages_of_other_sites_are_refused(serving, video, upload):
    """With DNS rebinding a page of another site could read every result of a service on localhost."""
    service = serving(hosts=("judge.example",))
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "[::1", ""):
        problem(service.get("/v1/service", headers={"host": host}), 421, "wrong-host")
    for host in ("localhost:8765", "127.0.0.1", "[::1]:80", "judge.example"):
        assert service.get("/v1/service", headers={"host": host}).status_code == 200
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        answer = service.post("/v1/videos", files={"file": ("a.mp4", video.read_bytes())}, headers=headers)
        problem(answer, 403, "foreign-page")
    own = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    answer = service.post("/v1/videos", files={"file": ("a.mp4", video.read_bytes())}, headers=own)
    assert answer.status_code == 202
    allowed = service.options("/v1/videos", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in allowed.headers


def test_the_log_has_no_name_of_a_file_or_job(serving, analyzer, video, upload, finished, caplog):
    caplog.set_level(logging.INFO)
    service = serving(analyzer=Scorer(analyzer))
    job = upload(service, video, "private meeting.mp4").json()["id"]
    finished(service, job)
    service.get(f"/v1/jobs/{job}/explanation?format=json&person=1")
    text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("istvt"))
    assert "POST /v1/videos 202" in text and "GET /v1/jobs/{job_id}/explanation 404" in text
    assert "private" not in text and job not in text and "person" not in text
    counted = service.get("/metrics").text
    assert 'istvt_requests_total{method="POST",route="/v1/videos",status="202"} 1.0' in counted
    assert 'istvt_tasks_total{outcome="done"} 1.0' in counted
    assert f"istvt_uploaded_bytes_total {float(video.stat().st_size)}" in counted
    assert "process_resident_memory_bytes" in counted and job not in counted


def test_an_upload_that_stands_still_gives_its_place_back(address, monkeypatch, client):
    import socket

    monkeypatch.setattr(uploads, "STALLED_SECONDS", 0.3)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert client.get("/health").json()["waiting"] == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\videos\\a.mov", "a.mov"),
        ("a\x1b[31m\n.mp4", "a__31m_.mp4"),
        ("", "video"),
        ("..", "video"),
        (".lock", "lock"),
        ("é" * 300 + ".mp4", "é" * 76 + ".mp4"),
    ],
)
def test_names_of_files_are_safe_on_a_disk_and_a_page(given, kept):
    assert safe_name(given) == kept


def test_the_defaults_need_nothing():
    assert ServeSettings().is_local and ServeSettings().max_bytes == 512 << 20


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_manual_do_what_it_says(start, analyzer, video, trained_run, tmp_path, monkeypatch):
    manual = Path(__file__).parents[4] / "docs/serve.md"
    address = start(analyzer)
    blocks = re.findall(r"```sh\n(.*?)```", manual.read_text(), re.DOTALL)
    shutil.copy(video, tmp_path / "video.mp4")
    environment, outputs = {**os.environ, "JOB": ""}, []
    for block in blocks:
        command = block.replace("http://127.0.0.1:8765", address)
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "urn:istvt:problem" not in done.stdout, done
        outputs.append(done.stdout)
        if not environment["JOB"]:
            environment["JOB"] = json.loads(done.stdout)["id"]
    assert "event: end" in outputs[1] and '"verdict"' in outputs[1]
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "in_frame.mp4").stat().st_size > 1000
    assert json.loads(outputs[3])["method"] == "gradcam"
    assert outputs[4] == "" and '"status":"ok"' in outputs[5]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/first").symlink_to(trained_run)
    [code] = re.findall(r"```python\n(.*?)```", manual.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    with TestClient(names["app"], base_url="http://localhost") as service:
        assert service.get("/v1/service").json()["clips"] == 1
