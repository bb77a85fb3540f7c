#!/usr/bin/env python3
"""What a GPU did while CUDA graphs ran, from what gpu_timeline.cpp wrote down: gpu_timeline.py FILE.tsv [KEY=VALUE...]

One line of JSON, with the keys given: how much of a graph's time nothing ran on the GPU, and how long it waits for the host
between two graphs; medians over the launches of the graph that came last. Then its kernels by time.

Tracing makes launching a graph as slow as a millisecond, in which the GPU already works on its first nodes and waits for
others: only what comes after the launch is counted.
"""
import collections
import json
import re
import statistics
import subprocess
import sys
from typing import NamedTuple


class Work(NamedTuple):
    start: int  # ns
    end: int
    graph: int
    launch: int
    name: str


def read(path: str) -> list:
    with open(path, encoding="utf-8") as lines:
        fields = (line.rstrip("\n").split("\t", 4) for line in lines)
        return sorted(Work(*map(int, f[:4]), f[4]) for f in fields)


def short_names(names: set) -> dict:
    """Of C++ kernels, without namespaces and parameters."""
    ordered = sorted(names)
    shown = subprocess.run(["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True).stdout
    pairs = zip(ordered, shown.split("\n"))
    return {name: re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|\(.*|^void ", "", text) for name, text in pairs}


def idle(work: list, begin: int) -> int:
    """Nanoseconds from `begin` to the end of the work in which none of it ran."""
    at, waited = begin, 0
    for w in work:
        waited += max(0, w.start - at)
        at = max(at, w.end)
    return waited


def main() -> None:
    work = read(sys.argv[1])
    keys = dict(pair.split("=", 1) for pair in sys.argv[2:])
    calls = {w.launch: w for w in work if w.name == "cudaGraphLaunch"}
    last_graph = max((w for w in work if w.graph), key=lambda w: w.start).graph
    launches = collections.defaultdict(list)
    for w in work:
        if w.graph == last_graph:
            launches[w.launch].append(w)
    steps = sorted(launches.items(), key=lambda item: item[1][0].start)[1:]  # the first one is uploaded, too
    shares, waits = [], []
    for i, (launch, nodes) in enumerate(steps):
        begin, end = max(calls[launch].end, nodes[0].start), max(w.end for w in nodes)
        shares.append(idle([w for w in nodes if w.end > begin], begin) / (end - begin))
        if i + 1 < len(steps):
            waits.append(steps[i + 1][1][0].start - end)
    busy = [sum(w.end - w.start for w in nodes) / 1e6 for _, nodes in steps]
    print(json.dumps(dict(measured="timeline", side="espalier", **keys, steps=len(steps), nodes=len(steps[-1][1]),
                          kernels_ms=statistics.median(busy), outside_kernels=statistics.median(shares),
                          between_steps_ms=statistics.median(waits) / 1e6 if waits else None)))
    names = short_names({w.name for w in steps[-1][1]})
    total, count = collections.Counter(), collections.Counter()
    for w in steps[-1][1]:
        total[names[w.name]] += w.end - w.start
        count[names[w.name]] += 1
    for name, ns in total.most_common():
        print(f"{ns / 1e3:9.1f} us  {count[name]:4d} x {ns / 1e3 / count[name]:8.1f}  {name}")


if __name__ == "__main__":
    main()
