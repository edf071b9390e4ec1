"""Runs a stored checkpoint token by token with a KV cache: the plain definition of the model.

Only the chosen experts compute, one token at a time, in the precision of the weights.
"""

import torch
import torch.nn.functional as F

from model import Layer, Step3, rotate


class Decoder:
    def __init__(self, model: Step3) -> None:
        self.model, self.c = model, model.c
        dtype = model.lm_head.weight.dtype
        self.cos, self.sin = model.rope(model.c.context, "cpu", dtype)
        self.keys = [torch.zeros(0, model.c.head_dim, dtype=dtype) for _ in range(model.c.num_layers)]
        self.values = [k.clone() for k in self.keys]
        # Per fed token, per MoE layer: the chosen experts, best first, and their weights.
        self.routes: list[list[tuple[list[int], list[float]]]] = []

    @torch.no_grad()
    def feed(self, ids: list[int]) -> torch.Tensor:
        """Logits after each of the new tokens. [tokens, vocab]"""
        start = len(self.keys[0])
        self.routes.extend([] for _ in ids)
        x = self.model.model.embed_tokens(torch.tensor(ids))
        for index, layer in enumerate(self.model.model.layers):
            x = x + self.attend(index, layer, layer.input_layernorm(x), start)
            g = layer.post_attention_layernorm(x)
            x = x + (self.experts(layer, g, start) + layer.share_expert(g) if layer.is_moe else layer.mlp(g))
        return self.model.lm_head(self.model.model.norm(x))

    def attend(self, index: int, layer: Layer, h: torch.Tensor, start: int) -> torch.Tensor:
        a, c, count = layer.self_attn, self.c, len(h)
        cos, sin = self.cos[start : start + count], self.sin[start : start + count]
        q = a.wq(a.inter_norm(a.q_proj(h))).view(count, c.num_heads, c.head_dim)
        q = rotate(q, cos, sin)
        k = rotate(a.k_proj(h).unsqueeze(1), cos, sin).squeeze(1)
        self.keys[index] = torch.cat((self.keys[index], k))
        self.values[index] = torch.cat((self.values[index], a.v_proj(h)))
        scores = torch.einsum("qhd,kd->hqk", q, self.keys[index]) / c.head_dim**0.5
        later = torch.arange(start + count) > torch.arange(start, start + count)[:, None]
        weights = F.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
        return a.o_proj(torch.einsum("hqk,kd->qhd", weights, self.values[index]).flatten(1))

    def experts(self, layer: Layer, g: torch.Tensor, start: int) -> torch.Tensor:
        moe = layer.moe
        weights, chosen = F.softmax(moe.gate(g), dim=-1).topk(self.c.top_k)
        y = torch.zeros_like(g)
        for expert in range(self.c.num_experts):
            rows, slots = (chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                own = g[rows]
                inner = F.silu(own @ moe.gate_proj.weight[expert].T) * (own @ moe.up_proj.weight[expert].T)
                y[rows] += weights[rows, slots].unsqueeze(1) * (inner @ moe.down_proj.weight[expert].T)
        for row, route in enumerate(zip(chosen.tolist(), weights.tolist())):
            self.routes[start + row].append(route)
        return y
