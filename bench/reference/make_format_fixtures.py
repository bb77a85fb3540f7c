#!/usr/bin/env python3
"""Writes files with the libraries that Espalier must agree with, for the tests of its readers: safetensors with every
element type, NumPy arrays of every layout, a tokenizer with the ids that it gives.

    make_format_fixtures.py [FOLDER]        default: engine/src/test/resources/format
"""
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import fixture_folder

REALS = [-1.5, 0.25, 3.0, -0.0, 1024.0, -2.0**-10]  # exact in every floating type
INTEGERS = [[0, 1, 2], [40, 100, 127]]
TEXTS = ["The vine is tied to the wall, and grows.", "  two  spaces\n\tand 1234 digits ", "naïve façade — 日本語 🌿", ""]


def write_output_adapter(folder: Path) -> None:
    """Espalier's own layout: adapters at the outputs of the SAEs of two layers."""
    generator = torch.Generator().manual_seed(1)
    save_file({f"layer.{layer}.{name}": torch.randn(*shape, generator=generator)
               for layer in (3, 11) for name, shape in (("down", (2, 5)), ("up", (5, 2)))},
              folder / "output_adapter.safetensors", metadata={"kind": "mlp", "format": "pt"})


def write_safetensors(folder: Path) -> None:
    floats = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16)
    integers = dict(I64=torch.int64, I32=torch.int32, I16=torch.int16, I8=torch.int8, U64=torch.uint64,
                    U32=torch.uint32, U16=torch.uint16, U8=torch.uint8)
    tensors = {name: torch.tensor(REALS, dtype=dtype).reshape(2, 3) for name, dtype in floats.items()}
    tensors |= {name: torch.tensor(INTEGERS).to(dtype) for name, dtype in integers.items()}
    tensors |= {"BOOL": torch.tensor([True, False, True]), "scalar": torch.tensor(0.5), "empty": torch.zeros(0, 3),
                "näme.with.dots": torch.tensor([7.0])}
    save_file(tensors, folder / "types.safetensors", metadata={"format": "pt", "note": "every type"})


def write_arrays(folder: Path) -> None:
    for kind in ("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", ">i2", ">u4", ">i8"):
        np.save(folder / f"{kind.replace('<', '').replace('>', 'big-')}.npy", np.array(INTEGERS, dtype=kind))
    np.save(folder / "columns.npy", np.asfortranarray(np.array(INTEGERS, dtype=np.int32)))
    for kind in ("<f4", "<f8", ">f4"):
        np.save(folder / f"{kind.replace('<', '').replace('>', 'big-')}.npy", np.array(REALS, dtype=kind).reshape(2, 3))
    for version in (2, 3):
        with open(folder / f"version{version}.npy", "wb") as file:
            np.lib.format.write_array(file, np.array(INTEGERS, dtype=np.int32), version=(version, 0))


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE whose file asks for BOS, truncation and padding: packing wants none of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<bos>", "<eos>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_id=1, pad_token="<eos>")
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"), pretty=False)
    (folder / "tokenizer/expected.json").write_text(json.dumps(dict(texts=TEXTS, ids=ids), indent=1) + "\n")


if __name__ == "__main__":
    target = fixture_folder.asked_for(__doc__, "format")
    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(target)
    write_output_adapter(target)
    write_arrays(target)
    write_tokenizer(target)
