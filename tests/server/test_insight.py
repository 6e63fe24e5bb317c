#!/usr/bin/env python3
"""`engram`: what an answer tells about the tables, with the model that comes with the program. `test_insight.py ENGRAMD`."""
import json
import os

from harness import Case, Server, main

FIXTURES = os.environ.get("ENGRAMD_FIXTURES") or os.environ.get("ENGRAMD_GOLDEN_DEFAULT") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "golden")
LISTS = "gate", "share", "tier", "ngrams"
TOLERANCE = 1e-3


def expected():
    with open(os.path.join(FIXTURES, "pocket", "expected.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Insight(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def ask(self, path="/v1/completions", **body):
        a = self.server.request("POST", path, {"temperature": 0, "engram": True, **body}, timeout=60)
        self.assertEqual(200, a.status, a)
        return a.json()["choices"]

    def stream(self, path, body):
        with self.server.connect(timeout=60) as c:
            c.send_request("POST", path, {"temperature": 0, "engram": True, **body, "stream": True})
            self.assertEqual(200, c.read_head()[0])
            return [e for kind, e in c.events() if kind == "data"][:-1]

    def check_shape(self, engram, n_tokens):
        self.assertEqual({"layers", "orders", *LISTS}, set(engram))
        self.assertEqual([1, 3], engram["layers"])
        self.assertEqual([2, 3, 4], engram["orders"])
        for name in LISTS:
            self.assertEqual(n_tokens, len(engram[name]), name)
        for t in range(n_tokens):
            for gates, shares, tier in zip(engram["gate"][t], engram["share"][t], engram["tier"][t], strict=True):
                self.assertEqual(4, len(gates))
                self.assertTrue(all(0 < g < 1 for g in gates), gates)
                self.assertEqual(3, len(shares))
                self.assertTrue(all(0 <= s <= 1 for s in shares), shares)
                self.assertAlmostEqual(1, sum(shares), delta=1e-5)
                self.assertEqual("ram", tier)
            self.assertEqual([2, 3, 4], [len(words) for words in engram["ngrams"][t]])
            longest = engram["ngrams"][t][-1]
            self.assertEqual([longest[-2:], longest[-3:], longest], engram["ngrams"][t])

    def test_gates_of_prompts_are_the_reference_s(self):
        n = 0
        for case in expected()[:40]:
            choice = self.ask(prompt=case["ids"], echo=True, max_tokens=0)[0]
            self.check_shape(choice["engram"], len(case["ids"]))
            for i, layer in enumerate(choice["engram"]["layers"]):
                for got, want in zip(choice["engram"]["gate"], case["engram_gate"][str(layer)], strict=True):
                    for a, b in zip(got[i], want, strict=True):
                        self.assertAlmostEqual(a, b, delta=TOLERANCE)
            n += 1
        self.assertGreater(n, 3)

    def test_an_answer_says_what_it_would_say_as_a_prompt(self):
        """Entries belong to the token's own position, the last one's too, and change nothing about the answer."""
        body = {"prompt": "The capital of France is", "max_tokens": 8, "logprobs": 2, "return_token_ids": True}
        answer = self.ask(**body)[0]
        plain = self.ask(**{**body, "engram": False})[0]
        engram = answer.pop("engram")
        self.assertEqual(plain, answer)
        self.check_shape(engram, len(answer["token_ids"]))
        ids = answer["prompt_token_ids"] + answer["token_ids"]
        prompt = self.ask(prompt=ids, echo=True, max_tokens=0)[0]["engram"]
        for name in LISTS:
            self.assertEqual(engram[name], prompt[name][-len(answer["token_ids"]):], name)
        self.assertEqual([["is", "par"], ["france", "is", "par"], ["of", "france", "is", "par"]], engram["ngrams"][0])
        self.assertEqual([None, "<|begin▁of▁sentence|>"], prompt["ngrams"][0][0])
        self.assertEqual([None, "<|begin▁of▁sentence|>", "the"], prompt["ngrams"][1][1])

    def test_pieces_of_a_stream_add_up(self):
        for path, body in (
                ("/v1/completions", {"prompt": ["The capital of France is", "A bird"], "n": 2, "max_tokens": 9, "seed": 4,
                                     "temperature": 1.1, "echo": True, "logprobs": 0}),
                ("/v1/completions", {"prompt": "One two three", "max_tokens": 12, "stop": ["e"]}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "What is the capital of Spain?"}],
                                          "max_tokens": 12})):
            whole = self.ask(path, **body)
            pieces = [{name: [] for name in LISTS} for _ in whole]
            for e in self.stream(path, body):
                c = e["choices"][0]
                for name in LISTS if "engram" in c else ():
                    pieces[c["index"]][name] += c["engram"][name]
            for c, p in zip(whole, pieces, strict=True):
                self.assertEqual({name: c["engram"][name] for name in LISTS}, p)
                self.check_shape(c["engram"], len(p["gate"]))

    def test_a_cached_prefix_hides_nothing(self):
        """The second time the prompt is known; with echo it is computed again, without it the answer's entries are equal."""
        prompt = list(range(300, 600))
        first, again = (self.ask(prompt=prompt, max_tokens=5, ignore_eos=True)[0]["engram"] for _ in range(2))
        self.assertEqual(first, again)
        echoed = self.ask(prompt=prompt, max_tokens=5, ignore_eos=True, echo=True)[0]["engram"]
        self.check_shape(echoed, 305)
        self.assertEqual(first["gate"], echoed["gate"][300:])

    def test_too_many_tokens_are_refused(self):
        a = self.server.request("POST", "/v1/completions", {"prompt": "A", "n": 100, "max_tokens": 400, "engram": True})
        self.assertEqual(400, a.status)
        self.assertIn("at most 32768", a.json()["error"]["message"])
        self.assertEqual(0, len(self.ask(prompt="A", max_tokens=0)[0]["engram"]["gate"]))

    def test_a_model_without_tables(self):
        checkpoint = os.path.join(FIXTURES, "models", "1-window", "checkpoint")
        with Server("--model", checkpoint) as server:
            a = server.request("POST", "/v1/completions", {"prompt": [1, 2], "max_tokens": 1, "engram": True})
            self.assertEqual((400, "engram"), (a.status, a.json()["error"]["param"]))
            self.assertEqual(200, server.request("POST", "/v1/completions",
                                                 {"prompt": [1, 2], "max_tokens": 1, "engram": False}).status)


if __name__ == "__main__":
    main()
