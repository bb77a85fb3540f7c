#!/usr/bin/env python3
"""What numpy's OpenBLAS takes for products of given shapes, each in one call, alone.

    gemm_rates.py [--threads 2] 'NT 512 1536 576' ...

A shape is: whether op(a)[m, k] and op(b)[k, n] are stored as they are (N) or transposed (T), then m, n, k. Prints one JSON
object: seconds of each shape (the median of calls that go on for --seconds, at least 5) and what library it was.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path

WARM = 2
LEAST = 5


def blas_of(numpy_folder: Path) -> str:
    """OpenBLAS's own words about itself; wheels of numpy bring it under a prefix of their own."""
    for library in sorted((numpy_folder.parent / "numpy.libs").glob("*openblas*")):
        describe = ctypes.CDLL(str(library)).scipy_openblas_get_config64_
        describe.restype = ctypes.c_char_p
        return describe().decode()
    raise SystemExit("this numpy does not come with OpenBLAS: the limit is to be OpenBLAS's")


def seconds(np, shape: str, least_seconds: float) -> float:
    stored, m, n, k = shape.split()
    m, n, k = int(m), int(n), int(k)
    random = np.random.default_rng(1)
    a = random.standard_normal((k, m) if stored[0] == "T" else (m, k), np.float32)
    b = random.standard_normal((n, k) if stored[1] == "T" else (k, n), np.float32)
    c = np.empty((m, n), np.float32)
    a = a.T if stored[0] == "T" else a
    b = b.T if stored[1] == "T" else b
    times, begin = [], time.perf_counter()
    while len(times) < WARM + LEAST or time.perf_counter() - begin < least_seconds:
        start = time.perf_counter()
        np.matmul(a, b, out=c)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM:])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("shapes", nargs="+")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--seconds", type=float, default=0.3, help="a shape")
    a = p.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(a.threads)  # read when it is loaded
    import numpy as np

    blas = blas_of(Path(np.__file__).parent)
    json.dump(dict(blas=blas, threads=a.threads, seconds={s: seconds(np, s, a.seconds) for s in a.shapes}), sys.stdout)


if __name__ == "__main__":
    main()
