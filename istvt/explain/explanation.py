"""Explanations of a clip's logit: LRP, rollout, gradients, Grad-CAM, AttnLRP, SHAP, counterfactual enhancement.

From a logit back to a heatmap::

    explain -> LRPBackward.run                       forward pass, then block by block
        _classifier                                  relevance 1 and gradient 1 at the logit
        _block: _mlp, _fan_in, _attentions           residuals split, MLP and attentions
            _attention -> _attention_slice           projections and one attention, some groups at a time
                Recorder.record                      carries the rollout
    Recorder.heatmaps                                row 0 of the rollout as [B, T, H, W]

`attnlrp` goes another way, to pixels: `istvt.explain.attnlrp`. `shap` and `counterfactual` ask the model for its logit
alone, and explain every architecture: `istvt.explain.shap`, `istvt.explain.counterfactual`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dataloading.errors import InputError, as_input_error
from istvt.config import (
    AGNOSTIC_METHODS,
    COUNTERFACTUAL_RULES,
    DEFAULT_STABILIZER,
    METHODS,
    PIXEL_METHODS,
    SHAP_RULES,
    TARGETS,
    Clamp,
    DetectorConfig,
    HeatmapSettings,
    ISTVTConfig,
    Method,
    Order,
    Target,
)
from istvt.device import in_evaluation_mode
from istvt.explain.attnlrp import attnlrp
from istvt.explain.counterfactual import PASSES_BESIDE_STEPS, Counterfactual, explain_by_counterfactual
from istvt.explain.grid import pool, upscale
from istvt.explain.lrp import LRPBackward
from istvt.explain.rollout import BlockMaps, ClassRows, RolloutRows, StoredMaps
from istvt.explain.shap import ShapleyValues, check_evaluations, explain_by_shap
from istvt.model.architectures import ARCHITECTURES
from istvt.model.detector import Detector
from istvt.model.istvt import ISTVT

# Tokens in work at a time: enough for matrix products; of many clips on a GPU a quarter, because there it is launches
# that cost time, and so that a clip of many takes no more memory than a single one.
CHUNK_TOKENS = {"cpu": 512, "cuda": 1024}
GPU_CHUNKS = 4
_ISTVT_NAMES = ", ".join(name for name, row in ARCHITECTURES.items() if issubclass(row.config, ISTVTConfig))


def methods_of(config: DetectorConfig) -> tuple[str, ...]:
    """Return the methods that explain an architecture: all of them ISTVT's, of which their maps are made."""
    return METHODS if isinstance(config, ISTVTConfig) else AGNOSTIC_METHODS


def require_explainable(config: DetectorConfig, method: str) -> None:
    """Refuse a method that explains tokens and attentions of ISTVT for a model of another architecture.

    Raises:
        InputError: the sentence names what would do.
    """
    if method not in methods_of(config):
        raise InputError(
            f"method {method} cannot explain a model of {config.architecture}; expected method "
            f"{' or '.join(methods_of(config))}, or a model of one of {_ISTVT_NAMES}"
        )


def require_measurable(config: DetectorConfig) -> None:
    """Refuse to measure explanations of a model of another architecture: they are compared over ISTVT's feature cells.

    Raises:
        InputError: the configuration is not one of ISTVT.
    """
    if not isinstance(config, ISTVTConfig):
        raise InputError(
            f"explanations of a model of {config.architecture} cannot be measured; expected one of {_ISTVT_NAMES}"
        )


def require_affordable(model: Detector, settings: HeatmapSettings, clips: int) -> None:
    """Refuse an explanation of clips by too few evaluations, or one that would take longer than its limit.

    How long it would take is known by the time of a forward pass.

    Memory does not grow with the number of evaluations or steps, which go through the model a few at a time.

    Raises:
        InputError: the sentence names the setting, and the time that it would take.
    """
    config, parameter = model.config, next(model.parameters())
    if settings.method == "shap":
        check_evaluations(settings, config.frames, config.image_size)
    if settings.method not in AGNOSTIC_METHODS or not clips:
        return
    name = "evaluations" if settings.method == "shap" else "steps"
    asked = getattr(settings, name)
    # A backward pass is two forward passes.
    passes = asked if settings.method == "shap" else 3 * asked + PASSES_BESIDE_STEPS
    picture = torch.zeros(1, config.frames, 3, config.image_size, config.image_size, device=parameter.device)
    for _ in range(2):  # the first pass of a process is a slow one
        start = time.perf_counter()
        logits_of(model, picture)
        minutes = clips * passes * (time.perf_counter() - start) / 60
        if minutes <= settings.time_limit:
            return
    raise InputError(
        f"{name} is {asked}: {clips} clip{'s' * (clips > 1)} would take about {_duration(minutes)} on this device; "
        f"expected at most about {_rounded(asked * settings.time_limit / minutes)}, or a time_limit of more than "
        f"{settings.time_limit:g} minutes"
    )


def _duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{math.ceil(minutes)} minutes"


def _rounded(count: float) -> int:
    """Return two digits of a count, which is known no better."""
    digits = max(0, math.floor(math.log10(count)) - 1) if count >= 1 else 0
    return int(count // 10**digits * 10**digits)


@dataclass
class Explanation:
    """Heatmaps of a batch of clips, and what they were computed from.

    Attributes:
        logits: [B], positive = fake, whichever target is explained.
        temporal: [B, T, H, W], relevance of each cell of each frame to its position's temporal class token.
        spatial: [B, T, H, W], relevance of each cell to its own frame's spatial class token. Zero where the model has
            no such attention and, by the methods with gradients (lrp, gradient, gradcam), where spatial attention
            reaches the logit in the class row alone: with a single block, and with `decomposed_blocks`.
        class_row: [B, H, W], the spatial map of the temporal class row, which the last block reads directly.
        joint: [B, T, H, W], for `attention="joint"` the relevance of each cell to the token the logit is read from.
        token_relevance: [B, F, S, C], of the tokens (LRP only). Of the 1 at the logit the default stabilizer loses
            some on the way, about a tenth.
        token_gradient: [B, F, S, C], of the explained logit (methods with gradients).
        blocks: every map of every block, with `keep_maps`.
        target: what is explained of each clip: "fake" or "real".
        settings: method and rules; `settings.rules()` has those that the method reads.
        pixels: [B, T, H_i, W_i], summed over colors: of attnlrp the relevance of each pixel in units of the logit; of
            shap the same, each pixel an equal part of its tile's value: positive speaks for the target, negative
            against it; of counterfactual the size of its change, of pixels in [-1, 1].
        colors: [B, T, 3, H_i, W_i], of each color of each pixel (attnlrp, counterfactual); `pixels` is its sum.
        conservation: [B], relevance of pixels and of what keeps some (biases, class tokens, position embedding,
            softmax), over the explained logit (attnlrp only): 1 but for rounding.
        arrived: [B], sum of `pixels` over the explained logit (attnlrp only).
        shapley: the Shapley values themselves, with their errors (shap only).
        counterfactual: the change, and what became of the verdict (counterfactual only).
    """

    logits: Tensor
    temporal: Tensor
    spatial: Tensor
    class_row: Tensor
    joint: Tensor | None
    token_relevance: Tensor | None
    token_gradient: Tensor | None
    blocks: list[BlockMaps] | None
    target: tuple[Target, ...]
    settings: HeatmapSettings
    pixels: Tensor | None = None
    colors: Tensor | None = None
    conservation: Tensor | None = None
    arrived: Tensor | None = None
    shapley: ShapleyValues | None = None
    counterfactual: Counterfactual | None = None

    def shares(self) -> dict[str, Tensor]:
        """Return the part of all heat that temporal, spatial and class_row hold, [B] each; 0 where there is no heat.

        By methods that explain pixels each map is all of the heat, and its share 1.

        A map with a tiny part is decided by rounding and by what hardly counts, however clear it looks once it is
        normalized: the spatial map of a model of two blocks, which the last block does not feed, holds under 1 %.
        """
        sums = {name: getattr(self, name).flatten(1).sum(1) for name in ("temporal", "spatial", "class_row")}
        if self.pixels is not None:
            return {name: (heat > 0).to(heat.dtype) for name, heat in sums.items()}
        total = sum(sums.values())
        return {name: torch.where(total > 0, heat / total, 0.0) for name, heat in sums.items()}


def explain(
    model: Detector,
    clips: Tensor | None = None,
    *,
    tokens: Tensor | None = None,
    target: Target | Sequence[Target] = "fake",
    method: Method = "lrp",
    stabilizer: float | Literal["reference"] = DEFAULT_STABILIZER,
    clamp: Clamp = "after_mean",
    order: Order = "last_block_first",
    keep_maps: bool = False,
    advance: Callable[[int, int], None] | None = None,
    **rules: Any,
) -> Explanation:
    """Compute the heatmaps of a batch of clips, each clip for itself.

    With R_m the relevance and gradient_m the gradient of the attention of block m::

        Abar_m = I + max(mean over heads of (R_m * gradient_m), 0)
        U      = Abar_M ... Abar_1
        temporal = U_t[1:, 0, 1:] transposed to [T, H, W];  spatial = U_s[1:, 0, 1:] as [T, H, W]

    Methods: `lrp` as above; `gradient` with the attention in place of R; `rollout`: Abar = (I + mean over heads of A)
    / 2; `raw`: the last block's attention; `gradcam`: each head of one block weighted by its mean gradient.
    `attnlrp`: relevance of every pixel by the rules of `istvt.explain.attnlrp`, `Explanation.pixels`. Its maps are
    this relevance pooled, each pixel divided among the feature cells around it: `temporal` is the positive part, and
    compares frames; `spatial` the same with frames scaled to one sum, and compares places within a frame; `class_row`
    the positive part of the sum over frames.
    `shap` and `counterfactual` explain every architecture: Shapley values of tiles and frames, and the smallest
    change that turns the verdict (`istvt.explain.shap`, `istvt.explain.counterfactual`). Their cells are pixels:
    `temporal` and `spatial` are the positive part of `Explanation.pixels`, `class_row` that of its sum over frames.
    The matrix of `joint` attention is taken apart into the pairs the decomposed attentions would have compared:
    `temporal` rolls out its entries between cells of the same position, `spatial` those within one frame row, and
    `Explanation.joint` all of it.

    In float32 rounding still decides a map of which all tokens, class tokens included, are equal up to a hundredth or
    less. A model's own class tokens and position embedding keep even a clip that stands still from that; for tokens
    that come from elsewhere, float64 tokens (or model) are the way out.

    Args:
        model: an `ISTVT`, or by shap and counterfactual any other; its parameters may have any floating dtype.
            Arithmetic here is float32, or float64 where the model or the tokens are float64. Neither parameters nor
            running statistics change, whatever mode the model is in.
        clips: floating point [B, T, 3, H_i, W_i] in [-1, 1]; or
        tokens: [B, F, S, C], as `model.tokenize` gives them.
        target: "fake" explains the logit, "real" the negated logit; a list has one for each clip.
        method: see above.
        stabilizer: of the ratio rule: eps, relative to the absolute contributions, or "reference", Chefer's 1e-9,
            always in float64 (its maps in float32 are decided by rounding).
        clamp: negative relevance is cut after the mean over heads, or in each head before it (Chefer's code).
        order: "last_block_first" or "literal", `Abar_1 Abar_2 ... Abar_M` as the paper prints it.
        keep_maps: store all attentions, gradients and relevances in full (about 1 GiB a clip at the paper's size) and
            compute from those; not with methods that explain pixels, which have none.
        advance: with shap or counterfactual: called with (evaluations or steps done, of how many).
        rules: further fields of `HeatmapSettings`: evaluations, tiles, spans and seed of shap, bound and steps of
            counterfactual, time_limit of both.

    Raises:
        ValueError: an argument is wrong, or would take too long; the sentence names it.
    """
    with as_input_error():
        if unknown := set(rules).difference(SHAP_RULES, COUNTERFACTUAL_RULES):
            raise InputError(f"explain has no argument {min(unknown)}")
        settings = HeatmapSettings(method=method, stabilizer=stabilizer, clamp=clamp, order=order, **rules)
    require_explainable(model.config, method)
    targets = [target] if isinstance(target, str) or not isinstance(target, Sequence) else target
    for name in targets:
        if name not in TARGETS:
            raise InputError(f"target is {name!r}; expected one of {', '.join(TARGETS)}")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError(
            "the model was made under torch.inference_mode(), where its parameters can have no gradient; expected one "
            "that was made or loaded outside it"
        )
    # Inference mode knows no gradients: an explanation that is asked for within it leaves it for the while.
    with torch.inference_mode(False), torch.no_grad():
        if settings.method in PIXEL_METHODS:
            if tokens is not None or keep_maps:
                raise InputError(f"method {method} explains pixels; expected clips, not tokens, and no keep_maps")
            tokens = clips = _clips(clips)
        else:
            tokens = _tokens(model, clips, tokens)
        if targets is target and len(target) != len(tokens):
            raise InputError(f"target holds {len(target)} for {len(tokens)} clips; expected one, or one for each clip")
        targets = tuple(targets) if targets is target else (target,) * len(tokens)
        sign = torch.tensor([1 if name == "fake" else -1 for name in targets], device=tokens.device)
        if settings.method == "attnlrp":
            result = _pixel_explanation(model, clips, sign, targets, settings)
        elif settings.method in AGNOSTIC_METHODS:
            require_affordable(model, settings, len(clips))
            result = _agnostic_explanation(model, clips, sign, targets, settings, advance)
        else:
            result = _explanation(model, tokens, sign, targets, settings, keep_maps)
    diverged = "the logit of clip {} is not finite; expected a model whose weights are"
    _check_finite(result.logits.unsqueeze(1), diverged)
    return result


def attribution(
    model: Detector,
    clips: Tensor | tuple[Tensor],
    target: Target | Sequence[Target] = "fake",
    method: Method = "lrp",
    heat: Literal["temporal", "spatial", "class_row"] = "temporal",
    **options: Any,
) -> Tensor | tuple[Tensor]:
    """Explain clips in their own shape, as metrics of other libraries take it (`captum.metrics`, Quantus).

    Args:
        model, target, method: as of `explain`.
        clips: as of `explain`; or a tuple of them alone, which Captum hands over, and then gets one back.
        heat: which map is brought to the pixels, by methods that explain feature cells; each color gets a third of its
            pixel, as of the values of `shap`. `attnlrp` explains every color itself, and `counterfactual` changes it.
        options: further ones of `explain`.

    Returns:
        [B, T, 3, H_i, W_i].
    """
    if isinstance(clips, tuple):
        return tuple(attribution(model, x, target, method, heat, **options) for x in clips)
    result = explain(model, clips, target=target, method=method, **options)
    if result.colors is not None:
        return result.colors
    if result.pixels is not None:
        return (result.pixels / 3).unsqueeze(2).expand(clips.shape).contiguous()
    cells = getattr(result, heat)
    cells = cells.unsqueeze(1) if heat == "class_row" else cells
    pixels = torch.from_numpy(upscale(cells.cpu().numpy(), *clips.shape[-2:])).to(cells)
    return (pixels / 3).unsqueeze(2).expand(clips.shape).contiguous()


@torch.inference_mode()
def logits_of(model: Detector, clips: Tensor) -> np.ndarray:
    """Return the logits of clips, float64 [B], as `explain` computes them: in evaluation mode and the model's dtype."""
    dtype = next(model.parameters()).dtype
    with in_evaluation_mode(model), torch.autocast(clips.device.type, enabled=False):
        return model(clips.to(dtype)).double().cpu().numpy()


def _explanation(
    model: ISTVT,
    tokens: Tensor,
    sign: Tensor,
    targets: tuple[Target, ...],
    settings: HeatmapSettings,
    keep_maps: bool,
) -> Explanation:
    dtype = _arithmetic(model, tokens, settings)
    kind = StoredMaps if keep_maps else ClassRows if settings.method in ("raw", "gradcam") else RolloutRows
    recorder = kind(model.config, len(tokens), settings)
    chunk = CHUNK_TOKENS.get(tokens.device.type, CHUNK_TOKENS["cpu"])
    if tokens.device.type == "cuda":
        chunk = max(chunk, tokens.shape[:3].numel() // GPU_CHUNKS)
    with torch.autocast(tokens.device.type, enabled=False):
        logits, signal = LRPBackward(model, settings, sign, dtype, recorder, chunk).run(tokens.to(dtype))
        return Explanation(
            logits,
            **recorder.heatmaps(),
            token_relevance=signal.relevance,
            token_gradient=signal.gradient,
            blocks=recorder.blocks,
            target=targets,
            settings=settings,
        )


def _pixel_explanation(
    model: ISTVT, clips: Tensor, sign: Tensor, targets: tuple[Target, ...], settings: HeatmapSettings
) -> Explanation:
    """Explain by AttnLRP, and pool the relevance of pixels to maps."""
    with in_evaluation_mode(model), torch.autocast(clips.device.type, enabled=False):
        fits = clips.dim() == 5 and clips.shape[1:3] == (model.config.frames, 3)
        # No clip, only the check of the feature grid; or all of them, which are refused.
        model.tokenize((clips[:0] if fits else clips).to(model.position_embedding.dtype))
        found = attnlrp(model, clips, sign, _arithmetic(model, clips, settings))
    pixels = found.pixels.sum(2)
    explained = (sign * found.logits).double()
    total = pixels.flatten(1).sum(1, dtype=torch.float64)
    cells = pool(pixels, *model.config.feature_grid)
    temporal = cells.clamp(min=0)
    sums = temporal.flatten(2).sum(2)
    scale = torch.where(sums > 0, sums.mean(1, keepdim=True) / sums, 0.0)
    return Explanation(
        found.logits,
        temporal,
        spatial=temporal * scale[..., None, None],
        class_row=cells.sum(1).clamp(min=0),
        joint=None,
        token_relevance=found.tokens,
        token_gradient=None,
        blocks=None,
        target=targets,
        settings=settings,
        pixels=pixels,
        colors=found.pixels,
        conservation=(total + found.kept) / explained,
        arrived=total / explained,
    )


def _agnostic_explanation(
    model: Detector,
    clips: Tensor,
    sign: Tensor,
    targets: tuple[Target, ...],
    settings: HeatmapSettings,
    advance: Callable[[int, int], None] | None,
) -> Explanation:
    """Explain by a method that asks for logits alone."""
    dtype = next(model.parameters()).dtype

    def forward(pictures: Tensor) -> Tensor:
        return model(pictures.to(dtype))

    values = change = colors = None
    clips = clips.to(torch.float64 if dtype == torch.float64 else torch.float32)
    with in_evaluation_mode(model), torch.autocast(clips.device.type, enabled=False), as_input_error():
        if settings.method == "shap":
            logits, pixels, values = explain_by_shap(forward, clips, sign, settings, advance)
        else:
            logits, change = explain_by_counterfactual(forward, clips, sign, settings, advance)
            colors = change.change.abs()
            pixels = colors.sum(2)
    positive = pixels.clamp(min=0)
    return Explanation(
        logits,
        temporal=positive,
        spatial=positive,
        class_row=pixels.sum(1).clamp(min=0),
        joint=None,
        token_relevance=None,
        token_gradient=None,
        blocks=None,
        target=targets,
        settings=settings,
        pixels=pixels,
        colors=colors,
        shapley=values,
        counterfactual=change,
    )


def _tokens(model: ISTVT, clips: Tensor | None, tokens: Tensor | None) -> Tensor:
    """Return the tokens to explain; those of clips are computed in evaluation mode and the model's own dtype."""
    if (clips is None) == (tokens is None):
        raise InputError("explain takes either clips or tokens, and got " + ("neither" if clips is None else "both"))
    if tokens is None:
        clips = _clips(clips)
        with in_evaluation_mode(model), torch.autocast(clips.device.type, enabled=False):
            frames_at_once = max(1, clips.shape[:1].numel())
            return model.tokenize(clips.to(model.position_embedding.dtype), frames_at_once=frames_at_once)
    config = model.config
    expected = (config.frame_rows, config.positions, config.dim)
    layout = f"[clips, {expected[0]} frame rows, {expected[1]} positions, {expected[2]} channels]"
    tokens = _own(tokens, "tokens", layout)
    if tokens.dim() != 4 or tuple(tokens.shape[1:]) != expected:
        raise InputError(f"tokens have shape {tuple(tokens.shape)}; expected {layout}")
    return tokens


def _clips(clips: Tensor | None) -> Tensor:
    """Return the clips of a call, checked as `_own` does."""
    return _own(clips, "clips", "[clips, frames, 3, height, width] in [-1, 1]")


def _own(x: Any, name: str, layout: str) -> Tensor:
    """Return a finite floating-point tensor without history, and no inference tensor, which can have no gradient."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} are of type {type(x).__name__}; expected a floating-point tensor {layout}")
    if not x.is_floating_point():
        raise InputError(f"{name} are {x.dtype}; expected floating point {layout}")
    _check_finite(x, f"{name} hold values that are not finite, first in clip {{}}; expected {layout}")
    return x.clone() if x.is_inference() else x.detach()


def _check_finite(x: Tensor, sentence: str) -> None:
    """Refuse a tensor with a value that is not finite; `sentence` names the first clip that has one."""
    finite = x.flatten(1).isfinite().all(1) if x.dim() > 1 else x.isfinite()
    if not finite.all():
        raise InputError(sentence.format(int((~finite).nonzero()[0])))


def _arithmetic(model: ISTVT, tokens: Tensor, settings: HeatmapSettings) -> torch.dtype:
    double = torch.float64 in (tokens.dtype, model.head.weight.dtype) or settings.stabilizer == "reference"
    return torch.float64 if double else torch.float32
