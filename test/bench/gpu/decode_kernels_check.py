"""The Triton decode kernels against a float64 softmax: ragged lengths, odd sizes, empty parts."""

import torch

from decode_kernels import MLA_SCALE, Workspace, mla_decode, mqa_decode

DEVICE = "cuda"


def attention(query, keys, values, lengths, scale):
    """query [B, H, D], keys [B, S, D], values [B, S, V], all float64 -> [B, H, V]."""
    scores = torch.einsum("bhd,bsd->bhs", query, keys) * scale
    past = torch.arange(keys.shape[1], device=keys.device)[None, None, :] >= lengths[:, None, None]
    return torch.softmax(scores.masked_fill(past, -torch.inf), -1) @ values


def quantised(query):
    scales = query.abs().amax(-1).float() / 448
    return (query / scales[..., None]).to(torch.float8_e4m3fn), scales


def check(sequences, capacity, splits, fp8):
    torch.manual_seed(capacity + splits)
    lengths = torch.randint(1, capacity + 1, (sequences,), dtype=torch.int32, device=DEVICE)
    lengths[0] = capacity
    normal = lambda *shape: torch.randn(*shape, device=DEVICE)  # noqa: E731
    kind = torch.float8_e4m3fn if fp8 else torch.bfloat16
    found = {}

    query, keys, values = normal(sequences, 64, 256), normal(sequences, capacity, 256), normal(sequences, capacity, 256)
    keys, values = keys.to(kind), values.to(kind)
    q, q_scales = quantised(query) if fp8 else (query.to(kind), torch.ones(1, device=DEVICE))
    wide = q.double() * (q_scales.double()[..., None] if fp8 else 1)
    expected = attention(wide, keys.double(), values.double(), lengths, 256**-0.5)
    space = Workspace(sequences, splits, 64, 256, DEVICE)
    space.parts.fill_(torch.nan)
    out = mqa_decode(q, q_scales, keys, values, lengths, space)
    found["mqa"] = (out.double() - expected).norm() / expected.norm()

    query, latents = normal(sequences, 128, 576), normal(sequences, capacity, 576).to(kind)
    q, q_scales = quantised(query) if fp8 else (query.to(kind), torch.ones(1, device=DEVICE))
    wide = q.double() * (q_scales.double()[..., None] if fp8 else 1)
    expected = attention(wide, latents.double(), latents.double()[..., :512], lengths, MLA_SCALE)
    for name in ("fp8", "fp8 widened") if fp8 else ("bf16",):
        space = Workspace(sequences, splits, 128, 512, DEVICE)
        space.parts.fill_(torch.nan)
        out = mla_decode(q, q_scales, latents, lengths, space, name)
        found[f"mla {name}"] = (out.double() - expected).norm() / expected.norm()
    return {name: error.item() for name, error in found.items()}


def check_all():
    """Raises unless every error is what bf16 weights explain."""
    worst = {}
    for fp8 in (False, True):
        for shape in [(3, 1000, 1), (5, 777, 2), (2, 4096, 4), (4, 64, 2)]:
            for name, error in check(*shape, fp8).items():
                key = f"{name} {'e4m3' if fp8 else 'bf16'}"
                worst[key] = max(worst.get(key, 0.0), error if error == error else float("inf"))
    wrong = {name: error for name, error in worst.items() if not error < 1e-2}
    if wrong:
        raise AssertionError(f"relative errors too large: {wrong}")
    return worst


if __name__ == "__main__":
    print(check_all())
