"""Turns the documents of prepare.py into token streams (little-endian uint16).

Each document becomes <|begin|> tokens <|end|>. Beside each stream lies the number of bytes of
text it stands for, which is what bits per byte are counted over.
"""

import argparse
import json
import lzma
import multiprocessing
import pathlib

import numpy as np
from tokenizers import Tokenizer

BEGIN_ID, END_ID = 0, 1
PIECE_CHARS = 50_000


def pieces(document: str) -> list[str]:
    """Cuts a document before a paragraph's first letter, where no token crosses, for parallel work."""
    out, start = [], 0
    while len(document) - start > PIECE_CHARS:
        cut = document.find("\n\n", start + PIECE_CHARS)
        if cut < 0:
            break
        while cut < len(document) and document[cut] == "\n":
            cut += 1
        out.append(document[start:cut])
        start = cut
    out.append(document[start:])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("fork").Pool(args.processes) as pool:
        for path in sorted(args.data.glob("*-*.txt*")):
            raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            name = path.name.split(".")[0]
            documents = raw.decode("utf-8").split("\n\x1e\n")
            flat = [(d, p) for d, document in enumerate(documents) for p in pieces(document)]
            jobs, job, size = [], [], 0
            for _, piece in flat:
                job.append(piece)
                size += len(piece)
                if size > 1_000_000:
                    jobs.append((str(args.tokenizer), job))
                    job, size = [], 0
            if job:
                jobs.append((str(args.tokenizer), job))
            # Marks are put in by hand: the tokenizer never sees them as text.
            tokens = encode_documents(pool, documents, flat, jobs)
            tokens.tofile(args.out / f"{name}.u16")
            byte_count = sum(len(d.encode("utf-8")) for d in documents)
            note = {"documents": len(documents), "bytes": byte_count, "tokens": len(tokens)}
            (args.out / f"{name}.json").write_text(json.dumps(note) + "\n")
            print(name, note, f"{byte_count / len(tokens):.3f} bytes/token", flush=True)


def encode_documents(pool, documents, flat, jobs) -> np.ndarray:
    encoded = np.concatenate(list(pool.imap(work_with_ends, jobs)))
    # work_with_ends closes each piece with a sentinel; documents' last pieces become END, BEGIN follows.
    sentinel = np.uint16(65535)
    ends = np.flatnonzero(encoded == sentinel)
    assert len(ends) == len(flat)
    last = np.array([i + 1 == len(flat) or flat[i + 1][0] != flat[i][0] for i in range(len(flat))])
    out, start = [], 0
    opening = True
    for end, is_last in zip(ends, last):
        if opening:
            out.append(np.array([BEGIN_ID], dtype=np.uint16))
            opening = False
        out.append(encoded[start:end])
        if is_last:
            out.append(np.array([END_ID], dtype=np.uint16))
            opening = True
        start = end + 1
    return np.concatenate(out)


def work_with_ends(job: tuple[str, list[str]]) -> np.ndarray:
    tokenizer_path, texts = job
    tokenizer = Tokenizer.from_file(tokenizer_path)
    parts = []
    for encoding in tokenizer.encode_batch_fast(texts):
        parts.append(np.array(encoding.ids, dtype=np.uint16))
        parts.append(np.array([65535], dtype=np.uint16))
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
