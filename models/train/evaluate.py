"""Held-out bits per byte and expert load of a stored checkpoint, and of the weights before rounding."""

import argparse
import json
import pathlib

import torch

from checkpoint import read_checkpoint
from data import held_out
from model import Config, Step3
from train import bits_per_byte, load_ratio

SETS = ["test-novels", "dev-novels", "dev-classics", "dev-stories"]


def measure(model: Step3, data: pathlib.Path) -> dict:
    out = {}
    for name in SETS:
        bpb, shares = bits_per_byte(model, held_out(data, name, model.c.context))
        out[name] = {"bitsPerByte": round(bpb, 4), "maxOverMeanLoad": load_ratio(shares)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder written by encode_corpus.py")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder of the stored checkpoint")
    parser.add_argument("--weights", type=pathlib.Path, help="weights.pt of train.py, to compare")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    result = {"stored": measure(read_checkpoint(args.model, torch.float32).to(args.device), args.data)}
    if args.weights:
        saved = torch.load(args.weights, weights_only=True)
        model = Step3(Config(**saved["config"]))
        model.load_state_dict(saved["weights"])
        result["beforeRounding"] = measure(model.to(args.device), args.data)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
