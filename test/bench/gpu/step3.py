"""Step-3's attention stage and FFN stage, part by part and chained, by the best that PyTorch and Triton do."""

import torch
import torch.nn.functional as F

import decode_kernels
from experts import Experts
from fp8_linear import Linear, random_e4m3, random_scales, rows_mm
from rowwise_kernels import add_norm_quantise, rope_append, swiglu_quantise
from timing import L2_BYTES, copies_beyond_l2

HIDDEN, LOW_RANK, HEADS, DIM = 7168, 2048, 64, 256
EXPERTS, TOP_K, INTER, DENSE_INTER, VOCAB = 48, 3, 5120, 18432, 128815
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16


def normal(*shape):
    return torch.randn(shape, device="cuda", dtype=BF16)


def linears(results, stage, shapes, batches):
    for part, (n, k) in shapes.items():
        linear = Linear(n, k)
        for batch in batches:
            key = dict(model="step3", stage=stage, part=part, batch=batch)
            results.attempt(lambda: linear.tensor_scaled(batch), **key, method="_scaled_mm, tensor scale")
            results.attempt(lambda: linear.row_scaled(batch), **key, method="_scaled_mm, row scales")
            results.attempt(lambda: linear.block_scaled(batch), **key, method="scaled_mm, block scales")
        del linear
        torch.cuda.empty_cache()


ATTENTION_SHAPES = {
    "qDownKv": (LOW_RANK + 2 * DIM, HIDDEN),
    "qUp": (HEADS * DIM, LOW_RANK),
    "oProj": (HIDDEN, HEADS * DIM),
}


def small_parts(results, batches):
    """Norms with quantisation, RoPE with append, the router: buffers of a few MB, in turns beyond the L2 cache."""
    for batch in batches:
        key = dict(model="step3", stage="attention", batch=batch)
        count = copies_beyond_l2(batch * HIDDEN * 2)
        xs, residuals = [normal(batch, HIDDEN) for _ in range(count)], [normal(batch, HIDDEN) for _ in range(count)]
        weight, low_weight = normal(HIDDEN), normal(LOW_RANK)
        out, scales = random_e4m3(batch, HIDDEN), random_scales(batch, 1)
        for part in ("inputNorm", "postNorm"):
            results.attempt(
                lambda: [
                    lambda x=x, r=r: add_norm_quantise(x, r, weight, out, scales, HIDDEN) for x, r in zip(xs, residuals)
                ],
                **key, part=part, method="Triton",
            )  # fmt: skip
        fused = [normal(batch, LOW_RANK + 2 * DIM) for _ in range(copies_beyond_l2(batch * 2560 * 2))]
        low = random_e4m3(batch, LOW_RANK)
        results.attempt(
            lambda: [lambda x=x: add_norm_quantise(x, None, low_weight, low, scales, LOW_RANK) for x in fused],
            **key, part="interNorm", method="Triton",
        )  # fmt: skip
        outs = [normal(batch, HEADS * DIM) for _ in range(copies_beyond_l2(batch * HEADS * DIM * 2))]
        wide = random_e4m3(batch, HEADS * DIM)
        results.attempt(
            lambda: [lambda x=x: add_norm_quantise(x, None, None, wide, scales, HEADS * DIM) for x in outs],
            **key, part="quantiseOut", method="Triton",
        )  # fmt: skip
        router = normal(EXPERTS, HIDDEN)
        results.attempt(lambda: [lambda x=x: route(x, router) for x in xs], **key, part="router", method="PyTorch")
        cos_sin, lengths = torch.randn(256, 2, DIM // 2, device="cuda"), torch.randint(1, 256, (batch,), device="cuda")
        for kv in ("fp8", "bf16"):
            kind = E4M3 if kv == "fp8" else BF16
            rotated = torch.empty(batch, HEADS, DIM, dtype=kind, device="cuda")
            keys, values = (torch.empty(batch, 256, DIM, dtype=kind, device="cuda") for _ in range(2))
            q_scales = torch.empty(batch, HEADS, device="cuda")
            results.attempt(
                lambda: [
                    lambda q=q, x=x: rope_append(q, x[:, LOW_RANK:], cos_sin, lengths, rotated, q_scales, keys, values)
                    for q, x in zip(outs, fused)
                ],
                **key, part="ropeAppend", kv=kv, method="Triton",
            )  # fmt: skip


def route(x, router):
    return torch.topk(torch.softmax(F.linear(x, router).float(), -1), TOP_K)


def head(results, batches):
    columns = VOCAB + 1  # a multiple of 16
    weight = normal(columns, HIDDEN)
    weight8, scales = random_e4m3(columns, HIDDEN), random_scales(columns)
    for batch in batches:
        key = dict(model="step3", stage="attention", batch=batch, part="head")
        x, x8, x_scales = normal(batch, HIDDEN), random_e4m3(batch, HIDDEN), random_scales(batch, 1)
        results.attempt(lambda: [lambda: torch.topk(F.linear(x, weight), 64)], **key, method="bf16 and topk 64")
        results.attempt(
            lambda: [
                lambda: torch.topk(rows_mm(x8, weight8, x_scales, scales), 64)
            ],
            **key, method="_scaled_mm, row scales and topk 64",
        )  # fmt: skip


class KvCache:
    """Keys and values of one layer, as large as the largest case; smaller cases go round in it."""

    def __init__(self, tokens, kv):
        self.kv = kv
        fill = random_e4m3 if kv == "fp8" else _normal_in_place
        self.keys, self.values = fill(tokens, DIM), fill(tokens, DIM)

    def views(self, batch, context):
        """(keys, values), each [batch, context, DIM]; the same view twice never stands side by side if there is room."""
        tokens = batch * context
        bytes_per_view = tokens * DIM * 2 * self.keys.element_size()
        room = self.keys.shape[0] // tokens
        count = min(room, copies_beyond_l2(bytes_per_view), 16)
        cut = lambda cache, i: cache[i * tokens : (i + 1) * tokens].view(batch, context, DIM)  # noqa: E731
        assert bytes_per_view * count > 4 * L2_BYTES
        return [(cut(self.keys, i), cut(self.values, i)) for i in range(count)]


def _normal_in_place(*shape):
    return torch.empty(shape, device="cuda", dtype=BF16).normal_()


def attention(results, batches, contexts):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for kv in ("bf16", "fp8"):
        cache = KvCache(max(batches) * max(contexts), kv)
        for context in contexts:
            for batch in batches:
                key = dict(model="step3", stage="attention", part="attention", batch=batch, context=context, kv=kv)
                views = cache.views(batch, context)
                query = normal(batch, HEADS, DIM)

                def sdpa(backend, folded):
                    # The heads share keys and values: without a mask, 64 heads of 1 row are 1 head of 64 rows.
                    q = query[:, None] if folded else query[:, :, None]

                    def call(k, v):
                        with sdpa_kernel(backend):
                            return F.scaled_dot_product_attention(q, k[:, None], v[:, None], enable_gqa=not folded)

                    return lambda: [lambda k=k, v=v: call(k, v) for k, v in views]

                if kv == "bf16":
                    flash, cudnn = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
                    results.attempt(sdpa(flash, True), **key, method="FlashAttention, heads folded into rows")
                    results.attempt(sdpa(cudnn, True), **key, method="cuDNN, heads folded into rows")
                    if context == min(contexts):
                        results.attempt(sdpa(flash, False), **key, method="FlashAttention, enable_gqa")
                        results.attempt(sdpa(cudnn, False), **key, method="cuDNN, enable_gqa")
                lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
                q = query if kv == "bf16" else random_e4m3(batch, HEADS, DIM)
                q_scales = random_scales(batch, HEADS)
                for block, warps, stages in MQA_TILES[kv]:
                    for splits in (1, 2, 4, 8) if batch < 64 else (1, 2, 4):
                        space = decode_kernels.Workspace(batch, splits, HEADS, DIM)
                        results.attempt(
                            lambda: [
                                lambda k=k, v=v: decode_kernels.mqa_decode(
                                    q, q_scales, k, v, lengths, space, block, warps, stages
                                )
                                for k, v in views
                            ],
                            **key, method=f"Triton, {splits} splits, tile {block}, {warps} warps, {stages} stages",
                        )  # fmt: skip
        del cache
        torch.cuda.empty_cache()


# Tokens of a tile, warps, stages.
MQA_TILES = {"bf16": [(64, 4, 2), (64, 4, 3)], "fp8": [(64, 4, 3), (64, 4, 4)]}


def expert_counts(batch, routing):
    """Tokens of the three routed experts of one of 16 GPUs, 2A2F with `batch` tokens per attention GPU; then the shared one."""
    routed = [batch] * 3 if routing == "balanced" else [2 * batch, 3 * batch // 4, batch // 4]
    return [*routed, batch]


def ffn(results, batches):
    experts = Experts(4, HIDDEN, INTER)
    for batch in batches:
        for routing in ("balanced", "skewed"):
            key = dict(model="step3", stage="ffn", part="experts", batch=batch, routing=routing)
            experts.measure(results, expert_counts(batch, routing), key)


def dense(results, batches):
    """A dense layer (0 to 3 and 60) on one GPU of the FFN side: all of its weights, the tokens of one attention GPU."""
    gate_up, gate_up_scales = random_e4m3(2 * DENSE_INTER, HIDDEN), random_scales(2 * DENSE_INTER)
    down, down_scales = random_e4m3(HIDDEN, DENSE_INTER), random_scales(HIDDEN)
    for batch in batches:
        x, x_scales = random_e4m3(batch, HIDDEN), random_scales(batch, 1)
        hidden8, hidden_scales = random_e4m3(batch, DENSE_INTER), random_scales(batch, 1)

        def forward():
            swiglu_quantise(rows_mm(x, gate_up, x_scales, gate_up_scales), hidden8, hidden_scales, DENSE_INTER)
            return rows_mm(hidden8, down, hidden_scales, down_scales)

        results.attempt(
            lambda: [forward], model="step3", stage="ffn", part="dense", batch=batch, method="_scaled_mm, row scales"
        )


class Layer:
    """Weights of one attention block, row scales."""

    def __init__(self):
        make = lambda part: (random_e4m3(*ATTENTION_SHAPES[part]), random_scales(ATTENTION_SHAPES[part][0]))  # noqa: E731
        self.q_down_kv, self.q_up, self.o_proj = make("qDownKv"), make("qUp"), make("oProj")
        self.input_norm, self.inter_norm, self.post_norm = normal(HIDDEN), normal(LOW_RANK), normal(HIDDEN)
        self.router = normal(EXPERTS, HIDDEN)


def attention_chain(results, batches, contexts, kv):
    """The whole stage in one graph over three layers (169 MB of weights each), by the fastest attention found before."""
    layers = [Layer() for _ in range(3)]
    cache = KvCache(max(batches) * max(contexts), kv)
    cos_sin = torch.randn(max(contexts), 2, DIM // 2, device="cuda")
    kind = E4M3 if kv == "fp8" else BF16
    for context in contexts:
        for batch in batches:
            key = dict(model="step3", stage="attention", batch=batch, context=context, kv=kv)
            best = results.best(**key, part="attention")
            if best is None:
                continue
            views = cache.views(batch, context)
            lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
            ffn_out, residual = normal(batch, HIDDEN), normal(batch, HIDDEN)
            x8, low8, wide8 = random_e4m3(batch, HIDDEN), random_e4m3(batch, LOW_RANK), random_e4m3(batch, HEADS * DIM)
            scales = [random_scales(batch, 1) for _ in range(4)]
            rotated, q_scales = torch.empty(batch, HEADS, DIM, dtype=kind, device="cuda"), random_scales(batch, HEADS)
            attend = _attend_as(best["method"], batch)

            def stage(layer, keys, values):
                add_norm_quantise(ffn_out, residual, layer.input_norm, x8, scales[0], HIDDEN)
                fused = rows_mm(x8, layer.q_down_kv[0], scales[0], layer.q_down_kv[1])
                add_norm_quantise(fused, None, layer.inter_norm, low8, scales[1], LOW_RANK)
                query = rows_mm(low8, layer.q_up[0], scales[1], layer.q_up[1])
                rope_append(query, fused[:, LOW_RANK:], cos_sin, lengths, rotated, q_scales, keys, values)
                out = attend(rotated, q_scales, keys, values, lengths)
                add_norm_quantise(out.view(batch, -1), None, None, wide8, scales[2], HEADS * DIM)
                projected = rows_mm(wide8, layer.o_proj[0], scales[2], layer.o_proj[1])
                add_norm_quantise(projected, residual, layer.post_norm, x8, scales[3], HIDDEN)
                return route(residual, layer.router)

            def launches():
                return [
                    lambda layer=layer, kv=views[i % len(views)]: stage(layer, *kv) for i, layer in enumerate(layers)
                ]

            results.attempt(launches, **key, part="stage", method=f"chain with {best['method']}")
    del cache, layers
    torch.cuda.empty_cache()


def _attend_as(method, batch):
    """The attention call that a row of the results names."""
    if method.startswith("Triton"):
        splits, block, warps, stages = (int(word) for word in method.replace(",", "").split() if word.isdigit())
        space = decode_kernels.Workspace(batch, splits, HEADS, DIM)
        return lambda q, qs, k, v, n: decode_kernels.mqa_decode(q, qs, k, v, n, space, block, warps, stages)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = SDPBackend.FLASH_ATTENTION if method.startswith("Flash") else SDPBackend.CUDNN_ATTENTION
    folded = "folded" in method

    def attend(q, _scales, k, v, _lengths):
        with sdpa_kernel(backend):
            rows = q[:, None] if folded else q[:, :, None]
            return F.scaled_dot_product_attention(rows, k[:, None], v[:, None], enable_gqa=not folded)

    return attend
