"""Holds the object that `espalier evaluate --metrics all --json` prints against metrics.py."""
import numpy as np

# Relative, of sums over many tokens of float32 values.
METRIC = 1e-5
# Of the buckets that quantiles are taken from.
QUANTILE = 2.0**-12


def compare(group, got: dict, want: dict, single: dict) -> None:
    """`single`: the metrics of PyTorch's float32, a yardstick."""
    compare_scores(group, "", got, want, single)
    if "ce_adapted" in want:
        for key in ("ce_adapted", "kl_adapted"):
            group.close(key, got.get(key), want[key], single[key], METRIC)
        # A quotient of differences of CEs: the CEs' error over the gap.
        group.close("gap_closed", got.get("gap_closed"), want["gap_closed"], single["gap_closed"], METRIC,
                    scale=(want["ce_sae"] + want["ce_adapted"]) / abs(want["ce_sae"] - want["ce_base"]))
    group.holds(f"SAEs {list(got['saes'])}", list(got["saes"]) == [str(layer) for layer in sorted(want["saes"])])
    for layer, sae in want["saes"].items():
        theirs, near = got["saes"].get(str(layer), {}), single["saes"][layer]
        compare_scores(group, f"layer {layer} ", theirs, sae, near)
        for key in sorted(set(sae) - set(SCORES)):
            # explained_variance and fvu are 1 minus each other: the smaller one has the larger's error
            group.close(f"layer {layer} {key}", theirs.get(key), sae[key], near[key], METRIC,
                        scale=max(abs(sae[key]), 0.1 if key in ("explained_variance", "fvu") else 1e-9))
    for name, tokens in want["tokens"].items():
        compare_tokens(group, f"{name} tokens: ", got.get("token_loss_differences", {}).get(name, {}), tokens,
                       single["tokens"][name], want["ce_base"])
    for name, layers in want["activations"].items():
        theirs = got.get("activation_distance", {}).get(name, [])
        group.holds(f"{name}: distances after {len(theirs)} blocks", len(theirs) == len(layers))
        for i, (line, sums, near) in enumerate(zip(theirs, layers, single["activations"][name])):
            group.holds(f"{name}: block {i} is called {line.get('layer')}", line.get("layer") == i)
            for key in sums:
                # below the first SAE nothing differs: exactly 0
                scale = 1.0 if key.startswith("cosine") else sums["l2"] or 1e-30
                group.close(f"{name} block {i} {key}", line.get(key), sums[key], near[key], METRIC, scale=scale)


SCORES = ("ce_base", "ce_sae", "ce_abl", "ce_loss_score", "kl_sae", "kl_abl", "kl_div_score")


def compare_scores(group, what: str, got: dict, want: dict, single: dict) -> None:
    scale = dict(ce_loss_score=(want["ce_abl"] + want["ce_sae"]) / abs(want["ce_abl"] - want["ce_base"]), kl_div_score=1)
    for key in SCORES:
        group.close(what + key, got.get(key), want[key], single[key], METRIC, scale=scale.get(key))


def compare_tokens(group, what: str, got: dict, want: dict, single: dict, ce: float) -> None:
    group.holds(f"{what}{got.get('tokens')} for {want['tokens']}", got.get("tokens") == want["tokens"])
    for key in ("mean", "mean_absolute"):
        group.close(what + key, got.get(key), want[key], single[key], METRIC, scale=ce)
    error = METRIC * ce  # of a token's difference
    for q, size in want["quantiles"].items():
        theirs = got.get("quantiles_absolute", {}).get(q, np.nan)
        group.holds(f"{what}quantile {q}: {theirs} for {size}", abs(theirs - size) <= QUANTILE * size + error)
    histogram = got.get("histogram_absolute", {})
    edges, counts = histogram.get("log10_edges", []), histogram.get("counts", [])
    group.holds(f"{what}bins from {edges[:1]} to {edges[-1:]}", np.allclose(edges, np.linspace(-5, 1, 61), atol=1e-12))
    group.holds(f"{what}counts do not add up",
                histogram.get("below", 0) + sum(counts) + histogram.get("above", 0) == want["tokens"])
    below = histogram.get("below", 0)
    for edge, count in zip(edges, [*counts, 0]):
        least, most = (int((want["sizes"] < 10.0**edge + e).sum()) for e in (-error, error))
        group.holds(f"{what}{below} below 1e{edge:.1f}, not {least} to {most}", least <= below <= most)
        below += count
