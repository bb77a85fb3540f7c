#!/usr/bin/env python3
"""Writes the parquet files of the tests with pyarrow, as data sets on the Hub are written.

    make_parquet_fixtures.py [FOLDER]    default: engine/src/test/resources/parquet
"""
import sys

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError:  # nothing else needs it
    sys.exit("pyarrow is needed, which requirements.txt does not have: pip install pyarrow")

import fixture_folder

TEXTS = ["one", "zwei\nZeilen", "trois – «é»", "", "fünf 🌱", "one", "six " * 50]


def main() -> None:
    root = fixture_folder.asked_for(__doc__, "parquet")
    root.mkdir(parents=True, exist_ok=True)
    ids = list(range(len(TEXTS)))
    table = pa.table({"id": ids, "text": TEXTS, "meta": [{"n": i} for i in ids]})
    for codec in ("none", "snappy", "gzip", "zstd"):
        pq.write_table(table, root / f"{codec}.parquet", compression=codec, row_group_size=3)
    pq.write_table(table, root / "plain.parquet", use_dictionary=False, data_page_version="2.0")
    large = table.set_column(1, "text", pa.array(TEXTS, pa.large_string()))
    pq.write_table(large, root / "large_string.parquet")
    pq.write_table(pa.table({"text": ["a", None, "c"]}), root / "null.parquet")
    pq.write_table(pa.table({"content": ["a"]}), root / "no_text.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), root / "numbers.parquet")
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), root / "lists.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), root / "empty.parquet")
    # multiple choice, with the columns of the data sets on the Hub
    choices = [["a", "b", "c", "d"], ["e é", "f", "g", "h"]]
    pq.write_table(pa.table({"ind": [1, 2], "activity_label": ["Run", "Swim"], "ctx_a": ["A man runs.", "She [x] swims."],
                             "ctx_b": ["he", ""], "endings": choices, "label": ["2", "0"]}), root / "hellaswag.parquet")
    pq.write_table(pa.table({"question": ["Why?", "How?"], "subject": ["high_school_biology"] * 2, "choices": choices,
                             "answer": pa.array([3, 1], pa.int64())}), root / "mmlu.parquet")
    pq.write_table(pa.table({"question": ["Why?"], "mc1_targets": [{"choices": ["a", "b"], "labels": [1, 0]}],
                             "mc2_targets": [{"choices": ["a", "b", "c"], "labels": [1, 1, 0]}]}), root / "truthfulqa.parquet")


if __name__ == "__main__":
    main()
