"""DeepSeek-V3's stages at the same batches and contexts: MLA decode in absorbed form, its projections, its experts.

Row scales for the linears, bf16 for the absorbed per-head products (their weights are 17 MB in all). The router is sigmoid and a
plain top 8 of 256, without the limit to four groups: that favours DeepSeek-V3 a little.
"""

import torch
import torch.nn.functional as F

import decode_kernels
from experts import Experts
from fp8_linear import Linear, random_e4m3, random_scales, rows_mm
from mla_rowwise_kernels import assemble
from rowwise_kernels import add_norm_quantise
from timing import copies_beyond_l2

HIDDEN, HEADS, Q_RANK, RANK, ROPE, NOPE, V_DIM = 7168, 128, 1536, 512, 64, 128, 128
EXPERTS, TOP_K, INTER = 256, 8, 2048
LATENT = RANK + ROPE
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16

SHAPES = {
    "qDownKv": (Q_RANK + LATENT, HIDDEN),
    "qUp": (HEADS * (NOPE + ROPE), Q_RANK),
    "oProj": (HIDDEN, HEADS * V_DIM),
}


def normal(*shape):
    return torch.randn(shape, device="cuda", dtype=BF16)


def linears(results, batches):
    for part, (n, k) in SHAPES.items():
        linear = Linear(n, k)
        for batch in batches:
            key = dict(model="dsv3", stage="attention", part=part, batch=batch)
            results.attempt(lambda: linear.tensor_scaled(batch), **key, method="_scaled_mm, tensor scale")
            results.attempt(lambda: linear.row_scaled(batch), **key, method="_scaled_mm, row scales")
        del linear
    for part, (n, k) in {"absorbKey": (RANK, NOPE), "valueUp": (V_DIM, RANK)}.items():
        weights = [normal(HEADS, k, n) for _ in range(copies_beyond_l2(HEADS * k * n * 2))]
        for batch in batches:
            # As they come: heads side by side within a token.
            x = normal(batch, HEADS, k).transpose(0, 1)
            results.attempt(
                lambda: [lambda w=w: torch.bmm(x, w) for w in weights],
                model="dsv3", stage="attention", part=part, batch=batch, method="bmm, bf16",
            )  # fmt: skip


def small_parts(results, batches):
    for batch in batches:
        key = dict(model="dsv3", stage="attention", batch=batch)
        count = copies_beyond_l2(batch * HIDDEN * 2)
        xs, residuals = [normal(batch, HIDDEN) for _ in range(count)], [normal(batch, HIDDEN) for _ in range(count)]
        weight, low_weight, kv_weight = normal(HIDDEN), normal(Q_RANK), normal(RANK)
        out, scales = random_e4m3(batch, HIDDEN), random_scales(batch, 1)
        for part in ("inputNorm", "postNorm"):
            results.attempt(
                lambda: [
                    lambda x=x, r=r: add_norm_quantise(x, r, weight, out, scales, HIDDEN) for x, r in zip(xs, residuals)
                ],
                **key, part=part, method="Triton",
            )  # fmt: skip
        fused = [normal(batch, Q_RANK + LATENT) for _ in range(copies_beyond_l2(batch * (Q_RANK + LATENT) * 2))]
        low = random_e4m3(batch, Q_RANK)
        results.attempt(
            lambda: [lambda x=x: add_norm_quantise(x, None, low_weight, low, scales, Q_RANK) for x in fused],
            **key, part="interNorm", method="Triton",
        )  # fmt: skip
        width = HEADS * V_DIM
        outs, wide = [normal(batch, width) for _ in range(copies_beyond_l2(batch * width * 2))], random_e4m3(batch, width)
        results.attempt(
            lambda: [lambda x=x: add_norm_quantise(x, None, None, wide, scales, width) for x in outs],
            **key, part="quantiseOut", method="Triton",
        )  # fmt: skip
        router = normal(EXPERTS, HIDDEN)
        results.attempt(
            lambda: [lambda x=x: torch.topk(torch.sigmoid(F.linear(x, router).float()), TOP_K) for x in xs],
            **key, part="router", method="PyTorch",
        )  # fmt: skip
        absorbed = [normal(HEADS, batch, RANK) for _ in range(copies_beyond_l2(batch * HEADS * RANK * 2))]
        query = normal(batch, HEADS, NOPE + ROPE)
        cos_sin, lengths = torch.randn(256, 2, ROPE // 2, device="cuda"), torch.randint(1, 256, (batch,), device="cuda")
        for kv in ("fp8", "bf16"):
            kind = E4M3 if kv == "fp8" else BF16
            target, q_scales = torch.empty(batch, HEADS, LATENT, dtype=kind, device="cuda"), random_scales(batch, HEADS)
            latents = torch.empty(batch, 256, LATENT, dtype=kind, device="cuda")
            results.attempt(
                lambda: [
                    lambda a=a: assemble(
                        a, query, fused[0][:, Q_RANK:], kv_weight, cos_sin, lengths, target, q_scales, latents
                    )
                    for a in absorbed
                ],
                **key, part="ropeAppend", kv=kv, method="Triton",
            )  # fmt: skip


# kind, tokens of a tile, warps, stages
TILES = {
    "bf16": [("bf16", 64, 8, 2)],
    "fp8": [("fp8", 64, 8, 3)],
}


def attention(results, batches, contexts):
    for kv in ("bf16", "fp8"):
        pool = max(batches) * max(contexts)
        if kv == "fp8":
            cache = random_e4m3(pool, LATENT)
        else:
            cache = torch.empty(pool, LATENT, device="cuda", dtype=BF16).normal_()
        for context in contexts:
            for batch in batches:
                key = dict(model="dsv3", stage="attention", part="attention", batch=batch, context=context, kv=kv)
                tokens = batch * context
                count = min(pool // tokens, copies_beyond_l2(tokens * LATENT * cache.element_size()), 16)
                views = [cache[i * tokens : (i + 1) * tokens].view(batch, context, LATENT) for i in range(count)]
                lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
                query = normal(batch, HEADS, LATENT)
                if kv == "bf16" and context == min(contexts):
                    results.attempt(lambda: [lambda c=c: _by_bmm(query, c) for c in views], **key, method="two bmm")
                q = query if kv == "bf16" else random_e4m3(batch, HEADS, LATENT)
                q_scales = random_scales(batch, HEADS)
                for kind, block, warps, stages in TILES[kv]:
                    for splits in (1, 2, 4, 8) if batch < 64 else (1, 2, 4):
                        space = decode_kernels.Workspace(batch, splits, HEADS, RANK)
                        results.attempt(
                            lambda: [
                                lambda c=c: decode_kernels.mla_decode(
                                    q, q_scales, c, lengths, space, kind, block, warps, stages
                                )
                                for c in views
                            ],
                            **key, method=f"Triton {kind}, {splits} splits, tile {block}, {warps} warps, {stages} stages",
                        )  # fmt: skip
        del cache, views
        torch.cuda.empty_cache()


class Layer:
    """Weights of one attention block: linears in row scales, the absorbed halves in bf16."""

    def __init__(self):
        make = lambda part: (random_e4m3(*SHAPES[part]), random_scales(SHAPES[part][0]))  # noqa: E731
        self.q_down_kv, self.q_up, self.o_proj = make("qDownKv"), make("qUp"), make("oProj")
        self.absorb_key, self.value_up = normal(HEADS, NOPE, RANK), normal(HEADS, RANK, V_DIM)
        self.input_norm, self.inter_norm, self.kv_norm = normal(HIDDEN), normal(Q_RANK), normal(RANK)
        self.post_norm, self.router = normal(HIDDEN), normal(EXPERTS, HIDDEN)


def attention_chain(results, batches, contexts, kv):
    """The whole stage in one graph over three layers, by the fastest attention found before."""
    layers = [Layer() for _ in range(3)]
    pool, kind = max(batches) * max(contexts), E4M3 if kv == "fp8" else BF16
    cache = random_e4m3(pool, LATENT) if kv == "fp8" else torch.empty(pool, LATENT, device="cuda", dtype=BF16).normal_()
    cos_sin = torch.randn(max(contexts), 2, ROPE // 2, device="cuda")
    for context in contexts:
        for batch in batches:
            key = dict(model="dsv3", stage="attention", batch=batch, context=context, kv=kv)
            best = results.best(**key, part="attention")
            if best is None or not best["method"].startswith("Triton"):
                continue
            splits, block, warps, stages = (int(w) for w in best["method"].replace(",", "").split() if w.isdigit())
            tokens = batch * context
            count = min(pool // tokens, copies_beyond_l2(tokens * LATENT * cache.element_size()), 16)
            views = [cache[i * tokens : (i + 1) * tokens].view(batch, context, LATENT) for i in range(count)]
            lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
            ffn_out, residual = normal(batch, HIDDEN), normal(batch, HIDDEN)
            x8, low8, wide8 = random_e4m3(batch, HIDDEN), random_e4m3(batch, Q_RANK), random_e4m3(batch, HEADS * V_DIM)
            scales = [random_scales(batch, 1) for _ in range(4)]
            query, q_scales = torch.empty(batch, HEADS, LATENT, dtype=kind, device="cuda"), random_scales(batch, HEADS)
            space = decode_kernels.Workspace(batch, splits, HEADS, RANK)

            def stage(layer, latents):
                add_norm_quantise(ffn_out, residual, layer.input_norm, x8, scales[0], HIDDEN)
                fused = rows_mm(x8, layer.q_down_kv[0], scales[0], layer.q_down_kv[1])
                add_norm_quantise(fused, None, layer.inter_norm, low8, scales[1], Q_RANK)
                heads = rows_mm(low8, layer.q_up[0], scales[1], layer.q_up[1]).view(batch, HEADS, NOPE + ROPE)
                absorbed = torch.bmm(heads[..., :NOPE].transpose(0, 1), layer.absorb_key)
                assemble(absorbed, heads, fused[:, Q_RANK:], layer.kv_norm, cos_sin, lengths, query, q_scales, latents)
                out = decode_kernels.mla_decode(query, q_scales, latents, lengths, space, kv, block, warps, stages)
                values = torch.bmm(out.transpose(0, 1), layer.value_up).transpose(0, 1).reshape(batch, -1)
                add_norm_quantise(values, None, None, wide8, scales[2], HEADS * V_DIM)
                projected = rows_mm(wide8, layer.o_proj[0], scales[2], layer.o_proj[1])
                add_norm_quantise(projected, residual, layer.post_norm, x8, scales[3], HIDDEN)
                return torch.topk(torch.sigmoid(F.linear(residual, layer.router).float()), TOP_K)

            results.attempt(
                lambda: [lambda layer=layer, c=views[i % len(views)]: stage(layer, c) for i, layer in enumerate(layers)],
                **key, part="stage", method=f"chain with {best['method']}",
            )  # fmt: skip
    del cache, layers
    torch.cuda.empty_cache()


def _by_bmm(query, latents):
    """Scores and values by two batched matrix products of cuBLAS."""
    weights = torch.softmax(torch.bmm(query, latents.transpose(1, 2)) * decode_kernels.MLA_SCALE, -1)
    return torch.bmm(weights, latents[..., :RANK])


def ffn(results, batches):
    """Two shares of the 256 experts.

    ep128: as DeepSeek's own profile, 128 GPUs that do attention and experts: 2 routed experts with 4 tokens of each GPU's batch
    (128 GPUs x batch x 8 / 256 = 4 batch), and the shared expert for the GPU's own tokens.
    2a2f: 16 FFN GPUs behind 16 attention GPUs, as Step-3's: 16 routed experts with 16 batch x 8 / 256 = batch / 2 tokens each,
    and the shared expert for a sixteenth of the tokens.
    """
    for share, routed, tokens in (("ep128", 2, lambda b: 4 * b), ("2a2f", 16, lambda b: b // 2)):
        experts = Experts(routed + 1, HIDDEN, INTER)
        for batch in batches:
            counts = [tokens(batch)] * routed + [batch]
            key = dict(model="dsv3", stage="ffn", part="experts", batch=batch, share=share, routing="balanced")
            experts.measure(results, counts, key)
        del experts
        torch.cuda.empty_cache()
