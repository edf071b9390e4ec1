"""The SwiGLU experts of one GPU over the rows that were sent to it: gather, gate and up, down, weighted combine."""

import torch

from fp8_linear import E4M3, random_e4m3, random_scales, rows_mm
from rowwise_kernels import swiglu_quantise
from timing import copies_beyond_l2

BF16 = torch.bfloat16


class Experts:
    """Weights of `count` experts in row scales, in as many layers as keep them out of the L2 cache."""

    def __init__(self, count, hidden, inter):
        self.count, self.hidden, self.inter = count, hidden, inter
        self.layers = [
            (
                random_e4m3(count, 2 * inter, hidden),
                random_scales(count, 2 * inter),
                random_e4m3(count, hidden, inter),
                random_scales(count, hidden),
            )
            for _ in range(copies_beyond_l2(3 * count * hidden * inter))
        ]

    def measure(self, results, counts, key):
        """counts: rows of each expert. Every row is one token at one expert, as in expert parallelism over many GPUs."""
        rows, hidden, inter = sum(counts), self.hidden, self.inter
        x, x_scales = random_e4m3(rows, hidden), random_scales(rows, 1)
        order, weights = torch.randperm(rows, device="cuda"), torch.rand(rows, 1, device="cuda", dtype=BF16)
        offsets = torch.tensor(counts, device="cuda").cumsum(0).to(torch.int32)
        starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
        hidden8, hidden_scales = random_e4m3(rows, inter), random_scales(rows, 1)
        y = torch.empty(rows, hidden, device="cuda", dtype=BF16)

        def gather():
            return x.view(torch.uint8)[order].view(E4M3), x_scales[order]

        def combine(out):
            return torch.zeros_like(out).index_add_(0, order, out * weights)

        def each_expert(layer):
            gate_up, gate_up_scales, down, down_scales = layer
            rows8, row_scales = gather()
            for e in range(self.count):
                a, b = starts[e], starts[e + 1]
                h = rows_mm(rows8[a:b], gate_up[e], row_scales[a:b], gate_up_scales[e])
                swiglu_quantise(h, hidden8[a:b], hidden_scales[a:b], inter)
                rows_mm(hidden8[a:b], down[e], hidden_scales[a:b], down_scales[e], out=y[a:b])
            return combine(y)

        def grouped(layer):
            gate_up, gate_up_scales, down, down_scales = layer
            rows8, row_scales = gather()
            h = _grouped_mm(rows8, gate_up, row_scales, gate_up_scales, offsets)
            swiglu_quantise(h, hidden8, hidden_scales, inter)
            return combine(_grouped_mm(hidden8, down, hidden_scales, down_scales, offsets))

        for name, way in (("_scaled_mm per expert", each_expert), ("_scaled_grouped_mm", grouped)):
            results.attempt(lambda: [lambda layer=layer: way(layer) for layer in self.layers], **key, method=name)


def _grouped_mm(x, w, x_scales, w_scales, offsets):
    """x [rows, k], w [experts, n, k] -> [rows, n]; rows of expert e end at offsets[e]."""
    return torch._scaled_grouped_mm(
        x, w.transpose(1, 2), x_scales.view(-1), w_scales, offs=offsets, out_dtype=BF16, use_fast_accum=True
    )
