"""The two numbers that every floor is made of, measured on this card."""

import torch

from timing import measure


def measured_ceilings():
    gib = 2**30
    source = torch.empty(gib // 2, dtype=torch.float32, device="cuda").normal_()  # 2 GiB
    target = torch.empty_like(source)
    copied = {}
    for mib in (256, 1024, 2048):
        a, b = source[: mib * 2**18], target[: mib * 2**18]
        # Bytes read plus bytes written.
        copied[f"memcpy {mib} MiB"] = 2 * mib * 2**20 / measure([lambda a=a, b=b: b.copy_(a)] * 2, budget_ms=40) * 1e6
        copied[f"kernel {mib} MiB"] = 2 * mib * 2**20 / measure([lambda a=a, b=b: torch.mul(a, 0.5, out=b)] * 2, budget_ms=40) * 1e6
    # A sum reads every byte once and writes next to nothing.
    read_us = measure([lambda: torch.sum(source)], budget_ms=60)
    del source, target

    side = 8192
    flops = 2 * side**3
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bf16_us = measure([lambda: torch.mm(a, b.t())], budget_ms=60)
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    row, column = torch.ones(side, 1, device="cuda"), torch.ones(1, side, device="cuda")

    def fp8(scale_a, scale_b, fast):
        return lambda: torch._scaled_mm(
            a8, b8.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    fp8_us = {
        "tensor scale, fast accumulation": measure([fp8(one, one, True)], budget_ms=60),
        "tensor scale, full accumulation": measure([fp8(one, one, False)], budget_ms=60),
        "row scales, fast accumulation": measure([fp8(row, column, True)], budget_ms=60),
    }
    return {
        "copyBytesPerSecond": max(copied.values()),
        "copyBytesPerSecondBy": copied,
        "readBytesPerSecond": 2 * gib / read_us * 1e6,
        "fp8FlopsPerSecond": flops / min(fp8_us.values()) * 1e6,
        "bf16FlopsPerSecond": flops / bf16_us * 1e6,
        "fp8FlopsPerSecondBy": {name: flops / us * 1e6 for name, us in fp8_us.items()},
    }
