#!/usr/bin/env python3
"""The trainer in tools/train: its model against golden values, its short runs against engramd. `test_train.py ENGRAMD
SOURCE_ROOT`; skips (77) where torch is missing and ENGRAMD_TRAIN_PYTHON names no Python that has it."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

try:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from tokenizers import Tokenizer
except ImportError:
    other = os.environ.get("ENGRAMD_TRAIN_PYTHON")
    if not other or os.environ.get("ENGRAMD_TRAIN_TRIED"):
        print("torch or tokenizers is not installed; ENGRAMD_TRAIN_PYTHON may name a Python that has them")
        sys.exit(77)
    os.environ["ENGRAMD_TRAIN_TRIED"] = "1"
    os.execv(other, [other, *sys.argv])

import numpy as np

ENGRAMD, ROOT = sys.argv[1], sys.argv[2]
TRAIN = os.path.join(ROOT, "tools", "train")
sys.path[:0] = [TRAIN, os.path.join(ROOT, "tests", "server")]

import checkpoint
import harness
import hashing
import quantise
import shapes
import text
import tokenizer as family
from model import Model

harness.exe = ENGRAMD
SEED = int(os.environ.get("ENGRAMD_TEST_SEED", "7"))
CLOSE = 2e-3  # between log-probabilities of two float32 programs
TEXTS = ["The model is served from a folder.",
         "engramd reads config.json, tokenizer.json and model.safetensors.\n\n" * 6,
         "Zürich, 東京, 12345 and 0x1F: \t odd — text…", "a"]


def addresser_of(config, tokenizer):
    if not config.get("engram_layer_ids"):
        return None
    return hashing.Addresser(hashing.token_classes(tokenizer), config)


@torch.no_grad()
def logits_of(model, addresser, ids):
    ids = np.array(ids, np.int64)
    rows = [torch.from_numpy(r)[None] for r in addresser.rows(ids, np.arange(len(ids)))] if addresser else []
    return model(torch.from_numpy(ids)[None], rows)[0][0]


def logprobs_of(model, addresser, ids):
    """Of every id but the first."""
    shares = torch.log_softmax(logits_of(model, addresser, ids), -1)
    return [float(shares[i, ids[i + 1]]) for i in range(len(ids) - 1)]


def engramd(*arguments):
    done = subprocess.run([ENGRAMD, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(*arguments):
    done = subprocess.run([sys.executable, os.path.join(TRAIN, "train.py"), *arguments], capture_output=True, text=True,
                          timeout=300)
    return done.returncode, done.stdout, done.stderr


class Formats(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(SEED)

    def test_packed_values_are_the_rounded_ones(self):
        for name, shape in (("fp8", (70, 96)), ("fp8", (33, 40)), ("fp4", (48, 96)), ("rows", (50, 64))):
            w = torch.randn(shape) * torch.exp(4 * torch.randn(shape[0], 1))
            w[0] = 0
            codes, scales = getattr(quantise, "pack_" + name)(w)
            read = getattr(quantise, "unpack_" + name)(codes, scales)
            rounded = getattr(quantise, "round_" + name)(w)
            self.assertTrue(torch.equal(read, rounded), name)
            self.assertTrue(torch.equal(getattr(quantise, "round_" + name)(rounded), rounded), name + ", again")
            self.assertLess(float((w - rounded).abs().max() / w.abs().max()), 0.2, name)

    def test_ties_go_to_the_even_code(self):
        ties = torch.tensor([.25, .75, 1.25, 1.75, 2.5, 3.5, 5, -.25, -5, 9])
        want = [0, 1, 1, 2, 2, 4, 4, -0., -4, 6]
        self.assertEqual(want, quantise.round_e2m1(ties).tolist())

    def test_scales(self):
        amax = torch.tensor([1.0, 3.7, 448, 449])
        self.assertEqual([2 ** -8, 2 ** -6, 1, 2], quantise.power_of_two_above(amax / 448).tolist())
        self.assertEqual([0, 127, 254], quantise.scale_bytes(torch.tensor([2.0 ** -127, 1, 2.0 ** 127])).tolist())


class Hashing(unittest.TestCase):
    def test_released_constants(self):
        self.assertEqual([76632096046245, 4839876093313, 35959672319349, 73987337458391],
                         hashing.multipliers(1, 99092, 4))
        self.assertEqual([67716810739261, 51510806800915, 30921347202721, 82619226485591],
                         hashing.multipliers(14, 99092, 4))
        primes = hashing.bucket_primes(2, 16000000, 4, 8)
        self.assertEqual([384006168, 384016682], [sum(map(sum, orders)) for orders in primes])
        self.assertEqual((16000057, 16000889), (primes[0][0][0], primes[1][2][7]))


class Golden(unittest.TestCase):
    """The tiny models of tests/golden: other people's logits."""

    def test_logits(self):
        top = os.path.join(ROOT, "tests", "golden", "models")
        for name in ("2-compressed", "3-engram", "4-released", "5-odd"):
            with self.subTest(name):
                self.check(os.path.join(top, name))

    def check(self, folder):
        inner = os.path.join(folder, "checkpoint")
        model = checkpoint.load(inner)
        addresser = None
        if model.config.get("engram_layer_ids"):
            addresser = addresser_of(model.config, Tokenizer.from_file(os.path.join(inner, "tokenizer.json")))
        expected = checkpoint.read_safetensors(os.path.join(folder, "expected.safetensors"))
        with open(os.path.join(folder, "cases.json"), encoding="utf-8") as f:
            cases = json.load(f)["cases"]
        self.assertTrue(cases)
        for case in cases:
            name = str(case["case"])
            logits = logits_of(model, addresser, expected[name + ".ids"][1].tolist())
            difference = (logits - expected[name + ".logits"][1]).abs().amax(-1)
            # a value on a rounding boundary may move a row and nothing else
            self.assertGreaterEqual(float((difference < 1e-3).float().mean()), 0.95, name)


class Rows(unittest.TestCase):
    """Documents that share a row of a batch are computed as if each stood alone."""

    def test_packed_as_alone(self):
        torch.manual_seed(SEED)
        tokenizer = family.learn(TEXTS * 3, 300)
        config = shapes.make_config("tiny", tokenizer.get_vocab_size(), 50, hashing.token_classes(tokenizer))
        config["index_topk"], config["candidate_topk_blocks"] = 5, 2  # so that selections matter
        addresser = addresser_of(config, tokenizer)
        model = Model(config).eval()
        pieces = text.pieces_of([text.Document([((), t, True)]) for t in TEXTS], tokenizer, 64)
        packer = text.Packer(config, addresser, 2, 128)
        found = 0
        for batch in packer.batches(pieces):
            with torch.no_grad():
                logits = model(batch.ids, batch.rows, batch.positions, batch.documents)[0]
            for row in range(2):
                found += self.check_row(model, addresser, batch, logits, row)
        self.assertEqual(len(pieces), found)

    def check_row(self, model, addresser, batch, logits, row):
        numbers = set(batch.documents[row].tolist()) - {0}
        for number in numbers:
            at = (batch.documents[row] == number).nonzero().flatten()
            alone = logits_of(model, addresser, batch.ids[row, at].tolist())
            difference = (logits[row, at] - alone).abs().amax(-1)
            self.assertGreaterEqual(float((difference < 1e-3).float().mean()), 0.95)
        return len(numbers)


class Trained(unittest.TestCase):
    """A few steps of both models on the documents of this tree, then engramd on what was written."""

    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.TemporaryDirectory()
        cls.folder = os.path.join(cls.work.name, "model")
        status, cls.out, err = train(
            os.path.join(ROOT, "docs"), cls.folder, "--compare", "--steps", "24", "--shape", "tiny", "--vocabulary",
            "800", "--engram-rows", "300", "--rows", "4", "--documents", "paragraph", "--valid", "0.02", "--threads", "1",
            "--seed", str(SEED))
        assert status == 0, err
        cls.folders = (cls.folder, cls.folder + "-no-engram")

    @classmethod
    def tearDownClass(cls):
        cls.work.cleanup()

    def test_both_losses_are_told(self):
        last = self.out.strip().split("\n")[-1]
        self.assertRegex(last, r"^validation loss after 24 steps: with Engram \d\.\d{4}, without \d\.\d{4}$")

    def test_the_loss_falls(self):
        for value in self.out.strip().split("\n")[-1].replace(",", "").split()[-3::2]:
            self.assertLess(float(value), np.log(800), "no better than a guess")

    def test_hash_constants(self):
        told = json.loads(engramd("engram", "inspect", "--json", self.folder))
        tokenizer = Tokenizer.from_file(os.path.join(self.folder, "tokenizer.json"))
        addresser = addresser_of(checkpoint.read_config(self.folder), tokenizer)
        self.assertEqual((told["classes"], told["pad_class"]), (addresser.n_classes, addresser.pad_class))
        self.assertEqual([t["layer"] for t in told["tables"]], addresser.layer_ids)
        for table, factors, orders in zip(told["tables"], addresser.multipliers, addresser.primes):
            primes = [p for heads in orders for p in heads]
            self.assertEqual((table["multipliers"], table["primes"], table["addressed_rows"]),
                             (factors, primes, sum(primes)))

    def test_logprobs(self):
        for folder in (*self.folders, os.path.join(ROOT, "models", "engram-pocket")):
            with self.subTest(os.path.basename(folder)):
                self.check_logprobs(folder)

    def check_logprobs(self, folder):
        model = checkpoint.load(folder)
        tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        addresser = addresser_of(model.config, tokenizer)
        server = harness.Server("--model", folder)
        try:
            for prompt in TEXTS:
                ids = [family.BOS_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids]
                answer = server.complete({"model": os.path.basename(folder), "prompt": prompt, "max_tokens": 0,
                                          "echo": True, "logprobs": 1, "return_token_ids": True})
                self.assertEqual(200, answer.status, answer)
                choice = answer.json()["choices"][0]
                self.assertEqual(ids, choice["prompt_token_ids"])
                got, want = choice["logprobs"]["token_logprobs"][1:], logprobs_of(model, addresser, ids)
                self.assertEqual(len(want), len(got))
                self.check_close(os.path.basename(folder), got, want)
        finally:
            self.assertEqual(0, server.stop(), server.text())

    def check_close(self, name, got, want):
        """Nearly all the same; a value on a rounding boundary of what the model caches may move a token."""
        difference = np.abs(np.array(got) - np.array(want))
        print(f"{name}: {len(want)} log-probabilities, differing by {np.median(difference):.1e} in the middle, "
              f"{difference.max():.1e} at most")
        self.assertLess(np.median(difference), 1e-4)
        self.assertGreaterEqual((difference < CLOSE).mean(), 0.95)
        self.assertLess(difference.max(), 0.1)

    def test_score(self):
        for folder in self.folders:
            model = checkpoint.load(folder)
            tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            path = os.path.join(self.work.name, "text")
            with open(path, "w", encoding="utf-8") as f:
                f.write(TEXTS[1])
            told = json.loads(engramd("score", "--json", "--model", folder, path))
            ids = [family.BOS_ID, *tokenizer.encode(TEXTS[1], add_special_tokens=False).ids]
            want = logprobs_of(model, addresser_of(model.config, tokenizer), ids)
            self.assertEqual(len(want), told["tokens"])
            self.assertLess(abs(told["sum_logprob"] - sum(want)) / len(want), CLOSE)


class Refusals(unittest.TestCase):
    """What is wrong with the text is said in a sentence, and nothing is written."""

    def refused(self, files, *options):
        with tempfile.TemporaryDirectory() as work:
            folder = os.path.join(work, "text")
            os.mkdir(folder)
            for name, data in files.items():
                with open(os.path.join(folder, name), "wb") as f:
                    f.write(data)
            status, _, err = train(folder, os.path.join(work, "model"), "--steps", "1", *options)
            self.assertNotEqual(0, status)
            self.assertNotIn("Traceback", err)
            self.assertFalse(os.path.exists(os.path.join(work, "model")))
            return err

    def test_no_text(self):
        self.assertIn("no text in it", self.refused({"a.bin": b"x"}))

    def test_bytes_that_are_no_text(self):
        self.assertIn("a.txt: not UTF-8", self.refused({"a.txt": b"\xff\xfe"}))

    def test_bad_line(self):
        self.assertIn("a.jsonl, line 2: ", self.refused({"a.jsonl": b'{"text":"x"}\n{"words":1}\n'}))

    def test_odd_length(self):
        self.assertIn("multiple of 32", self.refused({"a.txt": b"x"}, "--length", "100"))


class Chats(unittest.TestCase):
    def test_ids_are_those_of_a_chat(self):
        tokenizer = family.learn(["hello there"], 300)
        chat = text.Document([((family.USER,), "hello", False), ((family.ASSISTANT, family.END_THINK), "there", True)])
        want = tokenizer.encode("<｜User｜>hello<｜Assistant｜></think>there<｜end▁of▁sentence｜>",
                                add_special_tokens=False).ids
        self.assertEqual(want, text.encode(chat, tokenizer))


if __name__ == "__main__":
    print("seed", SEED)
    unittest.main(argv=sys.argv[:1])
