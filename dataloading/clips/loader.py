"""`ClipLoader`: batches of clips for the model, decoded in worker processes and augmented in a background thread."""

import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import torch

from dataloading.clips.cpu_pipeline import BatchMemory, CpuPipeline
from dataloading.clips.masks import UNKNOWN, read_masks
from dataloading.clips.pipeline import Augmentation, ClipGraph, Draw, Sample, require_dali
from dataloading.clips.reader import read_decoded, read_encoded, read_pictures
from dataloading.clips.sampling import Clip
from dataloading.clips.store import read_table
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.video.decoder import choose_decoder
from dataloading.video.processes import Workers, get

PREFETCHED_BATCHES = 2  # batches that are ready, beyond the one in preparation
# Position of a clip, and its sample or the reason why there is none.
Loaded = tuple[int, Sample | str]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some clips, ready for the model.

    Attributes:
        clips: float32 [B, T, 3, H, W] in [-1, 1].
        labels: float32 [B], 0 real and 1 fake; on the CPU, pinned where the clips are on a GPU.
        indices: int64 [B], positions in the list the loader was given.
        rehearsed: int64, places in the batch of the clips of earlier data sets (`Clip.rehearsed`); None for none.
        masks: int8 [B, T, H, W], where the labels are: 1 forged, 0 not forged, all -1 of a clip without a known mask;
            None where masks were not asked for.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    rehearsed: torch.Tensor | None = None
    masks: torch.Tensor | None = None


class ClipLoader:
    """Loader of a list of clips: decoded, cropped, resized and augmented, in order, each once an epoch.

    Iterating it is one epoch, and it can be iterated again. Files are decoded in worker processes (by DALI on a GPU: in
    this one), a few batches ahead of the consumer. The last batch may be smaller. A clip that cannot be decoded is left
    out of its batch and listed with the reason in `skipped`, and so are clips of a file that makes the decoder crash or
    stand still; the epoch goes on. A batch without any clip is not yielded: processes that synchronize at every step
    have to count the batches.

    Attributes:
        decoder: The one in use: `"pyav"`, `"dali"`, or `"jpeg"` for the pictures of a lossy crop store. Their colors
            differ by some gray levels, so a checkpoint records it. Lossless crops give the same clips as `"pyav"`.
        skipped: `(clip, reason)` of each clip of the latest epoch that could not be decoded so far.
        unmasked: `(clip, reason)` of each clip of the latest epoch whose mask is not known so far.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        batch_size: int,
        image_size: int,
        augment: bool | Augmentation = False,
        device: str | torch.device = "cpu",
        decoder: str = "auto",
        seed: int = 0,
        workers: int = 2,
        processes: Workers | None = None,
        by_video: bool = False,
        crf: int | None = None,
        masks: bool = False,
    ):
        """Check the arguments; nothing is decoded yet.

        Args:
            clips: What to load, in this order; all with the same number of frames.
            batch_size: B, clips of a batch.
            image_size: H and W of the output in pixels.
            augment: True for the default `Augmentation`, or one. Its draws depend on the seed, on how often the loader
                was iterated, and on the clip (its `index` and video): not on the batch size or on what is skipped.
            device: Where the graph runs and the batches are: `"cpu"`, `"cuda"` or `"cuda:1"`.
            decoder: `"pyav"`; `"dali"` (NVDEC on a GPU; on CPU it knows VP8, VP9 and MJPEG only); `"auto"`: DALI
                on a GPU if it can decode every readable video of the list, else PyAV. JPEG crops are always decoded by
                DALI on a GPU and by OpenCV on a CPU, and lossless ones always by PyAV.
            seed: Of the augmentation. Give each epoch its own where each epoch has its own loader.
            workers: Processes that read and decode, and threads of DALI.
            processes: Where files are decoded, such as those with the limits of a sandbox; by default the loader's.
            by_video: A batch holds clips of one video alone. The last bits of a logit depend on the size of its batch,
                and so what a video gives does not depend on those beside it.
            crf: Encodes each video once more at this rate factor of H.264 before it is read, by PyAV; None does not.
            masks: Batches hold masks too, which are decoded by PyAV.

        Raises:
            InputError: An argument is out of range, DALI is missing, or `decoder="dali"` and a video is not for it.
        """
        for name, number in (("batch_size", batch_size), ("image_size", image_size), ("workers", workers)):
            if number < 1:
                raise InputError(f"{name} is {number}; expected 1 or more.")
        lengths = sorted({len(clip.frames) for clip in clips})
        if len(lengths) > 1:
            raise InputError(f"The clips have {lengths[0]} to {lengths[-1]} frames; expected the same number in each.")
        self.clips = clips
        self.batch_size, self.image_size, self.seed = batch_size, image_size, seed
        self.augmentation = (augment if isinstance(augment, Augmentation) else Augmentation()) if augment else None
        self.device = _existing_device(device)
        self.crf = crf
        self.decoder = "pyav" if crf is not None else decoder_of((clip.video for clip in clips), decoder, self.device)
        self._by_dali = self.device.type == "cuda" or self.decoder == "dali"
        if self._by_dali:
            require_dali()
        self.skipped: list[tuple[Clip, str]] = []
        self.unmasked: list[tuple[Clip, str]] = []
        self._workers, self._processes, self._by_video, self._masks = workers, processes, by_video, masks
        self._memory = BatchMemory()  # on a CPU, from one epoch to the next too
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch in which nothing is skipped."""
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """Return how many clips each batch has, were none skipped."""
        if self._by_video:
            return [len(group) for group in _same_video(self.clips, self.batch_size)]
        return [self.batch_size] * -(-len(self.clips) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped, self.unmasked = [], []
        self._epoch += 1
        processes = self._processes or Workers()
        lists = self.skipped, self.unmasked
        return _prefetch_batches(self._batches(self._epoch, *lists, processes), PREFETCHED_BATCHES, processes)

    def _batches(
        self, epoch: int, skipped: list[tuple[Clip, str]], unmasked: list[tuple[Clip, str]], processes: Workers
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        graph = _RestartingGraph(self._build_graph)
        groups = _same_video(self.clips, self.batch_size)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="clip") as threads:
            try:
                loads = _prefetch_clips(
                    threads,
                    lambda group: self._load(group, epoch, processes),
                    groups,
                    PREFETCHED_BATCHES * self.batch_size,
                )
                for size in self._sizes():
                    batch = self._finish(list(islice(loads, size)), graph, skipped, unmasked)
                    if batch is not None:
                        yield batch
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _build_graph(self) -> ClipGraph | CpuPipeline:
        decode, augment = self.decoder == "dali", self.augmentation is not None
        if not self._by_dali:
            return CpuPipeline(self.image_size, augment, self._memory)
        pictures = len(self.clips[0].frames) if self.decoder == "jpeg" else 0
        return ClipGraph(self.batch_size, self.image_size, self.device, decode, augment, self._workers, pictures)

    def _load(self, positions: range, epoch: int, processes: Workers) -> list[Loaded]:
        """Read neighboring clips of one video, in a worker thread; a clip that cannot be read gives the reason."""
        clips = [self.clips[i] for i in positions]
        draws = [self._draw(clip, epoch) for clip in clips]
        if self.decoder == "dali":
            outcomes = [read_encoded(clip, draw, processes) for clip, draw in zip(clips, draws, strict=True)]
        elif self.decoder == "jpeg" and self._by_dali:
            outcomes = [read_pictures(clip, draw, self.image_size) for clip, draw in zip(clips, draws, strict=True)]
        else:
            outcomes = read_decoded(clips, draws, self.image_size, processes, self.crf)
        if self._masks:
            masks = read_masks(clips, draws, self.image_size, processes)
            outcomes = [
                outcome if isinstance(outcome, str) else replace(outcome, mask=mask)
                for outcome, mask in zip(outcomes, masks, strict=True)
            ]
        return list(zip(positions, outcomes, strict=True))

    def _draw(self, clip: Clip, epoch: int) -> Draw:
        if self.augmentation is None:
            return Draw()
        name = zlib.crc32(clip.video.name.encode())
        return self.augmentation.draw(np.random.default_rng([self.seed, epoch, clip.index, name]))

    def _finish(
        self,
        loaded: list[Loaded],
        graph: "_RestartingGraph",
        skipped: list[tuple[Clip, str]],
        unmasked: list[tuple[Clip, str]],
    ) -> Batch | None:
        """Run the graph on the samples that were read; list the other clips, and those without a known mask."""
        skipped.extend((self.clips[i], outcome) for i, outcome in loaded if isinstance(outcome, str))
        good = [(i, outcome) for i, outcome in loaded if isinstance(outcome, Sample)]
        if not good:
            return None
        clips, failures = graph.run([sample for _, sample in good])
        for place, message in failures.items():
            clip = self.clips[good[place][0]]
            first, last = clip.frames[0], clip.frames[-1]
            reason = f"{clip.video.path} is damaged: DALI cannot decode frames {first} to {last} ({message})."
            skipped.append((clip, reason))
        indices = [i for place, (i, _) in enumerate(good) if place not in failures]
        if not indices:
            return None
        labels = torch.tensor([float(self.clips[i].label) for i in indices])
        masks = None
        if self._masks:
            used = {i: sample.mask for i, sample in good}
            unmasked.extend((self.clips[i], used[i]) for i in indices if isinstance(used[i], str))
            masks = torch.full((len(indices), *clips.shape[1:2], *clips.shape[3:]), UNKNOWN, dtype=torch.int8)
            for place, i in enumerate(indices):
                if not isinstance(used[i], str):
                    masks[place] = torch.from_numpy(used[i])
        if self.device.type == "cuda":  # asynchronous host-to-device copy
            labels, masks = labels.pin_memory(), masks if masks is None else masks.pin_memory()
        rehearsed = [place for place, i in enumerate(indices) if self.clips[i].rehearsed]
        places = torch.tensor(rehearsed, dtype=torch.int64) if rehearsed else None
        return Batch(clips, labels, torch.tensor(indices, dtype=torch.int64), places, masks)


def decoder_of(videos: Iterable[Video], decoder: str, device: torch.device) -> str:
    """Return `"pyav"`, `"dali"` or `"jpeg"`: what decodes these videos where `decoder` is asked for.

    Raises:
        InputError: As `choose_decoder`; or some of the videos are JPEG crops and others are not.
    """
    videos = list(dict.fromkeys(videos))
    originals = [video.path for video in videos if video.crops is None]
    kinds = {kind for video in videos if video.crops is not None and (kind := _crop_format(video)) is not None}
    if (originals and "jpeg" in kinds) or len(kinds) > 1:
        raise InputError("The clips are of JPEG crops and of other videos; expected a list of either.")
    if not videos and decoder == "jpeg":
        return decoder
    if not kinds:
        return choose_decoder(decoder, originals, device)
    if decoder == "dali":
        raise InputError("decoder is 'dali', which decodes whole videos, and these are crops of a store; give 'auto'.")
    if decoder != "jpeg" or "jpeg" not in kinds:
        choose_decoder(decoder, (), torch.device("cpu"))  # refuses an unknown one
    return "jpeg" if "jpeg" in kinds else "pyav"


def _crop_format(video: Video) -> str | None:
    try:
        return read_table(video.crops).format
    except InputError:
        return None  # it will be skipped and listed


def _existing_device(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise InputError(f"device is {str(device)!r}, but torch sees no NVIDIA GPU here; expected 'cpu'.")
    # With its index: the current device is a property of the thread.
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


class _RestartingGraph:
    """A `ClipGraph` that is rebuilt after a sample that DALI cannot decode."""

    def __init__(self, build: Callable[[], ClipGraph | CpuPipeline]):
        self._build = build
        self._graph: ClipGraph | CpuPipeline | None = None

    def run(self, samples: list[Sample]) -> tuple[torch.Tensor | None, dict[int, str]]:
        """Return the output for the samples that work, and by place in the list DALI's message for the others."""
        output = self._attempt(samples)
        if isinstance(output, torch.Tensor):
            return output, {}
        # One damaged video fails the whole batch: run sample by sample to find it.
        outcomes = [self._attempt([sample]) for sample in samples]
        good = [outcome for outcome in outcomes if isinstance(outcome, torch.Tensor)]
        failures = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, str)}
        return (torch.cat(good) if good else None), failures

    def _attempt(self, samples: list[Sample]) -> torch.Tensor | str:
        """Return the output, or DALI's message where there is none."""
        graph, self._graph = self._graph or self._build(), None
        try:
            output = graph.run(samples)
        except RuntimeError as error:
            if not graph.decodes or "out of memory" in str(error):
                raise  # not the fault of a video
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a broken GPU is not either, and raises here
            return _first_line(error)
        self._graph = graph  # reusable, as no run has failed
        return output


def _first_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _same_video(clips: Sequence[Clip], largest: int) -> Iterator[range]:
    """Yield positions of the clips, in groups of neighbors from one video, whose frames are then decoded only once."""
    start = 0
    for _, group in groupby(clips, key=lambda clip: clip.video.path):
        stop = start + sum(1 for _ in group)
        for first in range(start, stop, largest):
            yield range(first, min(first + largest, stop))
        start = stop


def _prefetch_clips(
    threads: ThreadPoolExecutor, load: Callable[[range], list[Loaded]], groups: Iterable[range], ahead: int
) -> Iterator[Loaded]:
    """Yield the result of `load` for each clip, in order, with about `ahead` more clips being loaded in `threads`."""
    pending: deque[tuple[int, Future[list[Loaded]]]] = deque()
    for group in groups:
        pending.append((len(group), threads.submit(load, group)))
        while sum(size for size, _ in pending) > ahead:
            yield from pending.popleft()[1].result()
    while pending:
        yield from pending.popleft()[1].result()


def _prefetch_batches(items: Iterator[Batch], ahead: int, processes: Workers) -> Iterator[Batch]:
    """Yield the items from a background thread that prefetches up to `ahead` of them; its errors are raised here.

    Where the consumer leaves early, what `processes` have in hand is given up.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if not _put(ready, (item, None), stop):
                    return
            _put(ready, None, stop)
        except BaseException as error:  # raised in the consumer's thread
            _put(ready, (None, error), stop)
        finally:
            items.close()

    producer = threading.Thread(target=produce, name="clip-loader", daemon=True)
    producer.start()
    try:
        while (entry := get(ready)) is not None:
            item, error = entry
            if error is not None:
                raise error
            yield item
    except BaseException:  # GeneratorExit, where the consumer leaves
        stop.set()
        processes.stop()
        raise
    finally:
        producer.join()


def _put(ready: queue.Queue, entry: object, stop: threading.Event) -> bool:
    """Put an entry into the queue unless the consumer has left meanwhile."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
