"""Block FP8 (e4m3) storage: one scale per 128×128 block, w = fp8 * scale.

Scales are powers of two: in a floating-point format a finer scale gains nothing, and the
dequantised weights stay exact in bfloat16, so training can use the stored values themselves.
"""

import torch
import torch.nn.functional as F

BLOCK = 128
MAX_E4M3 = 448.0


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., out, in] to fp8 of that shape and float32 scales [..., ceil(out/128), ceil(in/128)]."""
    out_size, in_size = weight.shape[-2:]
    rows, cols = -(-out_size // BLOCK), -(-in_size // BLOCK)
    padded = F.pad(weight.float(), (0, cols * BLOCK - in_size, 0, rows * BLOCK - out_size))
    blocks = padded.unflatten(-1, (cols, BLOCK)).unflatten(-3, (rows, BLOCK))
    amax = blocks.abs().amax(dim=(-3, -1))
    scale = torch.exp2(torch.ceil(torch.log2(amax.clamp(min=1e-12) / MAX_E4M3)))
    fp8 = (blocks / scale[..., :, None, :, None]).clamp(-MAX_E4M3, MAX_E4M3).to(torch.float8_e4m3fn)
    fp8 = fp8.flatten(-2).flatten(-3, -2)[..., :out_size, :in_size].contiguous()
    return fp8, scale.contiguous()


def dequantise(fp8: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out_size, in_size = fp8.shape[-2:]
    wide = scale.to(dtype).repeat_interleave(BLOCK, -2)[..., :out_size, :]
    wide = wide.repeat_interleave(BLOCK, -1)[..., :in_size]
    return fp8.to(dtype) * wide


def fake_quantise(weight: torch.Tensor) -> torch.Tensor:
    return dequantise(*quantise(weight))


def is_stored_in_fp8(name: str) -> bool:
    """Linear weights of the layers; embeddings, head, router and norms keep bfloat16."""
    return name.endswith("_proj.weight") or name.endswith(".wq.weight")
