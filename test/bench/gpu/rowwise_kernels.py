"""Triton for what PyTorch has no single operator for: norms, SwiGLU and RoPE, each with its quantisation to e4m3 fused in."""

import torch
import triton
import triton.language as tl


@triton.jit
def _add_norm_quantise(
    x, stride, residual, weight, out, scales, width, epsilon, ADD: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(residual + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row * width + columns, values.to(tl.bfloat16), mask=inside)
    if NORM:
        mean_square = tl.sum(values * values, 0) / width
        values *= tl.rsqrt(mean_square + epsilon)
        values *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), 0), 1e-12) / 448.0
    tl.store(out + row * width + columns, (values / scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


def add_norm_quantise(x, residual, weight, out, scales, width):
    """residual += x (if given); out, scales = e4m3 rows of RMSNorm(residual or x) * weight (weight None: quantise only)."""
    _add_norm_quantise[(x.shape[0],)](
        x, x.stride(0), residual, weight, out, scales, width, 1e-5,
        ADD=residual is not None, NORM=weight is not None, BLOCK=triton.next_power_of_2(width), num_warps=16 if width > 4096 else 8,
    )  # fmt: skip


@triton.jit
def _swiglu_quantise(gate_up, out, scales, inter, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < inter
    gate = tl.load(gate_up + row * 2 * inter + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inter + inter + columns, mask=inside, other=0.0).to(tl.float32)
    values = gate * tl.sigmoid(gate) * up
    scale = tl.maximum(tl.max(tl.abs(values), 0), 1e-12) / 448.0
    tl.store(out + row * inter + columns, (values / scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


def swiglu_quantise(gate_up, out, scales, inter):
    _swiglu_quantise[(gate_up.shape[0],)](
        gate_up, out, scales, inter, BLOCK=triton.next_power_of_2(inter), num_warps=16 if inter > 4096 else 8
    )


@triton.jit
def _rope_append(
    query, key_value, kv_stride, cos_sin, lengths, rotated, query_scales, keys, values, capacity,
    FP8: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(lengths + token) - 1
    half = tl.arange(0, HALF)
    cos = tl.load(cos_sin + position * 2 * HALF + half)
    sin = tl.load(cos_sin + position * 2 * HALF + HALF + half)
    if head < HEADS:
        source = query + (token * HEADS + head) * 2 * HALF
    else:
        source = key_value + token * kv_stride
    a = tl.load(source + half).to(tl.float32)
    b = tl.load(source + HALF + half).to(tl.float32)
    first, second = a * cos - b * sin, b * cos + a * sin
    if head < HEADS:
        target = rotated + (token * HEADS + head) * 2 * HALF
        if FP8:
            scale = tl.maximum(tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0)), 1e-12) / 448.0
            tl.store(query_scales + token * HEADS + head, scale)
            tl.store(target + half, (first / scale).to(tl.float8e4nv))
            tl.store(target + HALF + half, (second / scale).to(tl.float8e4nv))
        else:
            tl.store(target + half, first.to(tl.bfloat16))
            tl.store(target + HALF + half, second.to(tl.bfloat16))
    else:
        place = (token * capacity + position) * 2 * HALF
        v0 = tl.load(source + 2 * HALF + half)
        v1 = tl.load(source + 3 * HALF + half)
        kind = keys.dtype.element_ty
        tl.store(keys + place + half, first.to(kind))
        tl.store(keys + place + HALF + half, second.to(kind))
        tl.store(values + place + half, v0.to(kind))
        tl.store(values + place + HALF + half, v1.to(kind))


def rope_append(query, key_value, cos_sin, lengths, rotated, query_scales, keys, values):
    """query [T, heads * dim], key_value [T, 2 * dim] (a column range) -> rotated queries; the new key and value appended."""
    tokens, heads, dim = rotated.shape
    _rope_append[(tokens, heads + 1)](
        query, key_value, key_value.stride(0), cos_sin, lengths, rotated, query_scales, keys, values, keys.shape[1],
        FP8=rotated.dtype == torch.float8_e4m3fn, HEADS=heads, HALF=dim // 2, num_warps=1,
    )  # fmt: skip
