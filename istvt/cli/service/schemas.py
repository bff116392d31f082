"""Resources of the HTTP interface as typed models, with examples for its OpenAPI description, and its problems.

A problem is an error as RFC 9457 has it: status, type, title and one sentence, as `application/problem+json`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from istvt.config import Method

PROBLEM_JSON = "application/problem+json"
# Status and title of each type of problem.
PROBLEMS: dict[str, tuple[int, str]] = {
    "not-a-form": (400, "The request is not the form that was expected"),
    "wrong-token": (401, "The bearer token is missing or wrong"),
    "foreign-page": (403, "The request comes from a page of another site"),
    "not-found": (404, "There is nothing at this address"),
    "unknown-job": (404, "There is no such job"),
    "unknown-person": (404, "There is no such person in the video"),
    "not-explained": (404, "There is no explanation by this method"),
    "wrong-method": (405, "The address does not take this HTTP method"),
    "upload-stalled": (408, "The upload stood still"),
    "not-ready": (409, "The result is not there yet"),
    "too-large": (413, "The file is too large"),
    "not-a-video": (415, "The file is not a video that can be read"),
    "wrong-host": (421, "The Host header names another host"),
    "too-long": (422, "The video is too long"),
    "no-face": (422, "No face was found"),
    "not-scored": (422, "The video cannot be scored"),
    "not-explainable": (422, "The video cannot be explained"),
    "invalid-request": (422, "A parameter is wrong"),
    "queue-full": (429, "Too many videos are waiting"),
    "failed": (500, "The service has failed"),
    "stopping": (503, "The service is stopping"),
    "disk-full": (507, "The disk of the service is full"),
}


class Problem(Exception):
    """An error with its type, a key of `PROBLEMS`, and one sentence."""

    def __init__(self, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as RFC 9457 has it."""
        status, title = PROBLEMS[self.kind]
        return {"type": f"urn:istvt:problem:{self.kind}", "title": title, "status": status, "detail": self.detail}


class ProblemDetails(BaseModel):
    """An error, RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={"example": Problem("too-large", "The file is larger than 512 MiB.").to_dict()}
    )
    type: str = Field(description="urn:istvt:problem:NAME; a NAME has one meaning")
    title: str
    status: int
    detail: str = Field(description="one sentence for a person")


class Shot(BaseModel):
    """Score of a person in one shot."""

    shot: int
    first_frame: int
    last_frame: int
    probability_fake: float
    clips: int


class Where(BaseModel):
    """Where a person is to be seen: a frame, and x0, y0, x1, y1 of its crop in pixels."""

    frame: int
    box: list[float]


class Person(BaseModel):
    """Score of one person."""

    person: int | None = Field(description="from 1, largest and longest seen first; null for the whole picture")
    verdict: Literal["real", "fake", "not sure"]
    probability_fake: float
    calibrated_probability_fake: float | None = None
    seconds_seen: float
    first_frame: int
    last_frame: int
    face_pixels: float | None
    clips: int
    shots: list[Shot]
    where: Where
    remark: str | None
    clip_probabilities: list[float]
    clip_frames: list[list[int]]


class NotSure(BaseModel):
    """Scores without a verdict."""

    max_error: float
    between: list[float]


class Result(BaseModel):
    """Verdict on a video, that of its most suspicious person; the same values as `istvt predict --json` writes."""

    verdict: Literal["real", "fake", "not sure"]
    probability_fake: float
    person: int | None
    clip_probabilities: list[float]
    clip_frames: list[list[int]]
    people: list[Person]
    not_scored: list[str]
    frames: int
    fps: float
    remark: str | None
    notes: list[str]
    not_sure: NotSure | None = None


class Progress(BaseModel):
    """How far a job or an explanation is."""

    stage: str = Field(
        description="waiting, looking for faces, scoring clips, explaining clips, drawing, done or failed"
    )
    done: int = Field(description="parts of the stage that are done: frames, clips or pictures")
    total: int = Field(description="parts of the stage; 0 where that is not known")
    fraction: float = Field(ge=0, le=1, description="of all stages")
    seconds_left: float | None = Field(description="estimate; null where there is none yet")
    ahead: int = Field(description="how many tasks are done before this one")


class ExplainedPerson(BaseModel):
    """The explained clips of a person: frame numbers, in the order of the explanation's MP4."""

    person: int | None
    target: Literal["real", "fake"]
    clip_frames: list[list[int]]


class Explanation(BaseModel):
    """An explanation of a job by one method."""

    method: Method
    clips: int = Field(description="explained clips a person, at most")
    status: Literal["waiting", "running", "done", "failed"]
    progress: Progress
    problem: ProblemDetails | None = None
    explained: list[ExplainedPerson] = Field(default=[], description="where its heatmaps are")


class UploadedVideo(BaseModel):
    """The uploaded file."""

    name: str
    bytes: int
    sha256: str
    seconds: float
    frames: int
    fps: float
    width: int
    height: int
    codec: str


class Job(BaseModel):
    """A video that was uploaded, and what is known of it so far."""

    id: str
    status: Literal["waiting", "running", "done", "failed"]
    video: UploadedVideo
    progress: Progress
    person: int | None = Field(description="the one person that is judged; null for all")
    result: Result | None = Field(description="as soon as the video is scored")
    problem: ProblemDetails | None = Field(description="why there is no result")
    explanations: list[Explanation]
    expires: str | None = Field(description="when all of it is removed, ISO 8601; null before it is done")


class ExplanationRequest(BaseModel):
    """A further explanation of a job."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"method": "attnlrp", "clips": 3}})
    method: Method
    clips: int | None = Field(
        default=None, ge=1, le=100, strict=True, description="explained a person; as the server does"
    )


class Model(BaseModel):
    """The model that judges."""

    name: str
    architecture: str
    checksum: str = Field(description="of its weights and metadata, as it is in the file")
    frames: int = Field(description="of a clip")
    explainable: bool


class Service(BaseModel):
    """What the service is and takes."""

    version: str
    model: Model
    methods: list[str]
    method: str = Field(description="of explanations, where a request names none")
    clips: int
    max_bytes: int
    max_seconds: float
    keep_seconds: float
    not_sure: str | None = Field(description="in one sentence, which scores have no verdict; null where all have one")
    notes: list[str] = Field(description="caveats of every verdict of the model")
    isolated: bool = Field(description="whether the system enforces all limits of the processes that read videos")


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok", "stopping"]
    waiting: int
    queue: int


_CLIPS = {"clip_probabilities": [0.91, 0.87], "clip_frames": [[0, 1, 2, 3, 4, 5], [20, 21, 22, 23, 24, 25]]}
_SHOT = {"shot": 1, "first_frame": 0, "last_frame": 249, "probability_fake": 0.89, "clips": 2}
_PERSON = {
    "person": 1, "verdict": "fake", "probability_fake": 0.89, "seconds_seen": 9.6, "first_frame": 0, "last_frame": 249,
    "face_pixels": 182.0, "clips": 2, "shots": [_SHOT], "where": {"frame": 0, "box": [402.0, 88.0, 640.0, 326.0]},
    "remark": None, **_CLIPS,
}  # fmt: skip
_DONE = {"stage": "done", "done": 0, "total": 0, "fraction": 1.0, "seconds_left": 0.0, "ahead": 0}
JOB_EXAMPLE = {
    "id": "Zx3kq0Q2tqWmS1nGkz5w2A",
    "status": "done",
    "video": {
        "name": "interview.mp4", "bytes": 1830211, "seconds": 10.0, "frames": 250, "fps": 25.0, "width": 1280,
        "height": 720, "codec": "h264",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    },
    "progress": _DONE,
    "person": None,
    "result": {
        "verdict": "fake", "probability_fake": 0.89, "person": 1, **_CLIPS, "people": [_PERSON], "not_scored": [],
        "frames": 250, "fps": 25.0, "remark": None, "notes": [], "not_sure": None,
    },
    "problem": None,
    "explanations": [
        {
            "method": "lrp", "clips": 3, "status": "done", "progress": _DONE, "problem": None,
            "explained": [{"person": 1, "target": "fake", "clip_frames": _CLIPS["clip_frames"]}],
        }
    ],
    "expires": "2026-11-29T15:00:00+00:00",
}  # fmt: skip
Job.model_config["json_schema_extra"] = {"example": JOB_EXAMPLE}
