"""Triton: what stands between DeepSeek-V3's projections and its attention."""

import torch
import triton
import triton.language as tl


@triton.jit
def _assemble(
    absorbed, query, key_value, kv_stride, norm, cos_sin, lengths, out, out_scales, latents, capacity,
    FP8: tl.constexpr, HEADS: tl.constexpr, TOKENS_STRIDE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(lengths + token) - 1
    ranks, half = tl.arange(0, 512), tl.arange(0, 32)
    cos, sin = tl.load(cos_sin + position * 64 + half), tl.load(cos_sin + position * 64 + 32 + half)
    if head < HEADS:
        wide = tl.load(absorbed + (head * TOKENS_STRIDE + token) * 512 + ranks).to(tl.float32)
        rope = query + (token * HEADS + head) * 192 + 128
    else:
        wide = tl.load(key_value + token * kv_stride + ranks).to(tl.float32)
        wide *= tl.rsqrt(tl.sum(wide * wide, 0) / 512 + 1e-6) * tl.load(norm + ranks).to(tl.float32)
        rope = key_value + token * kv_stride + 512
    a, b = tl.load(rope + half).to(tl.float32), tl.load(rope + 32 + half).to(tl.float32)
    first, second = a * cos - b * sin, b * cos + a * sin
    kind = latents.dtype.element_ty
    if head < HEADS:
        target = out + (token * HEADS + head) * 576
        if FP8:
            most = tl.maximum(tl.max(tl.abs(wide), 0), tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0)))
            scale = tl.maximum(most, 1e-12) / 448.0
            tl.store(out_scales + token * HEADS + head, scale)
            wide, first, second = wide / scale, first / scale, second / scale
    else:
        target = latents + (token * capacity + position) * 576
    tl.store(target + ranks, wide.to(kind))
    tl.store(target + 512 + half, first.to(kind))
    tl.store(target + 544 + half, second.to(kind))


def assemble(absorbed, query, key_value, norm, cos_sin, lengths, out, out_scales, latents):
    """out [T, heads, 576] = absorbed [heads, T, 512] beside the rotated part of query [T, heads, 192]; the new latent appended."""
    tokens, heads, _ = out.shape
    _assemble[(tokens, heads + 1)](
        absorbed, query, key_value, key_value.stride(0), norm, cos_sin, lengths, out, out_scales, latents, latents.shape[1],
        FP8=out.dtype == torch.float8_e4m3fn, HEADS=heads, TOKENS_STRIDE=tokens, num_warps=2,
    )  # fmt: skip
