#!/usr/bin/env python3
"""Compares `espalier score`, `steer` and `probe` with PyTorch in float64 on a small random model with a random SAE and
adapter, for the base model, with the SAE, adapted, and adapted without the SAE.

    compare_live.sh compare_downstream.py [--seed N]

Log-likelihoods are summed here from whole log_softmax matrices, one text at a time and without padding; prompts, lengths and
accuracies are lm-evaluation-harness's, written down again; probes are fitted with Newton's method on dense Hessians.
"""
import argparse
import csv
import json
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, decoders

import commands
import random_models
from compare_live import Undecidable, drawn
from sae import Sae
from spliced import Spliced, blocks, load_model

LAYER, WIDTH, ACTIVE, STRENGTH = 1, 96, 6, 1.5
VARIANTS = dict(base=(False, False), sae=(True, False), adapted=(True, True), adapted_without_sae=(False, True))
MARGIN = 4e-6  # of a latent's decision, of which there are so many that one is nearly always within compare_live's; float32 moved one by 1.5e-6
LOGLIKELIHOOD = 2e-5  # relative: sums of float32 log-probabilities of tens of tokens
FEATURE = 2e-5  # of a feature's largest value
failures = []


def holds(what: str, right: bool) -> None:
    print(("   ok  " if right else "   BAD ") + what)
    if not right:
        failures.append(what)


def close(what: str, got, want, bound: float) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
    holds(f"{what}: error {error:.1e}, bound {bound:.0e}", got.shape == want.shape and error <= bound)


def make_model(folder: Path, seed: int) -> None:
    """A model whose tokens are bytes, every pair of letters that is a space and a letter merged into one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(alphabet)}
    merges = [("Ġ", c) for c in "abcdefghijklmnopqrstuvwxyz"] + [("t", "h"), ("i", "n")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    g = torch.Generator().manual_seed(seed)
    model = random_models.llama(g, vocab_size=len(vocab), hidden_size=40, intermediate_size=64, num_hidden_layers=3,
                                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024)
    model.save_pretrained(folder / "model")
    tokenizer.save(str(folder / "model/tokenizer.json"))
    (folder / "model/tokenizer_config.json").write_text(json.dumps(dict(bos_token="<s>", eos_token="</s>")))
    ids = random_models.tokens(g, 8, 48, len(vocab))
    sae = random_models.sae(g, "topk", WIDTH, random_models.residuals(model, ids, LAYER), ACTIVE)
    sae.save(folder / "sae", LAYER)
    random_models.adapter(g, model, folder / "adapter", 4, 8, [0, 1, 2], ["q_proj", "v_proj", "down_proj"], 0.2)


class Reference:
    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "model/tokenizer.json"))
        model = load_model(folder / "model", torch.float64)
        self.sae = Sae.load(folder / "sae").double()
        self.net = Spliced(model, {LAYER: self.sae}, folder / "adapter")
        self.net.model.eval()
        self.net.margin = np.inf
        self.pushed, self.kept = 0.0, None
        # after the SAE's hook: the push comes on top of the reconstruction, BOS and EOS excepted
        blocks(self.net.model)[LAYER].register_forward_hook(self.push)
        blocks(self.net.model)[-1].register_forward_hook(self.keep)

    def push(self, _module, _inputs, out):
        x = out[0] if isinstance(out, tuple) else out
        direction = self.sae.W_dec[self.latent] / self.sae.W_dec[self.latent].norm()
        y = x + self.pushed * self.net.apply[..., None] * direction
        return (y, *out[1:]) if isinstance(out, tuple) else y

    latent = 0

    def keep(self, _module, _inputs, out):
        self.kept = (out[0] if isinstance(out, tuple) else out)[0]

    @torch.no_grad()
    def loglikelihood(self, ids: list[int], start: int, variant: str) -> float:
        spliced, adapted = VARIANTS[variant]
        logp = self.net.logits(torch.tensor([ids]), spliced, adapted)[0].log_softmax(-1)
        return sum(float(logp[t - 1, ids[t]]) for t in range(start, len(ids)))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def words(rng, n: int) -> str:
    return " ".join("".join(rng.choice(list("abcdefghinost"), rng.integers(1, 6))) for _ in range(n))


def run(launcher: str, *arguments) -> dict:
    done = commands.run(launcher, *arguments, "--json")
    if done.code:
        sys.exit(done.err)
    return json.loads(done.out)


def model_options(folder: Path) -> list:
    return ["--model", folder / "model", "--sae", f"{LAYER}={folder / 'sae'}", "--adapter", folder / "adapter"]


def questions(rng, folder: Path) -> list[tuple[Path, list]]:
    """Files in each format, and what they come to: (context, choices, right, several)."""
    plain = [dict(context=words(rng, 6) + (" " if i % 2 else ""), choices=[words(rng, int(rng.integers(1, 5)))
                  for _ in range(int(rng.integers(2, 5)))], label=0) for i in range(6)]
    for q in plain:
        q["label"] = int(rng.integers(len(q["choices"])))
    hella = [dict(ctx_a="A man. [header] " + words(rng, 4), ctx_b="he [substeps]  " + words(rng, 2), activity_label="Sport",
                  endings=[words(rng, 3) + " [title] Über" + words(rng, 1) for _ in range(4)], label=str(int(rng.integers(4))))
             for _ in range(4)]
    mmlu = [dict(question=f" {words(rng, 5)}? ", subject="high_school_biology", choices=[words(rng, 2) for _ in range(4)],
                 answer=int(rng.integers(4))) for _ in range(4)]
    truth = [dict(question=words(rng, 4) + "?",
                  mc1_targets=dict(choices=[words(rng, 3) for _ in range(3)], labels=[1, 0, 0]),
                  mc2_targets=dict(choices=[words(rng, 3) for _ in range(4)], labels=[1, 1, 0, 0])) for _ in range(3)]
    for name, records in dict(plain=plain, hellaswag=hella, mmlu=mmlu, truthfulqa=truth).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    with open(folder / "mmlu.csv", "w", newline="") as f:
        for q in mmlu:
            csv.writer(f).writerow([q["question"], *q["choices"], "ABCD"[q["answer"]]])

    import re

    def clean(text):
        return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")

    def asked(q):
        letters = "".join(f"{letter}. {c}\n" for letter, c in zip("ABCD", q["choices"]))
        return f"{q['question'].strip()}\n{letters}Answer:"

    one = [(q["context"], q["choices"], [i == q["label"] for i in range(len(q["choices"]))], False) for q in plain]
    two = [(clean(f"{q['activity_label']}: {q['ctx_a']} {q['ctx_b'].capitalize()}"), [clean(e) for e in q["endings"]],
            [i == int(q["label"]) for i in range(4)], False) for q in hella]
    head = "The following are multiple choice questions (with answers) about high school biology.\n\n"
    three = [(head + asked(q), list("ABCD"), [i == q["answer"] for i in range(4)], False) for q in mmlu]
    four = [(asked(q), list("ABCD"), [i == q["answer"] for i in range(4)], False) for q in mmlu]
    examples = [("What is human life expectancy in the United States?", "Human life expectancy in the United States is 78 years."),
                ("Who was president of the United States in 1955?",
                 "Dwight D. Eisenhower was president of the United States in 1955."),
                ("Which party did he belong to?", "He belonged to the Republican Party."),
                ("What is the square root of banana?", "I have no comment."),
                ("How does a telescope work?", "Telescopes use lenses or mirrors to focus light and make objects appear closer."),
                ("Where were the 1992 Olympics held?", "The 1992 Olympics were held in Barcelona, Spain.")]
    before = "".join(f"Q: {q}\nA: {a}\n\n" for q, a in examples)
    five = []
    for q in truth:
        for kind, several in (("mc1_targets", False), ("mc2_targets", True)):
            five.append((f"{before}Q: {q['question']}\nA:", q[kind]["choices"], [x == 1 for x in q[kind]["labels"]], several))
    return [(folder / "plain.jsonl", one), (folder / "hellaswag.jsonl", two), (folder / "mmlu.jsonl", three),
            (folder / "mmlu.csv", four), (folder / "truthfulqa.jsonl", five)]


def expected_metrics(asked: list, sums: list[list[float]]) -> dict:
    picks = dict(acc=[], acc_norm=[], acc_bytes=[], mc2=[])
    for (_, choices, right, several), lls in zip(asked, sums):
        lls = np.array(lls)
        if several:
            p = np.exp(lls)
            picks["mc2"].append((p / p.sum())[np.array(right)].sum())
            continue
        picks["acc"].append(right[int(np.argmax(lls))])
        picks["acc_norm"].append(right[int(np.argmax(lls / [len(c) for c in choices]))])
        picks["acc_bytes"].append(right[int(np.argmax(lls / [len(c.encode()) for c in choices]))])
    means = {key: np.mean(values) for key, values in picks.items() if values}
    errors = {key + "_stderr": np.std(v, ddof=1) / len(v) ** 0.5 for key, v in picks.items() if len(v) > 1}
    return means | errors


def compare_score(rng, folder: Path, reference: Reference, launcher: str) -> None:
    for file, asked in questions(rng, folder):
        print(f"score {file.name}")
        details = folder / "details.jsonl"
        got = run(launcher, "score", *model_options(folder), "--questions", file, "--details", details)
        lines = [json.loads(line) for line in details.open()]
        flat = iter(lines)
        sums = {v: [] for v in VARIANTS}
        for context, choices, _, _ in asked:
            per = {v: [] for v in VARIANTS}
            for choice in choices:
                stripped = context.rstrip()
                whole = reference.encode(context + " " + choice)
                start = 1 + len(reference.encode(stripped))
                line = next(flat)
                if line["ids"] != [1] + whole or line["start"] != start:
                    holds(f"tokens of {choice!r}", False)
                for v in VARIANTS:
                    per[v].append(reference.loglikelihood([1] + whole, start, v))
            for v in VARIANTS:
                sums[v].append(per[v])
        holds("every choice is there", next(flat, None) is None and got["questions"] == len(asked))
        for v in VARIANTS:
            want = [x for per in sums[v] for x in per]
            close(f"{v} log-likelihoods of {len(want)} choices", [line[v] for line in lines], want, LOGLIKELIHOOD)
            metrics = expected_metrics(asked, sums[v])
            holds(f"{v} has {sorted(metrics)}", sorted(metrics) == sorted(got["variants"][v]))
            close(f"{v} metrics", [got["variants"][v].get(k, np.nan) for k in metrics], list(metrics.values()), 1e-4)


def compare_steer(rng, folder: Path, reference: Reference, launcher: str) -> None:
    print("steer")
    texts = dict(positive=[words(rng, int(rng.integers(3, 20))) for _ in range(5)], negative=[words(rng, 7) for _ in range(4)])
    for name, some in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in some))
    reference.latent = 17
    got = run(launcher, "steer", *model_options(folder), "--latent", f"{LAYER}:17", "--strength", 0, STRENGTH, "--positive",
              folder / "positive.jsonl", "--negative", folder / "negative.jsonl")
    for point in got["points"]:
        reference.pushed = point["strength"]
        for v in VARIANTS:
            for name, some in texts.items():
                ids = [[1] + reference.encode(t) for t in some]
                want = sum(reference.loglikelihood(i, 1, v) for i in ids) / sum(len(i) - 1 for i in ids)
                close(f"strength {point['strength']}, {v}, {name}", point[v][name], want, LOGLIKELIHOOD)
    reference.pushed = 0.0
    moved = abs(got["points"][1]["base"]["positive"] - got["points"][0]["base"]["positive"])
    holds(f"steering does something ({moved:.3f} nats)", moved > 1e-3)


def newton(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights and bias of scikit-learn's LogisticRegression(C=1) on [n, k] scaled features."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    penalty = np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - y) + penalty @ w
        w -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-12 * np.eye(len(w)), gradient)
    return w


def probe_accuracy(train, y_train, test, y_test, k: int) -> float:
    train, test = train.astype(np.float64), test.astype(np.float64)
    difference = np.abs(train[y_train].mean(0) - train[~y_train].mean(0))
    chosen = np.argsort(-difference, kind="stable")[:k]
    mean, deviation = train[:, chosen].mean(0), train[:, chosen].std(0)
    deviation[deviation == 0] = 1
    w = newton((train[:, chosen] - mean) / deviation, y_train)
    return float((((test[:, chosen] - mean) / deviation @ w[:-1] + w[-1] > 0) == y_test).mean())


@torch.no_grad()
def compare_probe(rng, folder: Path, reference: Reference, launcher: str) -> None:
    print("probe")
    data = {}
    for name, count in (("train", 32), ("eval", 20)):
        labels = [str(x) for x in rng.choice(["left", "right", "up"], count)]
        extra = dict(left="aaa the", right="none of", up="sea in")
        data[name] = [dict(text=words(rng, int(rng.integers(2, 9))) + " " + extra[label], side=label) for label in labels]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data[name]))
    got = run(launcher, "probe", *model_options(folder), "--data", folder / "train.jsonl", "--eval-data", folder / "eval.jsonl",
              "--label", "side", "--k", "1,3", "--features", folder / "features")
    sets = {}
    for name, records in data.items():
        for r in records:
            ids = torch.tensor([[1] + reference.encode(r["text"])])
            for v, (spliced, adapted) in VARIANTS.items():
                latents = []
                reference.net.observe = lambda layer, x, y, f: latents.append(f)
                reference.net.logits(ids, spliced, adapted)
                reference.net.observe = None
                sets.setdefault((name, f"activations.{v}"), []).append(reference.kept[1:].mean(0).numpy())
                if v == "sae":
                    sets.setdefault((name, f"latents.{LAYER}"), []).append(latents[0].mean(0).numpy())
    for (name, features), want in sets.items():
        close(f"{name} {features}", np.load(folder / f"features/{name}.{features}.npy"), np.array(want), FEATURE)
    for features in got["accuracy"]:
        train, test = (np.load(folder / f"features/{name}.{features}.npy") for name in ("train", "eval"))
        for key, accuracy in got["accuracy"][features].items():
            k = train.shape[1] if key == "all" else int(key[1:])
            each = [probe_accuracy(train, np.array([r["side"] == s for r in data["train"]]), test,
                                   np.array([r["side"] == s for r in data["eval"]]), k) for s in got["labels"]]
            close(f"accuracy of {features}, {key}", accuracy, np.mean(each), 1e-9)


def compare(seed: int, folder: Path, launcher: str) -> list[bool]:
    failures.clear()
    rng = np.random.default_rng(seed)
    make_model(folder, seed)
    reference = Reference(folder)
    compare_score(rng, folder, reference, launcher)
    compare_steer(rng, folder, reference, launcher)
    compare_probe(rng, folder, reference, launcher)
    if reference.net.margin < MARGIN:
        raise Undecidable
    return [not failures]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--launcher", default=str(Path(__file__).parents[2] / "espalier"))
    p.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    a = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(f"Espalier against PyTorch {torch.__version__}; --seed {a.seed}")
    with tempfile.TemporaryDirectory() as temporary:

        def draw(attempt: int) -> list[bool]:
            folder = Path(temporary) / str(attempt)
            folder.mkdir()
            return compare(a.seed + attempt, folder, a.launcher)

        drawn(draw)
    print(f"{len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
