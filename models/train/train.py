"""Trains the model for a given number of seconds, in calls that each continue the last.

The schedule follows time, not steps: full learning rate for the first half, then linear to zero.
In the second half the mixture moves towards children's books, and the last quarter trains
the weights as block FP8 will store them.
"""

import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
from tokenizers import Tokenizer

from data import Windows, held_out
from model import Config, Step3, token_losses
from optimiser import Optimiser

SOURCES = ["train-novels", "train-prose", "train-classics", "train-overlap", "train-stories"]
# Shares of windows. train-overlap repeats children's books that are also in the first two.
MAIN_MIX = np.array([0.595, 0.385, 0.010, 0.0, 0.010])
FINAL_MIX = np.array([0.41, 0.22, 0.02, 0.32, 0.03])
DECAY_FROM, MIX_FROM, MIX_UNTIL, FP8_FROM = 0.5, 0.6, 0.8, 0.75
STARTED = time.time()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder written by encode_corpus.py")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--total-seconds", type=float, required=True, help="training time of all calls together")
    parser.add_argument("--call-seconds", type=float, default=1e9, help="when this call saves and stops")
    parser.add_argument("--batch", type=int, default=128, help="windows of 1,024 tokens in a step")
    parser.add_argument("--micro", type=int, default=128, help="windows in one pass")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.2)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--eval-every", type=float, default=60, help="seconds between looks at held-out text")
    parser.add_argument("--attention", choices=["flash", "cudnn"], default="cudnn")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def blend(progress: float) -> np.ndarray:
    t = min(max((progress - MIX_FROM) / (MIX_UNTIL - MIX_FROM), 0.0), 1.0)
    return (1 - t) * MAIN_MIX + t * FINAL_MIX


def rate(progress: float, step: int) -> float:
    warm = min(1.0, (step + 1) / 200)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


@torch.no_grad()
def bits_per_byte(model: Step3, text, batch: int = 64) -> tuple[float, torch.Tensor]:
    """Held-out bits per byte, and the experts' shares of the slots. [moeLayers, experts]"""
    inputs, targets, byte_count = text
    device = model.lm_head.weight.device
    model.eval()
    total, shares = 0.0, 0.0
    for at in range(0, len(inputs), batch):
        x, y = inputs[at : at + batch].to(device), targets[at : at + batch].to(device)
        logits, _, share = model(x)
        total += token_losses(logits, y).double().sum().item()
        shares = shares + share.double().cpu() * len(x) / len(inputs)
    model.train()
    return total / math.log(2) / byte_count, shares


def load_ratio(shares: torch.Tensor) -> list[float]:
    """Busiest expert over the mean, per MoE layer."""
    return [round(v, 3) for v in (shares.amax(-1) * shares.shape[-1]).tolist()]


def main() -> None:
    args = parse()
    args.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    if args.device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(args.attention == "cudnn")
        torch.backends.cuda.enable_flash_sdp(args.attention == "flash")
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    vocab = Tokenizer.from_file(str(args.tokenizer))
    config = Config(vocab_size=vocab.get_vocab_size())
    # Ċ is how byte-level tokens spell a line feed.
    opens_next = np.array([i < 2 or "Ċ" in vocab.id_to_token(i) for i in range(config.vocab_size)])

    model = Step3(config, args.drop).to(args.device)
    optimiser = Optimiser(model, args.lr, args.decay, args.average)
    model.bfloat16()
    windows = Windows(args.data, SOURCES, opens_next, args.device)
    small = {n: held_out(args.data, n, config.context, 800_000) for n in ("dev-novels", "dev-classics")}
    compiled = torch.compile(model, dynamic=False) if args.device == "cuda" else model

    trained, step = 0.0, 0
    saved = args.run / "state.pt"
    if saved.exists():
        state = torch.load(saved, map_location=args.device, weights_only=True)
        optimiser.load(state["optimiser"])
        trained, step = state["trained"], state["step"]
        for source, drawn in zip(windows.sources, state["drawn"]):
            source.drawn = drawn
        del state
    torch.manual_seed(1000 + step)
    rng = np.random.default_rng(1000 + step)
    log = (args.run / "log.jsonl").open("a")
    tokens_per_step = args.batch * config.context
    print({"tokens": {s.name: s.length for s in windows.sources}, "parameters": sum(p.numel() for p in model.parameters()), "trained": trained, "step": step}, flush=True)

    def quantised() -> bool:
        return trained / args.total_seconds >= FP8_FROM

    def look(note: dict) -> None:
        for averaged in (False, True):
            optimiser.refresh(quantised(), averaged)
            for name, text in small.items():
                bpb, shares = bits_per_byte(model, text)
                note[name + ("-average" if averaged else "")] = round(bpb, 4)
        note["load"] = load_ratio(shares)
        optimiser.refresh(quantised(), averaged=False)

    def save() -> None:
        state = {"optimiser": optimiser.state(), "trained": trained, "step": step, "drawn": [s.drawn for s in windows.sources]}
        torch.save(state, args.run / "state.tmp")
        (args.run / "state.tmp").replace(saved)

    optimiser.refresh(quantised(), averaged=False)
    model.train()
    clock, since_look, steps_here = time.time(), time.time(), 0
    loss_sum, loss_count, step_at_look = torch.zeros((), device=args.device), 0, step
    while trained < args.total_seconds and time.time() - STARTED < args.call_seconds and step < args.max_steps:
        progress = trained / args.total_seconds
        inputs, targets = windows.draw(blend(progress), args.batch, config.context, rng)
        for p in model.parameters():
            p.grad = None
        for at in range(0, args.batch, args.micro):
            logits, balance, _ = compiled(inputs[at : at + args.micro])
            part = args.micro / args.batch
            losses = token_losses(logits, targets[at : at + args.micro])
            loss = losses.sum() / (args.micro * config.context)
            ((loss + args.balance * balance) * part).backward()
            loss_sum += loss.detach() * part
        loss_count += 1
        optimiser.step(rate(progress, step), quantised())
        step += 1
        steps_here += 1
        if steps_here % 5 == 0 or step >= args.max_steps:
            if args.device == "cuda":
                torch.cuda.synchronize()
            now = time.time()
            if steps_here > 5:  # the first steps of a call compile
                trained += now - clock
            else:
                since_look, step_at_look = now, step
                print(f"first steps done {now - STARTED:.0f} s after the start", flush=True)
            clock = now
            if now - since_look > args.eval_every or step >= args.max_steps:
                note = {"step": step, "trained": round(trained, 1), "loss": round((loss_sum / loss_count).item(), 4)}
                note["tokensPerSecond"] = round((step - step_at_look) * tokens_per_step / max(now - since_look, 1e-9))
                note["rate"] = round(rate(trained / args.total_seconds, step), 4)
                look(note)
                if args.device == "cuda":
                    note["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
                print(json.dumps(note), flush=True)
                log.write(json.dumps(note) + "\n")
                log.flush()
                loss_sum, loss_count, step_at_look = torch.zeros((), device=args.device), 0, step
                clock = since_look = time.time()
    save()

    # The better of the last weights and their running average, judged as block FP8 on held-out novels.
    scores = {}
    for averaged in (False, True):
        optimiser.refresh(True, averaged)
        scores[averaged] = bits_per_byte(model, small["dev-novels"])[0]
    best = min(scores, key=scores.get)
    torch.save({"weights": optimiser.weights(best), "config": vars(config)}, args.run / "weights.pt")
    done = trained >= args.total_seconds
    print({"done": done, "step": step, "tokens": step * tokens_per_step, "trained": trained, "scores": scores}, flush=True)


if __name__ == "__main__":
    main()
