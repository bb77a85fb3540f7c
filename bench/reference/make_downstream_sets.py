#!/usr/bin/env python3
"""Makes sets for `espalier probe`, `score` and `steer` from texts whose ids are YEAR_PRESIDENT_PARTY, such as the State of the
Union addresses of ../shared/models/text.

    make_downstream_sets.py sets TRAIN.jsonl EVAL.jsonl OUT [--texts 300 --questions 200 --seed 1]
        OUT/probe-train.jsonl, OUT/probe-eval.jsonl   pieces of texts with party, century, president; no address is in both
        OUT/questions.jsonl                           two sentences of EVAL, the one that follows and three from elsewhere
    make_downstream_sets.py steering OUT/probe-train.jsonl FEATURES.npy OUT [--latent N] [--texts 30]
        OUT/positive.jsonl, OUT/negative.jsonl        the texts with most of a latent, and others without any of it; FEATURES is
                                                      train.latents.LAYER.npy of `probe --features`; the latent's number is printed
"""
import argparse
import json
import re
from pathlib import Path

import numpy as np

PIECE = 600  # characters: more than the 128 tokens that `probe` reads by default
PARTIES = dict(d="Democratic", r="Republican")


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


def write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{path}: {len(lines)}")


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?]) +", re.sub(r"\s+", " ", text)) if 40 <= len(s) <= 250]


def pieces(documents: list[dict], rng: np.random.Generator, count: int) -> list[dict]:
    """As many of either party, from as many addresses as there are."""
    found: dict[str, list[dict]] = {name: [] for name in PARTIES.values()}
    for document in documents:
        year, *president, party = document["id"].split("_")
        if party in PARTIES:
            text = re.sub(r"\s+", " ", document["text"])
            for at in range(0, len(text) - PIECE, PIECE):
                found[PARTIES[party]].append(dict(text=text[at:at + PIECE], party=PARTIES[party], century=int(year) // 100 + 1,
                                                  president=" ".join(president), id=document["id"]))
    return [p for some in found.values() for p in (some[i] for i in rng.permutation(len(some))[:count // 2])]


def sets(a: argparse.Namespace) -> None:
    rng = np.random.default_rng(a.seed)
    train, held = records(a.train), records(a.eval)
    write(a.out / "probe-train.jsonl", pieces(train, rng, a.texts))
    write(a.out / "probe-eval.jsonl", pieces(held, rng, a.texts))
    split = [sentences(d["text"]) for d in held]
    questions = []
    while len(questions) < a.questions:
        here = int(rng.integers(len(split)))
        if len(split[here]) < 4:
            continue
        at = int(rng.integers(len(split[here]) - 3))
        others = [split[int(j)] for j in rng.choice([j for j in range(len(split)) if j != here and split[j]], 3)]
        choices = [split[here][at + 2], *(o[int(rng.integers(len(o)))] for o in others)]
        order = rng.permutation(4)
        questions.append(dict(context=" ".join(split[here][at:at + 2]), choices=[choices[i] for i in order],
                              label=int(np.argmin(order))))
    write(a.out / "questions.jsonl", questions)


def steering(a: argparse.Namespace) -> None:
    texts, features = records(a.train), np.load(a.features)
    latent = a.latent
    if latent is None:  # one that is active in a tenth of the texts, and there as strongly as any
        often = (features > 0).mean(0)
        latent = int(np.where((often > 0.05) & (often < 0.2), features.max(0), -1).argmax())
    order = np.argsort(-features[:, latent])
    silent = [i for i in order[::-1] if features[i, latent] == 0][:a.texts]
    print(f"latent {latent}: active in {(features[:, latent] > 0).mean():.1%} of the texts")
    write(a.out / "positive.jsonl", [texts[i] for i in order[:a.texts]])
    write(a.out / "negative.jsonl", [texts[i] for i in silent])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True)
    for name, run, files in (("sets", sets, ("train", "eval", "out")), ("steering", steering, ("train", "features", "out"))):
        command = commands.add_parser(name)
        for file in files:
            command.add_argument(file, type=Path)
        command.add_argument("--texts", type=int, default=300 if run is sets else 30)
        command.add_argument("--questions", type=int, default=200)
        command.add_argument("--latent", type=int)
        command.add_argument("--seed", type=int, default=1)
        command.set_defaults(run=run)
    a = p.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
