#!/usr/bin/env python3
"""Requests that are wrong in some way: each gets its status and a sentence that names the parameter, and the server
stays as it was. Runs against any program: `test_malformed.py EXE [SERVER OPTIONS]`."""
import json
import random
import sys

import harness
from harness import Case, Server

OK = {"prompt": [300, 301], "max_tokens": 1}
BIG = 1 << 40


def body(**fields):
    return {**OK, **fields}


# path, body (object or bytes), parameter that the sentence names (None: the body as a whole)
COMPLETIONS = [
    (body(prompt=5), "prompt"), (body(prompt={}), "prompt"), (body(prompt=True), "prompt"),
    (body(prompt=[]), "prompt"), (body(prompt=[[]]), "prompt"), (body(prompt=[[300], []]), "prompt"),
    (body(prompt=["a", 5]), "prompt"), (body(prompt=[300, "a"]), "prompt"), (body(prompt=[300, [301]]), "prompt"),
    (body(prompt=[300, None]), "prompt"), (body(prompt=[1.5]), "prompt"), (body(prompt=[-1]), "prompt"),
    (body(prompt=[6144]), "prompt"), (body(prompt=[300, 4294967596]), "prompt"), (body(prompt=[10 ** 30]), "prompt"),
    (body(prompt=[[300], [300, 6144]]), "prompt"), (body(prompt=[[[300]]]), "prompt"), (body(prompt=[{}]), "prompt"),
    (body(prompt=[300] * 4096), "prompt"), (body(prompt="word " * 50000), "prompt"),
    (body(max_tokens=-1), "max_tokens"), (body(max_tokens=1.5), "max_tokens"), (body(max_tokens="5"), "max_tokens"),
    (body(max_tokens=True), "max_tokens"), (body(max_tokens=BIG), "max_tokens"), (body(max_tokens=[]), "max_tokens"),
    (body(temperature=-0.1), "temperature"), (body(temperature=2.1), "temperature"),
    (body(temperature="hot"), "temperature"), (body(temperature=[1]), "temperature"),
    (body(top_p=-0.1), "top_p"), (body(top_p=1.1), "top_p"), (body(top_p="x"), "top_p"),
    (body(top_k=-2), "top_k"), (body(top_k=1.5), "top_k"), (body(top_k=BIG), "top_k"),
    (body(seed=1.5), "seed"), (body(seed="x"), "seed"), (body(seed=1 << 80), "seed"),
    (body(n=0), "n"), (body(n=-1), "n"), (body(n=129), "n"), (body(n=1.5), "n"), (body(n="2"), "n"), (body(n=BIG), "n"),
    (body(prompt=[[300]] * 100, n=128), "n"),
    (body(stop=""), "stop"), (body(stop=[""]), "stop"), (body(stop=5), "stop"), (body(stop=[5]), "stop"),
    (body(stop=["x"] * 17), "stop"), (body(stop="x" * 5000), "stop"), (body(stop=[["x"]]), "stop"),
    (body(logprobs=-1), "logprobs"), (body(logprobs=21), "logprobs"), (body(logprobs=1.5), "logprobs"),
    (body(logprobs="x"), "logprobs"), (body(logprobs=True), "logprobs"),
    (body(echo=1), "echo"), (body(echo="yes"), "echo"), (body(stream=1), "stream"), (body(stream="true"), "stream"),
    (body(stream_options={"include_usage": True}), "stream_options"), (body(stream=True, stream_options=5), "stream_options"),
    (body(stream=True, stream_options={"include_usage": "x"}), "stream_options"),
    (body(stream=True, stream_options={"other": True}), "stream_options"),
    (body(return_token_ids=1), "return_token_ids"), (body(ignore_eos="x"), "ignore_eos"),
    (body(best_of=21), "best_of"), (body(best_of=1, n=2), "best_of"), (body(suffix="x"), "suffix"), (body(nonsense=1), "nonsense"),
    (body(messages=[]), "messages"), (body(model=5), "model"), (body(user=5), "user"),
    ({"max_tokens": 1}, "prompt"), ({}, "prompt"),
]

WHOLE = [
    b"", b" ", b"hello", b"null", b"5", b'"text"', b"[]", b"[1]", b"{", b"}", b"{}}", b'{"prompt"', b'{"prompt":', b'{"prompt":}',
    b'{"prompt":[300],}', b'{"prompt":[300,]}', b'{prompt:[300]}', b"{'prompt':[300]}", b'{"prompt":[300]}{}', b'{"prompt":[300]} x',
    b'{"prompt":[0300]}', b'{"prompt":[+300]}', b'{"prompt":[300.]}', b'{"prompt":[.5]}', b'{"prompt":[NaN]}', b'{"prompt":[0x10]}',
    b'{"prompt":"a\\x"}', b'{"prompt":"a\\u12"}', b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00\\ud800"}', b'{"prompt":"a\\u0000b"}',
    b'{"prompt":"a\0b"}', b'{"prompt":"a\nb"}', b'{"prompt":"a\tb"}', b'{"prompt":"\xff"}', b'{"prompt":"\xc0\xaf"}',
    b'{"prompt":"\xed\xa0\x80"}', b'{"prompt":"\xf4\x90\x80\x80"}', b'{"prompt":"\xe2\x82"}', b'{"\xff":1,"prompt":[300]}',
    b'\xef\xbb\xbf{"prompt":[300]}', b'\0{"prompt":[300]}', b'{"prompt":[300]}\0', b"[" * 100000, b'{"a":' * 100000,
    b'{"prompt":' + b"[" * 65 + b"]" * 65 + b"}", b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b',"prompt":[300]}',
    b'{"prompt":tru}', b'{"prompt":[300],"stream":truE}', b'{"prompt":[300] "max_tokens":1}', b'{"prompt":[300]:1}',
    b'{"prompt":[1e400]}', b'{"prompt":[300],"temperature":1e400}', b'{"prompt":[300],"temperature":-1e400}',
    b"{" + b",".join(b'"f%d":1' % i for i in range(5000)) + b"}",
    b'{"' + b"k" * 100000 + b'":1}',
]

OTHERS = [
    ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": ["a"]}, "prompt"),
    ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"), ("/tokenize", b"x", None),
    ("/tokenize", b'{"prompt":"\xff"}', None), ("/tokenize", {"prompt": "a", "nonsense": 1}, "nonsense"),
    ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": 5}, "tokens"), ("/detokenize", {"tokens": ["a"]}, "tokens"),
    ("/detokenize", {"tokens": [-1]}, "tokens"), ("/detokenize", {"tokens": [6144]}, "tokens"),
    ("/detokenize", {"tokens": [1.5]}, "tokens"), ("/detokenize", {"tokens": [[1]]}, "tokens"),
    ("/detokenize", {"tokens": [1 << 33]}, "tokens"), ("/detokenize", b"[", None),
]


class Malformed(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*options)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def tearDown(self):
        self.assertIsNone(self.server.proc.poll(), self.server.text()[-2000:])
        self.assertEqual(200, self.server.complete(OK).status)

    def check(self, path, data, param):
        a = self.server.request("POST", path, data)
        with self.subTest(path=path, body=str(data)[:100]):
            error = self.check_error(a, 400, param)
            self.assertEqual("invalid_request_error", error["type"])

    def test_there_are_enough(self):
        self.assertGreaterEqual(len(COMPLETIONS) + len(WHOLE) + len(OTHERS), 60)

    def test_fields(self):
        for data, param in COMPLETIONS:
            self.check("/v1/completions", data, param)

    def test_whole_bodies(self):
        for data in WHOLE:
            self.check("/v1/completions", data, None)

    def test_other_routes(self):
        for path, data, param in OTHERS:
            self.check(path, data, param)

    def test_unknown_model(self):
        a = self.server.complete(body(model="gpt-nope"))
        self.check_error(a, 404, "model", "model_not_found")

    def test_errors_of_a_stream_come_before_the_stream(self):
        a = self.server.complete(body(stream=True, temperature=9))
        self.check_error(a, 400, "temperature")

    def test_too_long_names_both_numbers(self):
        a = self.server.complete(body(prompt=[300] * 5000))
        error = self.check_error(a, 400, "prompt", "context_length_exceeded")
        self.assertRegex(error["message"], "4,?096")
        self.assertRegex(error["message"], "5,?000")

    def test_random_damage(self):
        """Bytes of a good request changed at random: any answer is fine but silence, and the server lives on."""
        good = json.dumps(body(temperature=0.5, stop=["x", "y"], logprobs=2, stream=False, user="me")).encode()
        for _ in range(300):
            data = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data))
                kind = rng.randrange(3)
                if kind == 0:
                    data[at] = rng.randrange(256)
                elif kind == 1:
                    del data[at]
                else:
                    data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 3)))
            a = self.server.complete(bytes(data))
            self.assertIn(a.status, (200, 400, 404), bytes(data))
            if a.status != 200:
                self.check_error(a, a.status)


if __name__ == "__main__":
    import os
    import unittest
    harness.exe, options = sys.argv[1], sys.argv[2:]
    del sys.argv[1:]
    seed = int(os.environ.get("ENGRAMD_TEST_SEED", "20240607"))
    print("seed %d" % seed)
    rng = random.Random(seed)
    unittest.main(verbosity=2)
