"""Prints samples of a stored checkpoint."""

import argparse
import pathlib

import torch
from tokenizers import Tokenizer

from checkpoint import read_checkpoint
from decoder import Decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--prompt", action="append", required=True)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    args = parser.parse_args()
    model = read_checkpoint(args.model, torch.float32)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    for prompt in args.prompt:
        for seed in range(args.seed, args.seed + args.count):
            generator = torch.Generator().manual_seed(seed)
            decoder = Decoder(model)
            ids = [0, *tokenizer.encode(prompt).ids]
            logits, out = decoder.feed(ids)[-1], []
            while len(out) < args.tokens:
                p = torch.softmax(logits / args.temperature, dim=-1)
                out.append(int(torch.multinomial(p, 1, generator=generator)))
                if out[-1] == 1:
                    break
                logits = decoder.feed(out[-1:])[-1]
            print(f"--- seed {seed}\n{prompt}{tokenizer.decode(out)}\n", flush=True)


if __name__ == "__main__":
    main()
