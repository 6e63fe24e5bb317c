"""From a folder of texts to batches of token ids.

Files: *.txt and *.md (plain text), *.jsonl (one object per line: {"text": "..."}, or {"messages": [{"role": "user" or
"assistant", "content": "..."}, ...]} for a chat). A document is a file, a paragraph or a line, as asked for; a line of
*.jsonl always is one.
"""
import collections
import dataclasses
import json
import math
import os
import random
import re

import numpy as np
import torch

import tokenizer as family

PLAIN, LINES = (".txt", ".md"), ".jsonl"
LOOK_AHEAD = 16  # pieces per row that a batch chooses from
CUTS = {"file": None, "paragraph": r"\n\s*\n", "line": r"\n"}


class TextError(Exception):
    """A sentence for the user about the text folder."""


@dataclasses.dataclass
class Document:
    """turns: what follows what, as (marker in front, text, is an answer ended by EOS)."""
    turns: list


# --- reading -----------------------------------------------------------------------------------------------------


def _chat(record, where):
    turns = []
    for message in record["messages"]:
        if message.get("role") not in ("user", "assistant") or not isinstance(message.get("content"), str):
            raise TextError(f"{where}: a message needs a role, user or assistant, and a content that is text")
        if message["role"] == "user":
            turns.append(((family.USER,), message["content"], False))
        else:
            turns.append(((family.ASSISTANT, family.END_THINK), message["content"], True))
    return Document(turns)


def _json_lines(text, path):
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TextError(f"{where}: not valid JSON: {error}") from None
        if isinstance(record, dict) and isinstance(record.get("messages"), list):
            yield _chat(record, where)
        elif isinstance(record, dict) and isinstance(record.get("text"), str):
            yield Document([((), record["text"], True)])
        else:
            raise TextError(f'{where}: needs "text" or "messages"')


def _plain(text, cut):
    pieces = re.split(CUTS[cut], text) if CUTS[cut] else [text]
    return [Document([((), piece.strip("\n"), True)]) for piece in pieces if piece.strip()]


def read_folder(folder, cut):
    """All documents below the folder, in the order of the files' names. cut: file, paragraph or line."""
    documents = []
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(where, name)
            if not name.endswith((*PLAIN, LINES)):
                continue
            try:
                with open(path, encoding="utf-8") as f:
                    text = f.read()
            except UnicodeDecodeError:
                raise TextError(f"{path}: not UTF-8") from None
            documents += _json_lines(text, path) if name.endswith(LINES) else _plain(text, cut)
    if not documents:
        raise TextError(f"{folder}: no text in it; files must end with {', '.join(PLAIN)} or {LINES}")
    return documents


def texts(documents):
    """The bare texts, for the tokenizer to learn from."""
    return (text for document in documents for _, text, _ in document.turns)


# --- ids ---------------------------------------------------------------------------------------------------------


def encode(document, tokenizer):
    """Ids of a document, without a BOS in front."""
    ids = []
    for markers, text, is_answer in document.turns:
        ids += [tokenizer.token_to_id(marker) for marker in markers]
        ids += tokenizer.encode(text, add_special_tokens=False).ids
        ids += [family.EOS_ID] if is_answer else []
    return ids


def pieces_of(documents, tokenizer, length):
    """Documents as arrays of at most `length` ids, each with a BOS in front, as a prompt will have it."""
    pieces = []
    for document in documents:
        ids = encode(document, tokenizer)
        for start in range(0, len(ids), length - 1):
            piece = np.array([family.BOS_ID, *ids[start:start + length - 1]], np.int64)
            if len(piece) > 1:
                pieces.append(piece)
    return pieces


def split(pieces, valid_share, seed):
    """Shuffled, then (for training, for validation); at least one piece each."""
    if len(pieces) < 2:
        raise TextError("the text is too short: training and validation need a piece each; try --documents paragraph")
    pieces = list(pieces)
    random.Random(seed).shuffle(pieces)
    n_valid = min(max(1, round(len(pieces) * valid_share)), len(pieces) - 1)
    return pieces[n_valid:], pieces[:n_valid]


# --- batches -----------------------------------------------------------------------------------------------------


def alignment(config):
    """Documents that share a row must begin at multiples of this, so that no group of compressed tokens and no block of
    candidates holds two of them."""
    ratios = [r for r in config["compress_ratios"] if r]
    source = config["candidate_source_layer_id"]
    block = config["candidate_block_size"] * config["compress_ratios"][source] if source >= 0 else 1
    return math.lcm(block, *ratios)


@dataclasses.dataclass
class Batch:
    """All int64 [B, T] but the mask. targets: the next id where counted [B, T] is set."""
    ids: torch.Tensor
    rows: list  # per Engram layer [B, T, columns]
    positions: torch.Tensor
    documents: torch.Tensor
    targets: torch.Tensor
    counted: torch.Tensor


class Packer:
    """Fills batches with pieces, several to a row."""

    def __init__(self, config, addresser, n_rows, length):
        self.step, self.addresser = alignment(config), addresser
        self.n_rows, self.length = n_rows, length

    def batches(self, pieces):
        """Batches with all the pieces. One that does not fit waits for the next batch; others may overtake it."""
        waiting = collections.deque(pieces)
        while waiting:
            yield self._fill(waiting)

    def endless(self, pieces, seed):
        """Batches for ever, the pieces in a new order each time round."""
        order = random.Random(seed)
        while True:
            yield from self.batches(order.sample(pieces, len(pieces)))

    def _fill(self, waiting):
        """A batch of the pieces in front, each in the emptiest row; they leave `waiting`."""
        shape = (self.n_rows, self.length)
        ids, targets = np.full(shape, family.PAD_ID), np.full(shape, family.PAD_ID)
        positions, documents, counted = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
        filled, late = [0] * self.n_rows, []
        for number in range(1, min(len(waiting), LOOK_AHEAD * self.n_rows) + 1):
            piece = waiting.popleft()
            row = min(range(self.n_rows), key=filled.__getitem__)
            start, n = filled[row], len(piece)
            if start + n > self.length:
                late.append(piece)
                continue
            end = min(start + -(-n // self.step) * self.step, self.length)
            ids[row, start:start + n] = piece
            targets[row, start:start + n - 1] = piece[1:]
            counted[row, start:start + n - 1] = True
            positions[row, start:end] = np.arange(end - start)
            documents[row, start:end] = number
            filled[row] = end
        waiting.extendleft(reversed(late))
        for row, end in enumerate(filled):  # the rest is a document of its own that nobody counts
            positions[row, end:] = np.arange(self.length - end)
        return self._batch(ids, positions, documents, targets, counted)

    def _batch(self, ids, positions, documents, targets, counted):
        rows = self.addresser.rows(ids, positions) if self.addresser else []
        tensors = [torch.from_numpy(a) for a in (ids, positions, documents, targets, counted)]
        return Batch(tensors[0], [torch.from_numpy(r) for r in rows], *tensors[1:])
