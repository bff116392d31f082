"""Invalid arguments of the kernels: one sentence with the argument, its value and what it takes."""

import pytest
import torch

from kernels import (
    layer_norm_difference,
    self_subtract,
    spatial_attention,
    spatial_attention_packed,
    temporal_attention,
    temporal_attention_packed,
)

GOOD = torch.zeros(2, 3, 4, 2, 8)  # [B, F, S, N, D]
META = torch.zeros(2, 3, 4, 2, 8, device="meta")


@pytest.mark.parametrize("operation", [temporal_attention, spatial_attention])
@pytest.mark.parametrize(
    ("q", "k", "v", "error", "sentence"),
    [
        (GOOD[0], GOOD, GOOD, ValueError, r"q has shape \[3, 4, 2, 8\]; it takes \[B, F, S, N, D\]\."),
        (GOOD, GOOD, GOOD[..., :4], ValueError, r"v has shape \[2, 3, 4, 2, 4\] and k \[2, 3, 4, 2, 8\]; they take"),
        (GOOD[:1], GOOD, GOOD, ValueError, r"q has shape \[1, 3, 4, 2, 8\] and k .*; it takes k's shape, or fewer"),
        (torch.zeros(2, 9, 9, 2, 8), GOOD, GOOD, ValueError, r"q has shape \[2, 9, 9, 2, 8\] and k"),
        (GOOD.half(), GOOD, GOOD, TypeError, r"k is torch\.float32 and q is torch\.float16; they take one dtype\."),
        (GOOD.int(), GOOD, GOOD, TypeError, r"q is torch\.int32; it takes float32, float16 or bfloat16"),
        (GOOD, GOOD, META, ValueError, r"v is on meta and q on cpu; they take one device\."),
        ([1.0], GOOD, GOOD, TypeError, r"q is a list; it takes a tensor \[B, F, S, N, D\]\."),
        (GOOD[..., :0], GOOD[..., :0], GOOD[..., :0], ValueError, "head_dim D takes 1 or more"),
    ],
)
def test_attention_names_the_argument_that_does_not_fit(operation, q, k, v, error, sentence):
    with pytest.raises(error, match=sentence):
        operation(q, k, v)


@pytest.mark.parametrize("operation", [temporal_attention, spatial_attention])
@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused_and_does_not_become_nan(operation, scale):
    with pytest.raises(ValueError, match=f"scale is {scale}; it takes a finite number"):
        operation(GOOD, GOOD, GOOD, scale=scale)


def test_temporal_attention_names_an_unknown_mode_and_too_few_frames():
    with pytest.raises(ValueError, match="self_subtract is 'on'; it takes 'off', 'fused' or 'telescoped'"):
        temporal_attention(GOOD, GOOD, GOOD, self_subtract="on")
    one = GOOD[:, :1]
    assert temporal_attention(one, one, one).shape == one.shape
    with pytest.raises(ValueError, match="k has 1 frame rows; self_subtract='fused' takes 2 or more"):
        temporal_attention(one, one, one, self_subtract="fused")


@pytest.mark.parametrize("operation", [temporal_attention_packed, spatial_attention_packed])
def test_a_packed_product_that_is_not_three_is_refused(operation):
    with pytest.raises(ValueError, match=r"qkv has shape \[2, 3, 4, 2, 2, 8\]; it takes \[B, F, S, 3, N, D\]"):
        operation(torch.zeros(2, 3, 4, 2, 2, 8))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "sentence"),
    [
        (torch.zeros(3, 4, 8), 8, 8, ValueError, r"x has shape \[3, 4, 8\]; it takes \[B, F, S, C\]\."),
        (torch.zeros(2, 1, 4, 8), 8, 8, ValueError, "x has 1 frame rows; self-subtract takes 2 or more"),
        (torch.zeros(2, 3, 4, 8), 7, 8, ValueError, r"weight has shape \[7\] and x \[2, 3, 4, 8\]; it takes \[8\]"),
        (torch.zeros(2, 3, 4, 8), 8, 9, ValueError, r"bias has shape \[9\]"),
        (torch.zeros(2, 3, 4, 8).long(), 8, 8, TypeError, r"x is torch\.int64"),
    ],
)
def test_layer_norm_difference_names_the_argument_that_does_not_fit(x, weight, bias, error, sentence):
    with pytest.raises(error, match=sentence):
        layer_norm_difference(x, torch.ones(weight), torch.ones(bias))


def test_layer_norm_difference_refuses_an_integer_output_and_parameters_of_two_dtypes():
    x, ones = torch.zeros(1, 2, 1, 4), torch.ones(4)
    with pytest.raises(TypeError, match=r"out_dtype is torch\.int32; it takes a floating-point type"):
        layer_norm_difference(x, ones, ones, out_dtype=torch.int32)
    with pytest.raises(TypeError, match=r"bias is torch\.float16 and weight is torch\.float32; they take one dtype"):
        layer_norm_difference(x, ones, ones.half())


@pytest.mark.parametrize(
    ("x", "found"), [(torch.zeros(2, 3, 4).long(), r"torch\.int64"), ([[1.0], [2.0]], "a list"), (None, "a NoneType")]
)
def test_self_subtract_refuses_what_is_no_floating_point_tensor(x, found):
    with pytest.raises(TypeError, match=rf"self_subtract: x is {found}; it takes a floating-point tensor\."):
        self_subtract(x)
