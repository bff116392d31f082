"""A synthetic set of talking-head-like videos in the shape of FaceForensics++.

Each video shows a procedurally drawn person before a blurred room. Head pose, camera and light drift as slow Gaussian
processes. Fifteen *latents* govern the inner face and nothing else (a soft oval: what lies outside it does not depend
on them): mouth, brows, eyelids, gaze, and the strengths of six patterns of light and three of color on the skin. In
a real video each latent is a stationary Gaussian process, N(0, 1) at every frame and correlated over about five
frames.

- `flicker` takes the latents of its original in a shuffled order that is drawn without looking at them. A frame by
  itself has exactly the distribution of a real frame, and a whole video holds the same inner-face states as its
  original; neighboring frames disagree. The trace is purely temporal.
- `blend` pastes the inner face of another person with a color mismatch and a seam, moving as smoothly as the
  original. The trace is purely spatial.
- `both` does both.

With `varied=True` fakes also differ in where and when they are forged: half of `blend` and `both` in one half of the
face only, half of all fakes in one or two of each six consecutive frames only. `forgeries.json` and the mask videos
mark it (a frame that is not forged has an empty mask). A single forged frame of `flicker` shows a state drawn by
itself, so its trace stays purely temporal; `flicker` is never halved, because two halves of one face in different
states are a trace in a single frame.

Real and fake pass through the same drawing code. All frames are coded as H.264 intra frames whose quantizer does not
depend on other frames, so that a frame decodes to the same pixels alone as in its video: the encoder cannot betray
`flicker`.

With `edited=True` the set also has an edited video, outside its splits: two of its people in five shots, of whom one is
forged in one shot. What it shows, and where, stands in a JSON file beside it.

A model whose score of a video is the mean of its scores of single frames can therefore gain nothing from training on
`flicker`, whatever it learns from `blend`. A model that compares frames, if only by their spread, can detect it.
The set is for demonstration, tests, and measuring what each attention sees. It is drawn, not filmed, and says nothing
about accuracy on real forgeries.
"""

from dataloading.synthetic.dataset import EDITED, Forgery, SyntheticSummary, forgeries, synthesize
from dataloading.synthetic.edited import EditedVideo, draw_edited_video, read_edited_video

__all__ = [
    "EDITED",
    "EditedVideo",
    "Forgery",
    "SyntheticSummary",
    "draw_edited_video",
    "forgeries",
    "read_edited_video",
    "synthesize",
]
