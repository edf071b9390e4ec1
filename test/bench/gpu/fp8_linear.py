"""x Wᵀ with both in e4m3, in every scaling that this PyTorch does: per tensor, per row, and per block (1 x 128, 128 x 128)."""

import torch

from timing import copies_beyond_l2

E4M3 = torch.float8_e4m3fn
GROUP = 128


def random_e4m3(*shape):
    """Normal values; made in pieces so that the wide copy stays small."""
    out = torch.empty(shape, dtype=E4M3, device="cuda")
    flat = out.view(-1)
    step = 2**27
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        piece.copy_(torch.randn(piece.numel(), device="cuda", dtype=torch.bfloat16))
    return out


def random_scales(*shape):
    return torch.rand(shape, device="cuda") + 0.5


class Linear:
    """One shape [n, k] with as many weight matrices as keep them out of the L2 cache."""

    def __init__(self, n, k):
        self.n, self.k = n, k
        count = copies_beyond_l2(n * k)
        self.weights = [random_e4m3(n, k) for _ in range(count)]
        self.row_scales = [random_scales(1, n) for _ in range(count)]
        self.block_scales = [random_scales(n // GROUP, k // GROUP) for _ in range(count)]
        self._block_call = None

    def tensor_scaled(self, rows):
        x, one = random_e4m3(rows, self.k), torch.ones((), device="cuda")
        return [
            lambda w=w: torch._scaled_mm(
                x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            for w in self.weights
        ]

    def row_scaled(self, rows):
        x, scales = random_e4m3(rows, self.k), random_scales(rows, 1)
        return [
            lambda w=w, s=s: torch._scaled_mm(
                x, w.t(), scale_a=scales, scale_b=s, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            for w, s in zip(self.weights, self.row_scales)
        ]

    def block_scaled(self, rows):
        x = random_e4m3(rows, self.k)
        scales = random_scales(self.k // GROUP, rows).t()  # [rows, k / 128], group-major
        call = self._block_call or _block_scaled_call(x, scales, self.weights[0], self.block_scales[0])
        self._block_call = call
        return [lambda w=w, s=s: call(x, scales, w, s) for w, s in zip(self.weights, self.block_scales)]


def _block_scaled_call(x, x_scales, w, w_scales):
    """The way of saying block scales that this PyTorch understands and computes right; its layout rules changed over time."""
    from torch.nn.functional import ScalingType, scaled_mm

    def padded(scales):
        wanted = -(-scales.shape[1] // 4) * 4
        return torch.nn.functional.pad(scales, (0, wanted - scales.shape[1]))

    def modern(arrange):
        return lambda x, xs, w, ws: scaled_mm(
            x,
            w.t(),
            scale_a=xs,
            scale_recipe_a=ScalingType.BlockWise1x128,
            scale_b=arrange(ws),
            scale_recipe_b=ScalingType.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )

    arrangements = {
        "padded": lambda s: padded(s),
        "padded transposed": lambda s: padded(s).t(),
        "plain": lambda s: s,
        "transposed": lambda s: s.t(),
        "transposed contiguous": lambda s: s.t().contiguous(),
    }
    wide_x = x.float() * x_scales.repeat_interleave(GROUP, 1)
    wide_w = w.float() * w_scales.repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)
    expected = wide_x @ wide_w.t()
    reasons = []
    for name, arrange in arrangements.items():
        try:
            # Arranged once per weight, as a loader would; only the product is timed.
            cache = {}
            plain = modern(lambda s, arrange=arrange, cache=cache: cache.setdefault(s.data_ptr(), arrange(s)))
            out = plain(x, x_scales, w, w_scales)
            error = ((out.float() - expected).norm() / expected.norm()).item()
            if error < 1e-2:
                return plain
            reasons.append(f"{name}: relative error {error:.3g}")
        except (RuntimeError, ValueError, TypeError) as thrown:
            reasons.append(f"{name}: {str(thrown).splitlines()[0][:80]}")
    raise RuntimeError("; ".join(reasons))


def rows_mm(x, w, x_scales, w_scales, **out):
    """x [T, k] with scales [T, 1], w [n, k] with scales [n] -> [T, n] in bf16."""
    return torch._scaled_mm(
        x, w.t(), scale_a=x_scales, scale_b=w_scales[None], out_dtype=torch.bfloat16, use_fast_accum=True, **out
    )
