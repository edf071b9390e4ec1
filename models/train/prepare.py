"""Splits the corpus into training and held-out documents and removes what overlaps.

Held-out novels never reach training, not even as a passage inside another file: paragraphs
of training text that share most of their 8-word shingles with held-out books are dropped.
"""

import argparse
import json
import lzma
import pathlib
import re

import numpy as np

SEPARATOR = "\n\x1e\n"
SHINGLE_WORDS = 8
WORD = re.compile(r"[a-z0-9]+")


def read_text(corpus: pathlib.Path, name: str) -> str:
    packed = corpus / f"{name}.txt.xz"
    data = lzma.decompress(packed.read_bytes()) if packed.exists() else (corpus / f"{name}.txt").read_bytes()
    return data.decode("utf-8")


class Shingler:
    """Maps text to hashes of every run of SHINGLE_WORDS words, case and punctuation ignored."""

    def __init__(self) -> None:
        self.word_ids: dict[str, int] = {}
        rng = np.random.default_rng(1)
        self.factors = rng.integers(1, 2**63, SHINGLE_WORDS, dtype=np.uint64) | np.uint64(1)
        self.mixed = rng.integers(0, 2**63, 2**21, dtype=np.uint64)

    def __call__(self, text: str) -> np.ndarray:
        ids = self.word_ids
        words = np.array([ids.setdefault(w, len(ids)) for w in WORD.findall(text.lower())], dtype=np.int64)
        count = len(words) - SHINGLE_WORDS + 1
        if count <= 0:
            return np.empty(0, dtype=np.uint64)
        mixed = self.mixed[words % len(self.mixed)]
        total = np.zeros(count, dtype=np.uint64)
        for i, factor in enumerate(self.factors):
            total += mixed[i : i + count] * factor
        return total


def contained(shingles: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which shingles occur in the sorted array `known`."""
    if len(known) == 0 or len(shingles) == 0:
        return np.zeros(len(shingles), dtype=bool)
    places = np.minimum(np.searchsorted(known, shingles), len(known) - 1)
    return known[places] == shingles


def split_stories(text: str) -> list[str]:
    """Each half of the file ends with a table of titles; a paragraph equal to a title opens a story."""
    titles = set(re.findall(r"\| \[(.+?)\]\(http", text))
    stories: list[list[str]] = []
    for paragraph in text.split("\n\n"):
        paragraph = paragraph.strip()
        if not paragraph or "](http" in paragraph or paragraph.startswith("Story ID |"):
            continue
        if paragraph in titles or not stories:
            stories.append([])
        stories[-1].append(paragraph)
    return ["\n\n".join(s) for s in stories if sum(map(len, s)) > 200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    meta = json.loads((args.corpus / "novels.json").read_text(encoding="utf-8"))
    novels = read_text(args.corpus, "novels").split(SEPARATOR)
    assert len(novels) == len(meta), "novels.txt and novels.json disagree"
    prose = read_text(args.corpus, "more-prose").split(SEPARATOR)
    classics_text = read_text(args.corpus, "children-classics")
    # Chapters are joined by bare line feeds, while lines inside a chapter end in CR LF.
    chapters = [c.replace("\r\n", "\n").strip() for c in re.split(r"(?<!\r)\n\n", classics_text)]
    chapters = [c for c in chapters if len(c) > 200]
    stories = split_stories(read_text(args.corpus, "children-stories"))

    # Both ways to count "every 20th": the books at 0, 20, … test, those at 19, 39, … choose checkpoints.
    splits: dict[str, list[str]] = {
        "test-novels": novels[0::20],
        "dev-novels": novels[19::20],
    }
    train_novels = [b for i, b in enumerate(novels) if i % 20 not in (0, 19)]

    shingler = Shingler()
    held = np.unique(np.concatenate([shingler(b) for n in ("test-novels", "dev-novels") for b in splits[n]]))
    dropped = {"paragraphs": 0, "bytes": 0}

    def without_held(document: str) -> str:
        """Drops paragraphs that are mostly held-out text (a whole document is first screened at once)."""
        if contained(shingler(document), held).mean() < 0.001:
            return document
        kept = []
        for paragraph in document.split("\n\n"):
            hits = contained(shingler(paragraph), held)
            if len(hits) >= 4 and hits.mean() > 0.3:
                dropped["paragraphs"] += 1
                dropped["bytes"] += len(paragraph.encode())
            else:
                kept.append(paragraph)
        return "\n\n".join(kept)

    splits["train-novels"] = [without_held(b) for b in train_novels]
    splits["train-prose"] = [without_held(b) for b in prose]
    clean_chapters = [without_held(c) for c in chapters]
    books = np.unique(
        np.concatenate([shingler(b) for n in ("train-novels", "train-prose") for b in splits[n]] + [held])
    )
    own, overlapping = [], []
    for chapter, original in zip(clean_chapters, chapters):
        if len(chapter) < 0.8 * len(original):
            continue  # mostly held-out text
        hits = contained(shingler(chapter), books)
        (overlapping if len(hits) and hits.mean() > 0.2 else own).append(chapter)

    # Runs of consecutive chapters, so that a held-out stretch has few neighbours in training.
    block = 10
    splits["dev-classics"] = [c for i, c in enumerate(own) if (i // block) % 13 == 6]
    splits["train-classics"] = [c for i, c in enumerate(own) if (i // block) % 13 != 6]
    splits["train-overlap"] = overlapping
    splits["dev-stories"] = stories[10::20]
    splits["train-stories"] = [s for i, s in enumerate(stories) if i % 20 != 10]

    report = {"dropped": dropped, "splits": {}}
    for name, documents in splits.items():
        documents = [d.strip("\n") for d in documents if d.strip()]
        data = SEPARATOR.join(documents).encode("utf-8")
        (args.out / f"{name}.txt").write_bytes(data)
        report["splits"][name] = {"documents": len(documents), "bytes": sum(len(d.encode()) for d in documents)}
    report["heldOutTitles"] = {"test": [m[0] for m in meta[0::20]], "dev": [m[0] for m in meta[19::20]]}
    (args.out / "splits.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(report["splits"]), dropped)


if __name__ == "__main__":
    main()
