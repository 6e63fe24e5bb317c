#!/usr/bin/env python3
"""Checkpoints that are broken in some way: each is refused with exit code 1 and one sentence that names what is wrong.
A golden model is copied, one thing in it spoiled, and the program started on it."""
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import harness
from harness import Case, Server, main

FIXTURES = os.environ.get("ENGRAMD_FIXTURES") or os.environ.get("ENGRAMD_GOLDEN_DEFAULT") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "golden")
SOURCE = os.path.join(FIXTURES, "models", "4-released", "checkpoint")
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "norm.weight"                            # of SHARD, BF16 [128], data 0..256
SINK = "layers.0.attn.attn_sink"                # of SHARD, F32 [4]
SCALE = "layers.0.attn.wkv.scale"               # of SHARD, F8_E8M0 [2, 4]
EXPERT = "layers.0.ffn.experts.0.w2.weight"     # of SHARD, packed FP4 as I8 [128, 32]


class Model:
    """A private copy of the golden model."""

    def __init__(self, folder):
        self.dir = folder
        shutil.copytree(SOURCE, folder)
        for name in os.listdir(folder):
            os.chmod(os.path.join(folder, name), 0o644)

    def path(self, name):
        return os.path.join(self.dir, name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())

    def json(self, name, change):
        value = json.loads(self.read(name))
        change(value)
        self.write(name, json.dumps(value))

    def text_config(self, **fields):
        """None removes."""
        def change(c):
            for key, value in fields.items():
                if value is None:
                    del c["text_config"][key]
                else:
                    c["text_config"][key] = value
        self.json("config.json", change)

    def header(self, change, shard=SHARD):
        """change gets the header's object; the data stays as it is."""
        data = self.read(shard)
        n = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + n])
        text = change(header)
        text = json.dumps(header).encode() if text is None else text
        text += b" " * (-len(text) % 8)
        self.write(shard, struct.pack("<Q", len(text)) + text + data[8 + n:])

    def tensor(self, name, **fields):
        self.header(lambda h: h[name].update(fields))

    def index(self, change):
        self.json(INDEX, lambda i: change(i["weight_map"]))


def drop_tensor(m, name):
    """From header, index and data: bytes that belong to no tensor would be another fault."""
    data = m.read(SHARD)
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    begin, end = header.pop(name)["data_offsets"]
    for key, t in header.items():
        if key != "__metadata__" and t["data_offsets"][0] >= end:
            t["data_offsets"] = [x - (end - begin) for x in t["data_offsets"]]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    m.write(SHARD, struct.pack("<Q", len(text)) + text + data[8 + n:8 + n + begin] + data[8 + n + end:])
    m.index(lambda w: w.pop(name))


def rename_tensor(m, old, new):
    m.header(lambda h: h.update({new: h.pop(old)}))
    m.index(lambda w: w.update({new: w.pop(old)}))


def duplicate(header):
    text = json.dumps(header)
    return (text[:-1] + ', "%s": %s}' % (NORM, json.dumps(header[NORM]))).encode()


def cut(m, name, size):
    m.write(name, m.read(name)[:size])


# what is broken, how, and what the sentence must name
BROKEN = [
    # files
    ("folder is a file", lambda m: (shutil.rmtree(m.dir), open(m.dir, "w").close()), "config.json|not a folder|directory"),
    ("folder is missing", lambda m: shutil.rmtree(m.dir), "config.json"),
    ("no config", lambda m: os.remove(m.path("config.json")), "config.json"),
    ("no tokenizer", lambda m: os.remove(m.path("tokenizer.json")), "tokenizer.json"),
    ("no shard", lambda m: os.remove(m.path(SHARD)), SHARD),
    ("no weights", lambda m: [os.remove(m.path(n)) for n in os.listdir(m.dir) if "safetensors" in n], "safetensors"),
    ("config is a folder", lambda m: (os.remove(m.path("config.json")), os.mkdir(m.path("config.json"))), "config.json"),
    ("shard is empty", lambda m: m.write(SHARD, b""), SHARD),
    ("shard of seven bytes", lambda m: cut(m, SHARD, 7), SHARD),
    ("shard cut in the header", lambda m: cut(m, SHARD, 1000), SHARD),
    ("shard cut in the data", lambda m: cut(m, SHARD, 900000), SHARD),
    ("shard longer than its tensors", lambda m: m.write(SHARD, m.read(SHARD) + b"x" * 100), SHARD),
    # the header of a shard
    ("header length absurd", lambda m: m.write(SHARD, b"\xff" * 8 + m.read(SHARD)[8:]), SHARD),
    ("header length zero", lambda m: m.write(SHARD, b"\0" * 8 + m.read(SHARD)[8:]), SHARD),
    ("header is no JSON", lambda m: m.header(lambda h: b"hello"), SHARD),
    ("header is a list", lambda m: m.header(lambda h: b"[1, 2]"), SHARD),
    ("header with trailing bytes", lambda m: m.header(lambda h: json.dumps(h).encode() + b"x"), SHARD),
    ("header with invalid UTF-8", lambda m: m.header(lambda h: json.dumps(h).encode().replace(b"norm.weight", b"norm.weigh\xff")), SHARD),
    ("tensor twice", lambda m: m.header(duplicate), NORM),
    ("tensor without dtype", lambda m: m.header(lambda h: h[NORM].pop("dtype") and None), NORM),
    ("tensor without shape", lambda m: m.header(lambda h: h[NORM].pop("shape") and None), NORM),
    ("tensor without offsets", lambda m: m.header(lambda h: h[NORM].pop("data_offsets") and None), NORM),
    ("dtype unknown", lambda m: m.tensor(NORM, dtype="Q4_K"), NORM),
    ("dtype of another size", lambda m: m.tensor(NORM, dtype="F32"), NORM),
    ("dtype that the tensor may not have", lambda m: m.tensor(SINK, dtype="I32"), SINK),
    ("shape is text", lambda m: m.tensor(NORM, shape="128"), NORM),
    ("shape negative", lambda m: m.tensor(NORM, shape=[-128]), NORM),
    ("shape with a fraction", lambda m: m.tensor(NORM, shape=[128.5]), NORM),
    ("shape that overflows", lambda m: m.tensor(NORM, shape=[1 << 62, 4]), NORM),
    ("shape too deep", lambda m: m.tensor(NORM, shape=[1] * 40 + [128]), NORM),
    ("shape transposed", lambda m: m.tensor(EXPERT, shape=[32, 128]), EXPERT),
    ("shape flattened", lambda m: m.tensor(SCALE, shape=[8]), SCALE),
    ("offsets backwards", lambda m: m.tensor(NORM, data_offsets=[256, 0]), NORM),
    ("offsets negative", lambda m: m.tensor(NORM, data_offsets=[-256, 0]), NORM),
    ("offsets beyond the file", lambda m: m.tensor(NORM, data_offsets=[1 << 40, (1 << 40) + 256]), NORM),
    ("offsets beyond 64 bits", lambda m: m.tensor(NORM, data_offsets=[1 << 70, (1 << 70) + 256]), NORM),
    ("offsets overlap", lambda m: m.tensor(NORM, data_offsets=[256, 512]), "overlap|" + NORM),
    ("one offset", lambda m: m.tensor(NORM, data_offsets=[0]), NORM),
    # which tensors
    ("tensor missing", lambda m: drop_tensor(m, SINK), SINK),
    ("scale missing", lambda m: drop_tensor(m, SCALE), "layers.0.attn.wkv"),
    ("tensor left over", lambda m: rename_tensor(m, SINK, "layers.0.attn.surplus"), "layers.0.attn.(surplus|attn_sink)"),
    ("tensor of a layer too many", lambda m: rename_tensor(m, "layers.1.hc_ffn_scale", "layers.6.hc_ffn_scale"),
     "layers.(6|1).hc_ffn_scale"),
    # the index
    ("index is no JSON", lambda m: m.write(INDEX, "{"), INDEX),
    ("index without a map", lambda m: m.write(INDEX, "{}"), INDEX),
    ("index leaves the folder", lambda m: m.index(lambda w: w.update({NORM: "../" + SHARD})), INDEX),
    ("index names no file", lambda m: m.index(lambda w: w.update({NORM: "nope.safetensors"})), "nope.safetensors"),
    ("index names another shard", lambda m: m.index(lambda w: w.update({NORM: "model-00001-of-00003.safetensors"})), NORM),
    # config.json
    ("config is no JSON", lambda m: m.write("config.json", "{"), "config.json"),
    ("config is empty", lambda m: m.write("config.json", ""), "config.json"),
    ("config is a list", lambda m: m.write("config.json", "[]"), "config.json"),
    ("config with a NUL", lambda m: m.write("config.json", b"\0" * 10), "config.json"),
    ("another model type", lambda m: m.json("config.json", lambda c: c.update(model_type="llama")), "llama"),
    ("no hidden size", lambda m: m.text_config(hidden_size=None), "hidden_size"),
    ("hidden size zero", lambda m: m.text_config(hidden_size=0), "hidden_size"),
    ("hidden size negative", lambda m: m.text_config(hidden_size=-128), "hidden_size"),
    ("hidden size is text", lambda m: m.text_config(hidden_size="128"), "hidden_size"),
    ("hidden size absurd", lambda m: m.text_config(hidden_size=1 << 40), "hidden_size"),
    ("hidden size of another model", lambda m: m.text_config(hidden_size=64), "."),
    ("vocabulary too small for the tokenizer", lambda m: m.text_config(vocab_size=100), "."),
    ("layers absurd", lambda m: m.text_config(num_hidden_layers=10 ** 9), "num_hidden_layers"),
    ("one layer too many", lambda m: m.text_config(num_hidden_layers=7), "."),
    ("ratio negative", lambda m: m.text_config(compress_ratios=[0, 0, -2, -2, 1, 1]), "compress_ratios"),
    ("more experts per token than experts", lambda m: m.text_config(num_experts_per_tok=17), "num_experts_per_tok|n_routed_experts"),
    ("rope wider than the head", lambda m: m.text_config(qk_rope_head_dim=128), "qk_rope_head_dim"),
    ("window zero", lambda m: m.text_config(sliding_window=0), "sliding_window"),
    ("Engram at a layer that is none", lambda m: m.text_config(engram_layer_ids=[1, 99]), "engram_layer_ids"),
    ("Engram rows that do not fit", lambda m: m.text_config(engram_vocab_size=700), "engram"),
    ("KV source is text", lambda m: m.text_config(kv_source_layer_ids="2"), "kv_source_layer_ids"),
    ("norm epsilon negative", lambda m: m.text_config(rms_norm_eps=-1), "rms_norm_eps"),
    ("scoring unknown", lambda m: m.text_config(scoring_func="tanh"), "scoring_func"),
    # tokenizer.json
    ("tokenizer is no JSON", lambda m: m.write("tokenizer.json", "{"), "tokenizer.json"),
    ("tokenizer is empty", lambda m: m.write("tokenizer.json", "{}"), "tokenizer.json"),
    ("tokenizer of another kind", lambda m: m.json("tokenizer.json", lambda t: t["model"].update(type="Unigram")), "tokenizer.json"),
    ("tokenizer with a normalizer", lambda m: m.json("tokenizer.json", lambda t: t.update(normalizer={"type": "NFC"})), "normalizer"),
    ("tokenizer with another pre-tokenizer", lambda m: m.json("tokenizer.json", lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
     "pre.tokenizer"),
    ("merge of nothing", lambda m: m.json("tokenizer.json", lambda t: t["model"].update(merges=["a"])), "tokenizer.json"),
]


class Checkpoints(Case):
    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def spoil(self, number, how):
        m = Model(os.path.join(self.temp.name, "m%d" % number))
        how(m)
        return m.dir

    def test_the_original_loads(self):
        folder = self.spoil(0, lambda m: None)
        r = subprocess.run([harness.exe, "generate", "--model", folder, "--max-tokens", "2", "ab"], capture_output=True,
                           timeout=60)
        self.assertEqual(0, r.returncode, r.stderr)

    def test_each_is_refused_with_one_sentence(self):
        self.assertGreaterEqual(len(BROKEN), 40)
        for number, (name, how, named) in enumerate(BROKEN):
            with self.subTest(broken=name):
                folder = self.spoil(number, how)
                r = subprocess.run([harness.exe, "generate", "--model", folder, "--max-tokens", "1", "ab"],
                                   capture_output=True, timeout=60)
                err = r.stderr.decode()
                self.assertEqual((1, b""), (r.returncode, r.stdout), err)
                self.assertRegex(err, r"\Aengramd generate: [^\n]{10,}\n\Z")
                self.assertIsNotNone(re.search(named, err), "%s is not named: %s" % (named, err))
                if "-v" in sys.argv:
                    print(name, "->", err.strip())
            shutil.rmtree(os.path.join(self.temp.name, "m%d" % number), ignore_errors=True)

    def test_serve_refuses_too(self):
        for number, (name, how, named) in enumerate(BROKEN[:45:5]):
            with self.subTest(broken=name), Server(self.spoil(number, how), wait=False) as s:
                self.assertEqual(1, s.wait(60))
                errors = [line for _, line in s.lines if re.search(r"Z error |^engramd", line)]
                self.assertEqual(1, len(errors), s.text())
                self.assertRegex(errors[0], named)
                self.assertNotIn("listening", s.text())


if __name__ == "__main__":
    main()
