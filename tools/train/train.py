#!/usr/bin/env python3
"""Trains a small Engram-MoE model from a folder of texts and writes a folder that engramd serves.

    python tools/train/train.py TEXT_FOLDER MODEL_FOLDER [--minutes 10]

docs/TRAINING.md explains the options. Needs the packages of requirements.txt; the server needs none of this.
"""
import argparse
import os
import sys

# Threads that wait must not burn the processor: the machine may have other work. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from tokenizers import Tokenizer

import checkpoint
import hashing
import run
import shapes
import text
import tokenizer as family


def parse_arguments(arguments):
    p = argparse.ArgumentParser(prog="train.py", description="Trains a small Engram-MoE model from a folder of texts.")
    p.add_argument("text_folder", help="*.txt, *.md and *.jsonl, in this folder and below")
    p.add_argument("model_folder", help="where the checkpoint goes")
    p.add_argument("--minutes", type=float, default=0, help="length of a run [10, where --steps is not given]")
    p.add_argument("--steps", type=int, default=0, help="length of a run in steps")
    p.add_argument("--no-engram", action="store_true", help="a model without Engram tables")
    p.add_argument("--compare", action="store_true",
                   help="also train one without Engram, for as many steps, into MODEL_FOLDER-no-engram")
    p.add_argument("--shape", choices=sorted(shapes.SHAPES), default="pocket", help="size of the model [pocket]")
    p.add_argument("--vocabulary", type=int, default=4096, metavar="N", help="ids of the tokenizer, at most [4096]")
    p.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json of the family, instead of learning one")
    p.add_argument("--engram-rows", type=int, default=16000, metavar="N", help="table rows per hash head [16000]")
    p.add_argument("--documents", choices=sorted(text.CUTS), default="file", help="what a document is [file]")
    p.add_argument("--length", type=int, default=128, metavar="TOKENS", help="of a row of a batch [128]")
    p.add_argument("--rows", type=int, default=16, metavar="N", help="of a batch [16]")
    p.add_argument("--valid", type=float, default=0.05, metavar="SHARE", help="of the text, kept for validation [0.05]")
    p.add_argument("--threads", type=int, default=0, help="compute threads [as many as there are cores]")
    p.add_argument("--seed", type=int, default=1)
    options = p.parse_args(arguments)
    check_arguments(p, options)
    return options


def check_arguments(p, options):
    if options.compare and options.no_engram:
        p.error("--compare trains both models; leave --no-engram out")
    if options.minutes < 0 or options.steps < 0 or options.threads < 0:
        p.error("--minutes, --steps and --threads cannot be negative")
    if not 0 < options.valid < 1:
        p.error("--valid must be between 0 and 1")
    if options.length < 32 or options.length % 32 or options.length > shapes.COMMON["max_position_embeddings"]:
        p.error(f"--length must be a multiple of 32, up to {shapes.COMMON['max_position_embeddings']}")
    if options.rows < 1 or options.engram_rows < 2:
        p.error("--rows and --engram-rows must be at least 1 and 2")
    if not options.minutes and not options.steps:
        options.minutes = 10


def get_tokenizer(options, documents):
    if options.tokenizer:
        tokenizer = Tokenizer.from_file(options.tokenizer)
        ids = [tokenizer.token_to_id(t) for t in (*family.FIRST, *family.LAST)]
        if ids[:3] != [family.BOS_ID, family.EOS_ID, family.PAD_ID] or None in ids:
            raise text.TextError(f"{options.tokenizer}: lacks the family's special tokens or has them at other ids")
        return tokenizer
    return family.learn(text.texts(documents), options.vocabulary)


def report(name, config, outcome, before, after):
    rows = sum(config.get("engram_num_embeddings", []))
    print(f"{name}: {outcome.steps} steps, {outcome.tokens} tokens in {outcome.seconds:.0f} s; {rows} table rows; "
          f"validation loss {before:.4f}, as written {after:.4f}", flush=True)


def train_one(name, config, addresser, options, budget, data, tokenizer, folder):
    """Trains, writes and reads back one model -> (Outcome, validation loss of what was written)."""
    print(f"{name}: training into {folder}", flush=True)
    training, validation = data
    packer = text.Packer(config, addresser, options.rows, options.length)
    model, outcome = run.train(config, packer, training, budget, options.seed)
    before = run.validate(model, packer, validation)
    checkpoint.save(model, tokenizer, folder)
    after = run.validate(checkpoint.load(folder), packer, validation)
    report(name, config, outcome, before, after)
    return outcome, after


def prepare(options):
    """The text, cut and counted -> tokenizer, its classes, (training, validation)."""
    documents = text.read_folder(options.text_folder, options.documents)
    tokenizer = get_tokenizer(options, documents)
    data = text.split(text.pieces_of(documents, tokenizer, options.length), options.valid, options.seed)
    counts = [sum(map(len, pieces)) for pieces in data]
    print(f"{len(documents)} documents; {tokenizer.get_vocab_size()} ids; {counts[0]} tokens to train on, "
          f"{counts[1]} to validate with", flush=True)
    return tokenizer, hashing.token_classes(tokenizer), data


def main(arguments):
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads or os.cpu_count())
    tokenizer, classes, data = prepare(options)
    budget = run.Budget(options.steps, options.minutes * 60)

    def one(name, engram_rows, budget, folder):
        config = shapes.make_config(options.shape, tokenizer.get_vocab_size(), engram_rows, classes)
        addresser = hashing.Addresser(classes, config) if engram_rows else None
        return train_one(name, config, addresser, options, budget, data, tokenizer, folder)

    if options.no_engram:
        one("without Engram", 0, budget, options.model_folder)
        return
    outcome, loss = one("with Engram", options.engram_rows, budget, options.model_folder)
    if options.compare:
        same = run.Budget(steps=outcome.steps)
        _, other = one("without Engram", 0, same, options.model_folder.rstrip("/") + "-no-engram")
        print(f"validation loss after {outcome.steps} steps: with Engram {loss:.4f}, without {other:.4f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (text.TextError, OSError, ValueError) as e:
        sys.exit(f"train.py: {e}")
