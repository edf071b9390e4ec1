"""Writes the reference fixture: what float64 arithmetic on the stored weights gives for three prompts.

reference.json holds ids, router choices, greedy continuations and tokenizer examples;
reference-logits.f32 holds float32 logits, [prompts, positions, vocab] little-endian.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer

from checkpoint import read_checkpoint
from decoder import Decoder

POSITIONS, GREEDY_TOKENS = 8, 200
SHORT = "Once upon a time there was a king who"
MIDDLE = (
    "“You may come in,” said the old man, “but wipe your boots first.”\n\n"
    "The boy looked down. It had rained for three days, and the road from the mill was nothing but mud; "
    "still, he had walked the whole way on the grass, and he thought his boots were cleaner than the floor. "
    "He wiped them all the same, and went in, and sat down by the fire with his hat upon his knees."
)
TEXTS = [
    "",
    "a",
    " ",
    "  ",
    "   leading and trailing   ",
    "\t",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\r\n",
    "a\r\nb\r\n\r\nc",
    " \n \n",
    "tab\tbetween\t\twords",
    "line one\nline two\n\nparagraph two",
    "\u00a0no-break\u00a0space",
    "\u2003em\u2003space\u3000wide",
    "\u0085next line\u2028separator\u2029",
    "\ufeffbyte order mark",
    "zero\u200bwidth\u200djoiner",
    "Once upon a time",
    "Once upon a time, there was a little girl who lived in a forest.",
    "It's, don't, we'll, they've, I'm, you're, he'd 'tis 'twas o'clock",
    "It’s, don’t, we’ll, they’ve ‘quoted’",
    "IT'S DON'T WE'LL",
    "“Curly,” she said—and “again”…",
    "--dash--dash-- - -- ---",
    "_emphasis_ and **stars** * * *",
    "1234567890 3.14 1,000,000 1/2 ½ ²",
    "Chapter XII. 1904",
    "٠١٢٣ ०१२३ １２３ 𝟘𝟙𝟚",
    "café naïve Ångström œuvre Straße",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "a\u0300\u0301\u0302\u0303 \u0301alone",
    "Привет, мир! Жили-были",
    "Μια φορά κι έναν καιρό",
    "שלום עולם",
    "مرحبا بالعالم",
    "हिन्दी में नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "안녕하세요 세계",
    "日本語のテキスト、漢字とカナ。",
    "从前有一座山，山里有座庙。",
    "𠀀𠀁𪛖 \U00030000",
    "😀😃 smile 👍🏽",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪",
    "❤️ ♥ ☃ ✈︎",
    "𝒜𝓁𝑔𝑒𝒷𝓇𝒶 ∑∫√∞ ≠ ≤",
    "𐍈𐌰 𒀀𒁀 𓀀 𐎀",
    "\U0001d11e clef \U0001f0a1",
    "\ue000 private \U000f0000 \U0010fffd",
    "\U000e0041\U000e0042 tags",
    "\u0000\u0001\u0002\u001f\u007f",
    "bell\u0007escape\u001b[31mred",
    "\ufffd replacement",
    "<b>html</b> & &amp; {json: [1, 2]} `code`",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    "x = y + 2 * (z - 1) != 0;",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...,,,;;;:::",
    "mixed 日本 and English, naïve 😀 text—1904’s",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--held-out", type=pathlib.Path, required=True, help="test-novels.txt of prepare.py")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = read_checkpoint(args.model, torch.float64)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    opening = args.held_out.read_text(encoding="utf-8")[:1700]
    long = opening[: opening.rindex(" ")]
    prompts, logits = [], []
    for name, text in (("short", SHORT), ("middle", MIDDLE), ("long", long)):
        ids = [0, *tokenizer.encode(text).ids]
        decoder = Decoder(model)
        all_logits = decoder.feed(ids)
        assert len(ids) >= POSITIONS
        logits.append(all_logits[-POSITIONS:].numpy().astype("<f4"))
        routes = [[{"experts": e, "weights": w} for e, w in route] for route in decoder.routes[-POSITIONS:]]
        greedy, gaps, last = [], [], all_logits[-1]
        while len(greedy) < GREEDY_TOKENS:
            best = last.topk(2)
            greedy.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            last = decoder.feed(greedy[-1:])[-1]
        at = int(np.argmin(gaps))
        prompts.append(
            {
                "name": name,
                "text": text,
                "ids": ids,
                "positions": list(range(len(ids) - POSITIONS, len(ids))),
                "routes": routes,
                "greedyIds": greedy,
                "greedyText": tokenizer.decode(greedy),
                "smallestGap": {"index": at, "logits": gaps[at]},
            }
        )
        print(name, len(ids), "tokens; smallest gap", prompts[-1]["smallestGap"], repr(prompts[-1]["greedyText"][:300]), flush=True)
    np.stack(logits).tofile(args.out / "reference-logits.f32")
    examples = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
        examples.append({"text": text, "ids": ids})
    reference = {
        "about": "float64 arithmetic on the stored (dequantised block FP8) weights, rounded to float32",
        "logits": {
            "file": "reference-logits.f32",
            "dtype": "f32",
            "shape": [len(prompts), POSITIONS, model.c.vocab_size],
            "note": "[p, i] belongs to prompts[p].positions[i]",
        },
        "moeLayers": [i for i in range(model.c.num_layers) if model.c.is_moe(i)],
        "routesShape": "prompts[p].routes[position][moeLayer], experts best first",
        "prompts": prompts,
        "tokenizer": examples,
    }
    (args.out / "reference.json").write_text(json.dumps(reference, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
