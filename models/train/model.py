"""The Step-3 text architecture, written for training: every expert computes every token.

With eight small experts one wide matrix product beats sorting tokens by expert; the router's
weights are zero outside the top k, so the result is that of the sparse layer.
Parameter names are those of Step-3 checkpoints.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 4096
    hidden_size: int = 384
    num_layers: int = 8
    num_heads: int = 12
    head_dim: int = 64
    share_q_dim: int = 192
    intermediate_size: int = 768
    num_experts: int = 8
    top_k: int = 3
    expert_dim: int = 192
    share_expert_dim: int = 192
    context: int = 1024
    rope_theta: float = 10000.0
    eps: float = 1e-5

    def is_moe(self, layer: int) -> bool:
        return 0 < layer < self.num_layers - 1


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


def linear(in_size: int, out_size: int, std: float = 0.02) -> nn.Linear:
    layer = nn.Linear(in_size, out_size, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE by halves over the whole head. x: [batch, time, heads, headDim]"""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-matrix factorisation attention: a shared low-rank query, one key-value head."""

    def __init__(self, c: Config, out_std: float) -> None:
        super().__init__()
        self.c = c
        self.q_proj = linear(c.hidden_size, c.share_q_dim)
        self.inter_norm = RMSNorm(c.share_q_dim, c.eps)
        self.wq = linear(c.share_q_dim, c.num_heads * c.head_dim, 0.04)
        self.k_proj = linear(c.hidden_size, c.head_dim, 0.04)
        self.v_proj = linear(c.hidden_size, c.head_dim, 0.04)
        self.o_proj = linear(c.num_heads * c.head_dim, c.hidden_size, out_std)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, time, _ = x.shape
        c = self.c
        q = self.wq(self.inter_norm(self.q_proj(x))).view(batch, time, c.num_heads, c.head_dim)
        k = self.k_proj(x).view(batch, time, 1, c.head_dim)
        v = self.v_proj(x).view(batch, time, 1, c.head_dim)
        # Laid out head by head: the compiled attention gradient assumes it.
        q = rotate(q, cos, sin).transpose(1, 2).contiguous()
        k = rotate(k, cos, sin).transpose(1, 2).expand(-1, c.num_heads, -1, -1).contiguous()
        v = v.transpose(1, 2).expand(-1, c.num_heads, -1, -1).contiguous()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, time, -1))


class SwiGLU(nn.Module):
    def __init__(self, size: int, inner: int, out_std: float) -> None:
        super().__init__()
        self.gate_proj = linear(size, inner)
        self.up_proj = linear(size, inner)
        self.down_proj = linear(inner, size, out_std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Stacked(nn.Module):
    """One weight per expert. [experts, out, in]"""

    def __init__(self, experts: int, in_size: int, out_size: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, out_size, in_size) * std)


class MoE(nn.Module):
    def __init__(self, c: Config, out_std: float) -> None:
        super().__init__()
        self.c = c
        self.gate = linear(c.hidden_size, c.num_experts)
        self.gate_proj = Stacked(c.num_experts, c.hidden_size, c.expert_dim, 0.02)
        self.up_proj = Stacked(c.num_experts, c.hidden_size, c.expert_dim, 0.02)
        self.down_proj = Stacked(c.num_experts, c.expert_dim, c.hidden_size, out_std)

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and the top-k mask, both [tokens, experts]; of equals the lower id wins."""
        wide = x if x.dtype == torch.float64 else x.float()
        p = F.softmax(F.linear(wide, self.gate.weight.to(wide.dtype)), dim=-1)
        ids = torch.arange(self.c.num_experts, device=x.device)
        theirs, mine = p.detach().unsqueeze(-2), p.detach().unsqueeze(-1)
        ahead = (theirs > mine) | ((theirs == mine) & (ids[None, :] < ids[:, None]))
        return p, ahead.sum(-1) < self.c.top_k

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c = self.c
        flat = x.reshape(-1, c.hidden_size)
        p, mask = self.route(flat)
        weights = (p * mask).to(x.dtype)
        up = F.linear(flat, self.up_proj.weight.reshape(-1, c.hidden_size))
        inner = F.silu(F.linear(flat, self.gate_proj.weight.reshape(-1, c.hidden_size))) * up
        inner = (inner.view(-1, c.num_experts, c.expert_dim) * weights.unsqueeze(-1)).flatten(1)
        down = self.down_proj.weight.permute(1, 0, 2).reshape(c.hidden_size, -1)
        # Switch-style balance: experts' share of the slots times their mean probability, 1 when even.
        share = mask.float().mean(0) / c.top_k
        balance = c.num_experts * (share * p.mean(0)).sum()
        return F.linear(inner, down).view_as(x), balance, share


class Layer(nn.Module):
    def __init__(self, c: Config, index: int) -> None:
        super().__init__()
        out_std = 0.02 / (2 * c.num_layers) ** 0.5
        self.input_layernorm = RMSNorm(c.hidden_size, c.eps)
        self.self_attn = Attention(c, out_std)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.eps)
        self.is_moe = c.is_moe(index)
        if self.is_moe:
            self.moe = MoE(c, out_std)
            self.share_expert = SwiGLU(c.hidden_size, c.share_expert_dim, out_std)
        else:
            self.mlp = SwiGLU(c.hidden_size, c.intermediate_size, out_std)

    def forward(self, x, cos, sin, drop: float):
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), drop, self.training)
        g = self.post_attention_layernorm(x)
        if not self.is_moe:
            return x + F.dropout(self.mlp(g), drop, self.training), None, None
        y, balance, share = self.moe(g)
        return x + F.dropout(y + self.share_expert(g), drop, self.training), balance, share


class Body(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.num_layers))
        self.norm = RMSNorm(c.hidden_size, c.eps)


class Step3(nn.Module):
    def __init__(self, c: Config, drop: float = 0.0) -> None:
        super().__init__()
        self.c, self.drop = c, drop
        self.model = Body(c)
        self.lm_head = linear(c.hidden_size, c.vocab_size, 0.01)

    def rope(self, time: int, device, dtype) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.c.head_dim // 2
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        rates = self.c.rope_theta ** (-torch.arange(half, device=device, dtype=wide) / half)
        angles = torch.arange(time, device=device, dtype=wide)[:, None] * rates
        return angles.cos()[:, None, :], angles.sin()[:, None, :]

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [batch, time, vocab], mean balance loss, expert shares [moeLayers, experts]."""
        body = self.model
        x = F.dropout(body.embed_tokens(ids), self.drop, self.training)
        cos, sin = self.rope(ids.shape[1], ids.device, x.dtype)
        balances, shares = [], []
        for layer in body.layers:
            x, balance, share = layer(x, cos, sin, self.drop)
            if balance is not None:
                balances.append(balance)
                shares.append(share)
        logits = self.lm_head(body.norm(x))
        return logits, torch.stack(balances).mean(), torch.stack(shares)


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=-100)
