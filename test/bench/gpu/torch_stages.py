"""What PyTorch and Triton need for the parts of Step-3's (and DeepSeek-V3's) stages on this GPU.

    python torch_stages.py --out FILE.json [--only ceilings,step3-attention,step3-ffn,dsv3] [--batches 64,128] [--contexts 4096]

`rally bench --stage ... --torch FILE.json` sets these figures beside its own.
"""

import argparse
import json
import time

import torch

import decode_kernels_check
import deepseek
import step3
from ceilings import measured_ceilings
from timing import Results


def main():
    options = _options()
    torch.manual_seed(0)
    started = time.monotonic()
    results, report = Results(), {"device": torch.cuda.get_device_name(), "torch": torch.__version__}

    def part(name, work):
        if name not in options.only:
            return
        at = time.monotonic()
        work()
        torch.cuda.empty_cache()
        print(f"{time.monotonic() - started:6.1f} s  {name} took {time.monotonic() - at:.1f} s", flush=True)
        # Written after every part: a run that is cut off leaves what it had.
        report.update(measurements=results.rows, unavailable=results.failures)
        with open(options.out, "w") as file:
            json.dump(report, file, indent=1)

    batches, contexts = options.batches, options.contexts
    part("check", lambda: report.update(relativeErrors=decode_kernels_check.check_all()))
    part("ceilings", lambda: report.update(ceilings=measured_ceilings()))
    part("step3-linears", lambda: step3.linears(results, "attention", step3.ATTENTION_SHAPES, batches))
    part("step3-small", lambda: step3.small_parts(results, batches))
    part("step3-attention", lambda: step3.attention(results, batches, contexts))
    part("step3-ffn", lambda: step3.ffn(results, batches))
    part("step3-dense", lambda: step3.dense(results, batches))
    part("step3-head", lambda: step3.head(results, batches))
    for kv in ("bf16", "fp8"):
        part("step3-chain", lambda kv=kv: step3.attention_chain(results, batches, contexts, kv))
    part("dsv3-linears", lambda: deepseek.linears(results, batches))
    part("dsv3-small", lambda: deepseek.small_parts(results, batches))
    part("dsv3-attention", lambda: deepseek.attention(results, batches, contexts))
    for kv in ("bf16", "fp8"):
        part("dsv3-chain", lambda kv=kv: deepseek.attention_chain(results, batches, contexts, kv))
    part("dsv3-ffn", lambda: deepseek.ffn(results, batches))
    _print(report, results)


PARTS = (
    "check ceilings step3-linears step3-small step3-attention step3-ffn step3-dense step3-head step3-chain "
    "dsv3-linears dsv3-small dsv3-attention dsv3-chain dsv3-ffn"
).split()


def _options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--batches", default="64,128,192,256", type=_integers)
    parser.add_argument("--contexts", default="4096,8192,32768", type=_integers)
    return parser.parse_args()


def _integers(text):
    return [int(word) for word in text.split(",")]


def _print(report, results):
    print(json.dumps({name: report.get(name) for name in ("device", "torch", "relativeErrors", "ceilings")}, indent=1))
    fields = ("model", "stage", "part", "batch", "context", "kv", "routing", "share")
    best = {}
    for row in results.rows:
        key = tuple(row.get(field) for field in fields)
        if key not in best or row["us"] < best[key]["us"]:
            best[key] = row
    for key, row in best.items():
        print(f"{row['us']:9.1f} us  {' '.join(str(word) for word in key if word is not None):60} {row['method']}")
    reasons = {(row["part"], row["method"]): row["reason"] for row in results.failures}
    for (name, method), reason in reasons.items():
        print(f"not available: {name}, {method}: {reason}")


if __name__ == "__main__":
    main()
