"""Decode attention in Triton, split over the sequence: MQA (keys and values apart) and absorbed MLA (one latent is both).

All heads of a group stand in one tile, so that a program reads its part of the cache once for all of them.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _softmax_step(scores, best, total):
    """Online softmax in base 2: the new maximum, what older sums shrink by, the weights, the new total."""
    new_best = tl.maximum(best, tl.max(scores, 1))
    shrink = tl.exp2(best - new_best)
    weights = tl.exp2(scores - new_best[:, None])
    return new_best, shrink, weights, total * shrink + tl.sum(weights, 1)


@triton.jit
def _part_of(lengths, sequence, split, splits, BLOCK: tl.constexpr):
    length = tl.load(lengths + sequence)
    each = tl.cdiv(tl.cdiv(length, splits), BLOCK) * BLOCK
    start = split * each
    return start, tl.minimum(start + each, length)


@triton.jit
def _mqa_decode(
    query, query_scales, keys, values, lengths, out, lse, capacity, scale_log2, splits,
    FP8: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    sequence, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, end = _part_of(lengths, sequence, split, splits, BLOCK)
    heads, dims, tokens = tl.arange(0, HEADS), tl.arange(0, DIM), tl.arange(0, BLOCK)
    q = tl.load(query + (sequence * HEADS + heads[:, None]) * DIM + dims[None, :])
    scale = tl.full((HEADS,), 0.0, tl.float32) + scale_log2
    if FP8:
        scale *= tl.load(query_scales + sequence * HEADS + heads)
    best = tl.full((HEADS,), -1e30, tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    acc = tl.zeros((HEADS, DIM), tl.float32)
    base = sequence * capacity * DIM
    for at in tl.range(start, end, BLOCK, num_stages=STAGES):
        # Rows past the end are read (they exist, up to the capacity) and weighed with zero.
        rows = tl.minimum(at + tokens, capacity - 1)
        offsets = base + rows[:, None] * DIM + dims[None, :]
        k = tl.load(keys + offsets)
        v = tl.load(values + offsets)
        scores = tl.dot(q, tl.trans(k)) * scale[:, None]
        scores = tl.where((at + tokens < end)[None, :], scores, -1e30)
        best, shrink, weights, total = _softmax_step(scores, best, total)
        acc = tl.dot(weights.to(tl.bfloat16), v.to(tl.bfloat16), acc * shrink[:, None])
    result = acc / tl.maximum(total, 1e-30)[:, None]
    place = (sequence * splits + split) * HEADS + heads
    tl.store(out + place[:, None] * DIM + dims[None, :], result.to(out.dtype.element_ty))
    tl.store(lse + place, tl.where(total > 0, best + tl.log2(tl.maximum(total, 1e-30)), -1e30))


@triton.jit
def _mla_decode(
    query, query_scales, latents, lengths, out, lse, capacity, scale_log2, splits,
    KIND: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, RANK: tl.constexpr, ROPE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Neighbours in the grid share a part of the cache: the second finds it in the L2 cache.
    group, split, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    start, end = _part_of(lengths, sequence, split, splits, BLOCK)
    heads = group * GROUP + tl.arange(0, GROUP)
    ranks, ropes, tokens = tl.arange(0, RANK), tl.arange(0, ROPE), tl.arange(0, BLOCK)
    width: tl.constexpr = RANK + ROPE
    row = query + (sequence * HEADS + heads[:, None]) * width
    q, q_rope = tl.load(row + ranks[None, :]), tl.load(row + RANK + ropes[None, :])
    scale = tl.full((GROUP,), 0.0, tl.float32) + scale_log2
    if KIND != "bf16":
        scale *= tl.load(query_scales + sequence * HEADS + heads)
    if KIND == "fp8 widened":
        q, q_rope = q.to(tl.bfloat16), q_rope.to(tl.bfloat16)
    best = tl.full((GROUP,), -1e30, tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    acc = tl.zeros((GROUP, RANK), tl.float32)
    base = sequence * capacity * width
    for at in tl.range(start, end, BLOCK, num_stages=STAGES):
        rows = tl.minimum(at + tokens, capacity - 1)
        place = latents + base + rows[:, None] * width
        c, r = tl.load(place + ranks[None, :]), tl.load(place + RANK + ropes[None, :])
        if KIND == "fp8 widened":
            c, r = c.to(tl.bfloat16), r.to(tl.bfloat16)
        scores = tl.dot(q_rope, tl.trans(r), tl.dot(q, tl.trans(c))) * scale[:, None]
        scores = tl.where((at + tokens < end)[None, :], scores, -1e30)
        best, shrink, weights, total = _softmax_step(scores, best, total)
        acc = tl.dot(weights.to(tl.bfloat16), c.to(tl.bfloat16), acc * shrink[:, None])
    result = acc / tl.maximum(total, 1e-30)[:, None]
    line = (sequence * splits + split) * HEADS + heads
    tl.store(out + line[:, None] * RANK + ranks[None, :], result.to(out.dtype.element_ty))
    tl.store(lse + line, tl.where(total > 0, best + tl.log2(tl.maximum(total, 1e-30)), -1e30))


@triton.jit
def _merge(parts, lse, out, splits, HEADS: tl.constexpr, DIM: tl.constexpr):
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, DIM)
    best = -1e30
    for split in range(splits):
        best = tl.maximum(best, tl.load(lse + (sequence * splits + split) * HEADS + head))
    total = 0.0
    acc = tl.zeros((DIM,), tl.float32)
    for split in range(splits):
        line = (sequence * splits + split) * HEADS + head
        weight = tl.exp2(tl.load(lse + line) - best)
        total += weight
        acc += weight * tl.load(parts + line * DIM + dims).to(tl.float32)
    tl.store(out + (sequence * HEADS + head) * DIM + dims, (acc / total).to(tl.bfloat16))


class Workspace:
    """Parts of a split decode; with one split the kernel writes the result itself."""

    def __init__(self, sequences, splits, heads, dim, device="cuda"):
        self.splits = splits
        self.out = torch.empty(sequences, heads, dim, dtype=torch.bfloat16, device=device)
        self.lse = torch.empty(sequences, splits, heads, dtype=torch.float32, device=device)
        self.parts = self.out if splits == 1 else torch.empty(sequences, splits, heads, dim, device=device)

    def merge(self):
        if self.splits == 1:
            return self.out
        sequences, heads, dim = self.out.shape
        _merge[(sequences, heads)](self.parts, self.lse, self.out, self.splits, HEADS=heads, DIM=dim, num_warps=2)
        return self.out


LOG2_E = 1.4426950408889634


def mqa_decode(query, query_scales, keys, values, lengths, workspace, block=64, warps=4, stages=2):
    """query [B, heads, dim] (bf16, or e4m3 with query_scales [B, heads]); keys, values [B, capacity, dim] of the same type."""
    sequences, heads, dim = query.shape
    _mqa_decode[(sequences, workspace.splits)](
        query, query_scales, keys, values, lengths, workspace.parts, workspace.lse, keys.shape[1],
        LOG2_E / dim**0.5, workspace.splits,
        FP8=query.dtype == torch.float8_e4m3fn, HEADS=heads, DIM=dim, BLOCK=block, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return workspace.merge()


MLA_SCALE = 192**-0.5  # of the 128 + 64 dimensions before absorption


def mla_decode(query, query_scales, latents, lengths, workspace, kind, block=64, warps=8, stages=2, group=64):
    """query [B, heads, 576], latents [B, capacity, 576] -> [B, heads, 512]. kind: bf16, fp8, or fp8 widened (bf16 products)."""
    sequences, heads, _ = query.shape
    _mla_decode[(heads // group, workspace.splits, sequences)](
        query, query_scales, latents, lengths, workspace.parts, workspace.lse, latents.shape[1],
        LOG2_E * MLA_SCALE, workspace.splits,
        KIND=kind, HEADS=heads, GROUP=group, RANK=512, ROPE=64, BLOCK=block, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return workspace.merge()
