"""Parameters of a drawn person, fixed for all videos of that person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SKIN_TONES = np.float32(
    [(248, 216, 192), (238, 198, 166), (226, 178, 138), (206, 150, 108), (165, 110, 72), (122, 79, 52), (88, 58, 42)]
)
HAIR_COLORS = np.float32(
    [(28, 24, 26), (52, 36, 28), (92, 60, 38), (128, 66, 38), (196, 152, 92), (226, 196, 140), (150, 148, 150)]
)
EYE_COLORS = np.float32([(88, 54, 32), (122, 86, 44), (84, 118, 78), (76, 126, 168), (112, 128, 140)])
HAIR_STYLES = ("short", "side_part", "fringe", "long", "bob", "curly", "bun", "bald")


@dataclass(frozen=True)
class Identity:
    """One person. Lengths are fractions of the frame's side, colors are RGB in 0..255, angles are radians."""

    skin: np.ndarray
    hair: np.ndarray
    eye: np.ndarray
    lip: np.ndarray
    clothes: np.ndarray
    hair_style: str
    center_y: float
    half_width: float
    crown: float
    chin: float
    jaw: float
    eye_y: float
    eye_distance: float
    eye_width: float
    eye_height: float
    eye_slant: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip_fullness: float
    blush: float
    freckles: float
    beard: float
    glasses: bool
    hairline: float
    parting: float
    texture_seed: int


def draw_identity(seed: int, number: int) -> Identity:
    """Return person `number` of the set made with `seed`; the same two numbers always give the same person."""
    rng = np.random.default_rng((seed, number, 0))

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    # The two people of a pair are alike in skin, as in the official pairs: a pasted face is given away by its seam.
    pair = np.random.default_rng((seed, number // 2, 1))
    tone = float(np.clip(pair.uniform(0.2, len(SKIN_TONES) - 1) + between(-0.35, 0.35), 0.2, len(SKIN_TONES) - 1))
    darker = min(int(tone), len(SKIN_TONES) - 2)
    skin = SKIN_TONES[darker] + (tone - darker) * (SKIN_TONES[darker + 1] - SKIN_TONES[darker])
    skin = np.clip(skin * rng.uniform(0.96, 1.04, 3), 40, 255).astype(np.float32)
    hair_choices = HAIR_COLORS if tone < 3 else HAIR_COLORS[[0, 0, 1, 1, 2, 6]]
    hair = np.clip(
        hair_choices[rng.integers(len(hair_choices))] * between(0.85, 1.15) * rng.uniform(0.96, 1.04, 3), 8, 240
    )
    eyes = EYE_COLORS if tone < 3 else EYE_COLORS[:2]
    lip = skin * np.float32((0.88, 0.56, 0.56)) + np.float32((between(0, 24), 0, between(0, 12)))
    hue = between(0, 6)
    clothes = 60 + 150 * np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1) * between(0.3, 0.9)
    beard = between(0.35, 0.75) if rng.random() < 0.3 else 0.0
    return Identity(
        skin=skin,
        hair=hair.astype(np.float32),
        eye=np.clip(eyes[rng.integers(len(eyes))] * rng.uniform(0.85, 1.15, 3), 20, 220).astype(np.float32),
        lip=np.clip(lip, 30, 235).astype(np.float32),
        clothes=clothes.astype(np.float32),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
        center_y=between(0.525, 0.545),
        half_width=between(0.275, 0.315),
        crown=between(0.40, 0.43),
        chin=between(0.385, 0.425),
        jaw=between(0.08, 0.30),
        eye_y=between(-0.055, -0.030),
        eye_distance=between(0.112, 0.132),
        eye_width=between(0.050, 0.062),
        eye_height=between(0.024, 0.034),
        eye_slant=between(-0.12, 0.16),
        brow_height=between(0.062, 0.078),
        brow_thickness=between(0.008, 0.017),
        brow_arch=between(0.004, 0.018),
        nose_length=between(0.115, 0.145),
        nose_width=between(0.034, 0.052),
        mouth_y=between(0.190, 0.215),
        mouth_width=between(0.078, 0.102),
        lip_fullness=between(0.016, 0.030),
        blush=between(0.0, 0.30),
        freckles=between(0.3, 1.0) if rng.random() < 0.25 else 0.0,
        beard=beard,
        glasses=bool(rng.random() < 0.2),
        hairline=between(0.24, 0.30),
        parting=between(-0.6, 0.6),
        texture_seed=int(rng.integers(2**31)),
    )
