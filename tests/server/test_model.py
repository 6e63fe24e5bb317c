#!/usr/bin/env python3
"""The whole program with the model that comes with it: text in, the right text out, whole and streamed; clients that
leave, crashes and restarts, memory. `test_model.py ENGRAMD`."""
import json
import os
import signal
import subprocess
import threading
import time

import harness
import promtext
from harness import Case, Server, main

FIXTURES = os.environ.get("ENGRAMD_FIXTURES") or os.environ.get("ENGRAMD_GOLDEN_DEFAULT") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "golden")
PARIS = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
EOS_TEXT = "<｜end▁of▁sentence｜>"
MAX_GROWTH = 4 << 20  # bytes of resident memory from request 200 to request 2,000
MARGIN = 0.02         # below it the reference's own arithmetic may have chosen differently


def expected():
    with open(os.path.join(FIXTURES, "pocket", "expected.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Answers(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def stream(self, body):
        with self.server.connect(timeout=30) as c:
            c.send_request("POST", "/v1/completions", {**body, "stream": True})
            self.assertEqual(200, c.read_head()[0])
            return [e for kind, e in c.events() if kind == "data"]

    def test_paris(self):
        answer = self.server.complete(PARIS).json()
        self.assertEqual("engram-pocket", answer["model"])
        self.assertEqual(" Paris.", answer["choices"][0]["text"])
        self.assertEqual("stop", answer["choices"][0]["finish_reason"])
        self.assertEqual(6, answer["usage"]["prompt_tokens"])  # BOS and five words

    def test_paris_streamed(self):
        events = self.stream(PARIS)
        self.assertEqual("[DONE]", events[-1])
        pieces = [e["choices"][0]["text"] for e in events[:-1]]
        self.assertEqual(" Paris.", "".join(pieces))
        self.assertGreaterEqual(len(pieces), 3)  # token by token

    def test_reference_answers(self):
        n = 0
        for case in expected():
            if case["min_margin"] <= MARGIN:
                continue
            body = {"prompt": case["ids"], "max_tokens": len(case["greedy"]), "temperature": 0, "return_token_ids": True}
            choice = self.server.complete(body, timeout=30).json()["choices"][0]
            self.assertEqual(case["greedy"], choice["token_ids"], case["prompt"])
            self.assertEqual(case["text"].replace(EOS_TEXT, ""), choice["text"])
            n += 1
        self.assertGreater(n, 20)

    def test_reference_logprobs(self):
        for case in expected()[:10]:
            body = {"prompt": [case["ids"]], "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
            got = self.server.complete(body, timeout=30).json()["choices"][0]["logprobs"]["token_logprobs"]
            self.assertEqual(len(case["token_logprobs"]), len(got))
            self.assertIsNone(got[0])
            for a, b in zip(case["token_logprobs"][1:], got[1:]):
                self.assertAlmostEqual(a, b, delta=2e-3)

    def test_best_of(self):
        """The best of ten are those of the ten with the highest mean log-probability, best first; all ten are paid for."""
        body = {"prompt": ["The capital of", "A stone falls"], "max_tokens": 6, "temperature": 1.4, "seed": 11, "logprobs": 1}
        every = self.server.complete({**body, "n": 10}).json()
        best = self.server.complete({**body, "n": 3, "best_of": 10}).json()

        def mean(choice):
            return sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"])

        for prompt in 0, 1:
            ranked = sorted(every["choices"][prompt * 10:prompt * 10 + 10], key=mean, reverse=True)
            mine = best["choices"][prompt * 3:prompt * 3 + 3]
            self.assertEqual([prompt * 3 + i for i in range(3)], [c["index"] for c in mine])
            self.assertEqual([c["text"] for c in ranked[:3]], [c["text"] for c in mine])
            self.assertGreater(len({c["text"] for c in ranked}), 3)
        self.assertEqual(every["usage"]["completion_tokens"], best["usage"]["completion_tokens"])
        self.assertEqual(every["usage"]["prompt_tokens"], best["usage"]["prompt_tokens"])

    def test_continuous_usage(self):
        events = self.stream({**PARIS, "n": 2, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
        seen = {}
        for e in events[:-2]:
            index, usage = e["choices"][0]["index"], e["usage"]
            self.assertEqual(6, usage["prompt_tokens"])
            self.assertGreaterEqual(usage["completion_tokens"], seen.get(index, 0) + 1)
            seen[index] = usage["completion_tokens"]
        self.assertEqual(sum(seen.values()), events[-2]["usage"]["completion_tokens"])

    def test_tokens_as_ids(self):
        whole = {**PARIS, "logprobs": 2, "return_token_ids": True, "return_tokens_as_token_ids": True}
        choice = self.server.complete(whole).json()["choices"][0]
        self.assertEqual(["token_id:%d" % i for i in choice["token_ids"]], choice["logprobs"]["tokens"])
        for token, top in zip(choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"]):
            self.assertEqual(2, len(top))
            self.assertEqual(token, max(top, key=top.get))
        chat = self.server.request("POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0, "logprobs": True,
            "top_logprobs": 2, "return_token_ids": True, "ignore_eos": True, "return_tokens_as_token_ids": True})
        choice = chat.json()["choices"][0]
        for i, entry in zip(choice["token_ids"], choice["logprobs"]["content"]):
            self.assertEqual("token_id:%d" % i, entry["token"])
            self.assertEqual(entry["token"], entry["top_logprobs"][0]["token"])
            text = self.server.request("POST", "/detokenize", {"tokens": [i]}).json()["prompt"]
            self.assertEqual(text, bytes(entry["bytes"]).decode("utf-8", "replace"))

    def test_echo_streamed_with_samples_of_several_prompts(self):
        """The pieces of each choice add up to the whole answer, which begins with its own prompt."""
        prompts = ["The capital of France is", "The capital of Japan is"]
        body = {"prompt": prompts, "n": 2, "max_tokens": 4, "temperature": 1.2, "seed": 3, "echo": True, "logprobs": 1}
        whole = self.server.complete(body).json()["choices"]
        texts, tokens = [""] * 4, [[], [], [], []]
        for e in self.stream(body)[:-1]:
            c = e["choices"][0]
            texts[c["index"]] += c["text"]
            tokens[c["index"]] += c["logprobs"]["tokens"] if c["logprobs"] else []
        for i in range(4):
            self.assertTrue(texts[i].startswith(prompts[i // 2]))
            self.assertEqual((whole[i]["text"], whole[i]["logprobs"]["tokens"]), (texts[i], tokens[i]))

    def generated(self):
        return promtext.value(promtext.parse(self.server.request("GET", "/metrics").body.decode()),
                              "vllm:generation_tokens_total")

    def test_a_choice_that_stops_costs_nothing_more(self):
        """Stop strings of a chat are found by the server, not by the engine: each choice is stopped when its own is there."""
        body = {"messages": [{"role": "user", "content": "Tell me about a bird and a stone."}], "n": 8, "temperature": 1.5,
                "seed": 5, "max_tokens": 400, "ignore_eos": True, "stop": "q"}
        for stream in False, True:
            before = self.generated()
            if stream:
                with self.server.connect(timeout=30) as c:
                    c.send_request("POST", "/v1/chat/completions",
                                   {**body, "stream": True, "stream_options": {"include_usage": True}})
                    self.assertEqual(200, c.read_head()[0])
                    usage = [e for kind, e in c.events() if kind == "data"][-2]["usage"]
            else:
                usage = self.server.request("POST", "/v1/chat/completions", body).json()["usage"]
            grown = self.generated() - before
            self.assertLess(usage["completion_tokens"], 2000)  # they end at very different places
            self.assertGreaterEqual(grown, usage["completion_tokens"])
            self.assertLessEqual(grown, usage["completion_tokens"] + 8 * 40)  # steps taken while the news was on its way

    def test_same_bytes_alone_and_together(self):
        bodies = [{"prompt": c["prompt"], "max_tokens": 12, "temperature": 0.9, "seed": i, "logprobs": 2}
                  for i, c in enumerate(expected()[:16]) if c["kind"] == "completion"]
        alone = [self.server.complete(b, timeout=30).json()["choices"] for b in bodies]
        together = [None] * len(bodies)

        def ask(i):
            together[i] = self.server.complete(bodies[i], timeout=60).json()["choices"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(alone, together)

    def test_tokenize_there_and_back(self):
        text = "The capital of Österreich is 維也納 😀\n"
        ids = self.server.request("POST", "/tokenize", {"prompt": text}).json()
        self.assertEqual((0, len(ids["tokens"]), 4096), (ids["tokens"][0], ids["count"], ids["max_model_len"]))
        back = self.server.request("POST", "/detokenize", {"tokens": ids["tokens"][1:]}).json()
        self.assertEqual(text, back["prompt"])

    def test_a_client_that_leaves(self):
        with self.server.connect(timeout=30) as c:
            body = {"prompt": [300], "max_tokens": 4000, "ignore_eos": True, "stream": True}
            c.send_request("POST", "/v1/completions", body, {"X-Request-Id": "leaver"})
            c.read_head()
            events = c.events()
            for _ in range(3):
                next(events)
        _, m = self.server.wait_line(r"\[leaver\] POST \S+ 200 .*completion_tokens=(\d+) end=client_left", 10)
        self.assertLess(int(m.group(1)), 3000)


class Grammars(Case):
    HOSTILE = "((((a?b?){0,16}c?){0,16}d?){0,16}e?){0,8}%d"  # passes the compiler's steps: refused after a while
    WAITING = 64  # EM_COMPILER_MAX_WAITING

    def test_the_compiler_s_queue_is_bounded(self):
        with Server() as s:
            held = []
            for i in range(self.WAITING + 8):
                held.append(s.connect(timeout=30))
                held[-1].send_request("POST", "/v1/completions", {
                    "prompt": "a", "max_tokens": 4, "structured_outputs": {"regex": self.HOSTILE % i}})
            refused = []
            for c in reversed(held[-4:]):  # each of those before them takes a good part of a second
                refused.append(c.read_answer())
                self.check_error(refused[-1], 429, code="queue_full")
                self.assertGreater(int(refused[-1].headers["retry-after"]), 0)
            self.assertIn("grammar", refused[0].error()["message"])
            first = held[0].read_answer()
            self.check_error(first, 400)
            self.assertIn("steps", first.error()["message"])
            # who needs no grammar does not wait, and who leaves gives up the place
            self.assertEqual(200, s.complete(PARIS, timeout=30).status)
            for c in held:
                c.sock.close()
            body = {"prompt": "a", "max_tokens": 4, "structured_outputs": {"regex": "[ab]{2}"}}
            deadline = time.monotonic() + 30
            while (a := s.complete(body, timeout=30)).status == 429:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)
            self.assertEqual(200, a.status, a)
            self.assertRegex(a.json()["choices"][0]["text"], "^[ab]{2}$")
            self.assertEqual(0, s.stop())


class Process(Case):
    def test_generate_finds_the_same_model(self):
        r = subprocess.run([harness.exe, "generate", "--max-tokens", "8", PARIS["prompt"]], capture_output=True, timeout=60)
        self.assertEqual((0, b" Paris.\n", b""), (r.returncode, r.stdout, r.stderr))

    def test_generate_with_a_seed(self):
        def run(seed):
            return subprocess.run([harness.exe, "generate", "--temperature", "1.5", "--seed", str(seed), "--ignore-eos",
                                   "--max-tokens", "24", "The"], capture_output=True, timeout=60).stdout
        self.assertEqual(run(7), run(7))
        self.assertEqual(6, len({run(seed) for seed in range(6)}))

    def test_kill_under_load_and_restart(self):
        port = 0
        for _ in range(2):
            with Server(port=port) as s:
                port = s.port
                self.assertEqual(" Paris.", s.complete(PARIS).json()["choices"][0]["text"])
                held = [s.connect() for _ in range(8)]
                for c in held:
                    c.send_request("POST", "/v1/completions",
                                   {"prompt": [300], "max_tokens": 4000, "ignore_eos": True, "stream": True})
                for c in held:
                    self.assertEqual(200, c.read_head()[0])
                s.send_signal(signal.SIGKILL)
                s.wait()
                for c in held:
                    c.sock.close()

    def test_termination_lets_answers_finish(self):
        with Server() as s, s.connect(timeout=30) as c:
            body = {"prompt": [300], "max_tokens": 200, "ignore_eos": True, "stream": True}
            c.send_request("POST", "/v1/completions", body)
            c.read_head()
            events = c.events()
            next(events)
            s.send_signal(signal.SIGTERM)
            rest = [e for _, e in events]
            self.assertEqual("[DONE]", rest[-1])
            self.assertEqual("length", rest[-2]["choices"][0]["finish_reason"])
            self.assertEqual(0, s.wait(20))

    def test_start_is_quick(self):
        start = time.monotonic()
        with Server() as s:
            self.assertLess(time.monotonic() - start, 10)
            self.assertEqual(0, s.stop())


class Memory(Case):
    def one(self, s, c, i):
        kind = i % 6
        if kind == 5:  # a client that leaves in the middle
            with s.connect(timeout=30) as gone:
                gone.send_request("POST", "/v1/completions",
                                  {"prompt": [300 + i % 500], "max_tokens": 500, "ignore_eos": True, "stream": True})
                gone.read_head()
            return
        body = {"prompt": "The capital of country %d is" % i, "max_tokens": 4, "temperature": 0}
        if kind == 1:
            body["stream"] = True
        elif kind == 2:
            body.update(n=2, temperature=1, logprobs=3)
        elif kind == 3:
            body["temperature"] = 9  # refused
        elif kind == 4:
            body.update(echo=True, logprobs=1, max_tokens=0)
        c.send_request("POST", "/v1/completions", body)
        self.assertEqual(400 if kind == 3 else 200, c.read_answer().status)

    def test_growth(self):
        # where the address sanitizer is built in, it must not keep freed memory back
        given = os.environ.get("ASAN_OPTIONS", "")
        env = {"ASAN_OPTIONS": given + ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"}
        with Server("--log-level", "warning", env=env) as s:
            sizes = {}
            with s.connect(timeout=30) as c:
                for i in range(1, 2001):
                    self.one(s, c, i)
                    if i in (200, 2000):
                        time.sleep(0.2)
                        sizes[i] = s.rss()
            print("resident: %s" % {k: "%.1f MiB" % (v / 1048576) for k, v in sizes.items()})
            self.assertLess(sizes[2000] - sizes[200], MAX_GROWTH)
            self.assertEqual(0, s.stop())


if __name__ == "__main__":
    main()
