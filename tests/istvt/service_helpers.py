"""Helpers of the tests of `istvt serve`."""

import threading

from istvt.cli.service.analysis import Analyzer
from istvt.cli.service.jobs import CanceledError

TOKEN = "a-token-of-some-length"


def problem(response, status: int, kind: str) -> str:
    """The sentence of an answer that is a problem of this kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    data = response.json()
    assert (data["type"], data["status"]) == (f"urn:istvt:problem:{kind}", status)
    assert "\n" not in data["detail"] and "Traceback" not in data["detail"]
    assert data["detail"][-1] in ".)" and data["detail"][0] not in " ."
    return data["detail"]


class Scorer(Analyzer):
    """Scores and, unless it is asked for, explains nothing, which takes most of the time of a small model."""

    explainable = False

    def __init__(self, analyzer: Analyzer, explainable: bool = False) -> None:
        self.__dict__ |= analyzer.__dict__ | {"explainable": explainable}


class Held(Scorer):
    """Judges nothing until it is let go."""

    def __init__(self, analyzer: Analyzer, explainable: bool = False) -> None:
        super().__init__(analyzer, explainable)
        self.free, self.began = threading.Event(), threading.Event()
        self.canceled = False

    def score(self, path, name, person, processes, advance):
        self.began.set()
        try:
            while not self.free.wait(0.02):
                advance("scoring clips", 1, 4)
        except CanceledError:
            self.canceled = True
            raise
        return super().score(path, name, person, processes, advance)
