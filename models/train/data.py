"""Draws training windows from token streams that live on the device."""

import json
import pathlib

import numpy as np
import torch

BEGIN_ID = 0
GOLDEN = 0.6180339887498949


class Source:
    """One token stream. Offsets follow the golden-ratio sequence, so passes cover it evenly."""

    def __init__(self, path: pathlib.Path, paragraph_start: np.ndarray, device: str) -> None:
        tokens = np.fromfile(path, dtype=np.uint16)
        self.name = path.stem
        self.tokens = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self.length = len(tokens)
        # Places where a paragraph or document opens.
        self.starts = np.flatnonzero(paragraph_start[tokens[:-1]]) + 1
        self.drawn = 0

    def offsets(self, count: int, span: int, rng: np.random.Generator) -> np.ndarray:
        n = np.arange(self.drawn, self.drawn + count)
        self.drawn += int(count)
        at = ((n * GOLDEN) % 1.0 * (self.length - span)).astype(np.int64)
        before = self.starts[np.maximum(np.searchsorted(self.starts, at, side="right") - 1, 0)]
        return np.where((rng.random(count) < 0.6) & (before < self.length - span), before, at)


class Windows:
    """Windows open with <|begin|>, whether at a document's start, at a paragraph's or in mid-sentence."""

    def __init__(self, folder: pathlib.Path, names: list[str], paragraph_start: np.ndarray, device: str) -> None:
        self.sources = [Source(folder / f"{n}.u16", paragraph_start, device) for n in names]
        self.device = device

    def draw(self, shares: np.ndarray, batch: int, time: int, rng: np.random.Generator):
        """Input and target ids, [batch, time] each; a target of -100 carries no loss."""
        counts = rng.multinomial(batch, shares / shares.sum())
        rows = []
        for source, count in zip(self.sources, counts):
            if count:
                at = torch.from_numpy(source.offsets(count, time + 2, rng)).to(self.device)
                # A window never holds two begin marks in a row.
                at = at + (source.tokens[at] == BEGIN_ID).long()
                rows.append(source.tokens[at[:, None] + torch.arange(time, device=self.device)])
        targets = torch.cat(rows).long()
        begin = torch.full_like(targets[:, :1], BEGIN_ID)
        inputs = torch.cat((begin, targets[:, :-1]), dim=1)
        return inputs, targets.masked_fill(targets == BEGIN_ID, -100)


def held_out(folder: pathlib.Path, name: str, time: int, limit: int = 0):
    """Non-overlapping windows over a whole stream, each after <|begin|>, and the stream's bytes."""
    tokens = np.fromfile(folder / f"{name}.u16", dtype=np.uint16).astype(np.int64)
    note = json.loads((folder / f"{name}.json").read_text())
    byte_count = note["bytes"]
    if limit and len(tokens) > limit:
        # Evenly spread stretches stand for the whole.
        stretch = 8 * time
        count = max(1, limit // stretch)
        places = np.linspace(0, len(tokens) - stretch, count).astype(np.int64)
        tokens = np.concatenate([tokens[p : p + stretch] for p in places])
        byte_count = note["bytes"] * len(tokens) / note["tokens"]
    rows = -(-len(tokens) // time)
    targets = np.full(rows * time, -100, dtype=np.int64)
    targets[: len(tokens)] = tokens
    targets = torch.from_numpy(targets.reshape(rows, time))
    inputs = torch.full_like(targets, BEGIN_ID)
    inputs[:, 1:] = targets[:, :-1]
    inputs.masked_fill_(inputs < 0, BEGIN_ID)
    return inputs, targets.masked_fill(targets == BEGIN_ID, -100), byte_count
