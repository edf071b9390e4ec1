"""Trains the byte-level BPE tokenizer and writes tokenizer.json and tokenizer_config.json."""

import argparse
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END = "<|begin|>", "<|end|>"
# Only ASCII white space is named, so that every regex engine agrees on what it covers.
PIECES = "|".join(
    [
        r"['’](?:s|t|m|d|re|ve|ll)(?![\p{L}\p{M}])",
        r" ?[\p{L}\p{M}]+",
        r" ?\p{N}",
        r" ?[^ \t\r\n\p{L}\p{M}\p{N}]+",
        r"[\r\n]+",
        r"[ \t]+(?![^ \t\r\n])",
        r"[ \t]+",
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=4096)
    args = parser.parse_args()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab_size,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = ["train-novels", "train-prose", "train-classics", "train-overlap", "train-stories"]

    def paragraphs():
        for name in names:
            for line in (args.data / f"{name}.txt").read_text(encoding="utf-8").split("\x1e\n"):
                # Whole paragraphs, so that "\n\n" is seen as text and becomes a token.
                for at in range(0, len(line), 100_000):
                    yield line[at : at + 100_000]

    tokenizer.train_from_iterator(paragraphs(), trainer)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    assert tokenizer.token_to_id(BEGIN) == 0 and tokenizer.token_to_id(END) == 1
    assert tokenizer.get_vocab_size() == args.vocab_size
    sample = "“Don't,” said Anne—it's 1904!\n\n  Naïve  café 日本 👩‍🚀\t\x00"
    assert tokenizer.decode(tokenizer.encode(sample).ids, skip_special_tokens=False) == sample
    print(tokenizer.encode(sample).tokens)


if __name__ == "__main__":
    main()
