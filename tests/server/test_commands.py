#!/usr/bin/env python3
"""plan, score, bench and probe with the model that comes with the program. `test_commands.py ENGRAMD`."""
import json
import math
import os
import pty
import re
import resource
import select
import socket
import subprocess
import tempfile
import threading
import time

import harness
from harness import Case, Server, main

GOLDEN = os.environ.get("ENGRAMD_GOLDEN_DEFAULT") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..",
                                                                  "golden")


def run(*args, stdin=b"", timeout=100, **more):
    return subprocess.run([harness.exe, *args], input=stdin, capture_output=True, timeout=timeout, **more)


def limited(kind, n_bytes):
    return lambda: resource.setrlimit(kind, (n_bytes, n_bytes))


def sanitized():
    """Then the program's own memory is not what it would be, and limits of it mean nothing."""
    with open(harness.exe, "rb") as f:
        return b"__asan_init" in f.read()


class Plan(Case):
    def plan(self, *args, code=0, **more):
        r = run("plan", "--json", *args, **more)
        self.assertEqual(code, r.returncode, r.stderr)
        return json.loads(r.stdout), r.stderr.decode()

    def test_table(self):
        r = run("plan")
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        text = r.stdout.decode()
        for word in "weights", "engram_tables", "kv_blocks", "step_buffers", "free memory", "GPU", "It fits.":
            self.assertIn(word, text)

    def test_sums(self):
        for args in [], ["--engram-tier", "mmap"], ["--engram-tier", "ram", "--max-num-seqs", "3"]:
            p, _ = self.plan(*args)
            by_place = {}
            for item in p["items"]:
                by_place[item["place"]] = by_place.get(item["place"], 0) + item["bytes"]
            self.assertEqual(p["mapped_bytes"], by_place["mapped"])
            self.assertEqual(p["cached_bytes"], by_place.get("cached", 0))
            self.assertEqual(p["memory_bytes"], by_place["memory"] + by_place.get("locked", 0))
            self.assertTrue(p["fits"])
            self.assertEqual("", p["advice"])

    def test_follows_the_options(self):
        def bytes_of(name, *args):
            return sum(i["bytes"] for i in self.plan(*args)[0]["items"] if i["name"] == name)
        self.assertEqual(4 * bytes_of("sequence_slots", "--max-num-seqs", "8"),
                         bytes_of("sequence_slots", "--max-num-seqs", "32"))
        self.assertGreater(bytes_of("step_buffers", "--max-num-batched-tokens", "2048"), 50 << 20)
        wanted = 30 << 20
        kv = bytes_of("kv_blocks", "--kv-cache-bytes", str(wanted))
        self.assertTrue(wanted - (1 << 20) < kv <= wanted, kv)
        where = {i["name"]: i["place"] for i in self.plan("--engram-tier", "mmap")[0]["items"]}
        self.assertEqual(("cached", "memory"), (where["engram_tables"], where["weights"]))

    def test_too_large_says_what_to_change(self):
        p, err = self.plan("--kv-cache-bytes", "100T", code=1)
        self.assertFalse(p["fits"])
        self.assertFalse({c["name"]: c["fits"] for c in p["checks"]}["free_memory"])
        self.assertEqual("engramd plan: %s\n" % p["advice"], err)
        flags = re.search(r"it would fit with (.*)\.$", p["advice"]).group(1).split()
        self.plan(*flags)

    def test_limits_of_this_process(self):
        p, _ = self.plan(preexec_fn=limited(resource.RLIMIT_MEMLOCK, 1 << 16))
        self.assertEqual(1 << 16, {c["name"]: c["limit_bytes"] for c in p["checks"]}["locked_memory"])
        if not sanitized():
            p, err = self.plan(code=1, preexec_fn=limited(resource.RLIMIT_AS, 150 << 20))
            self.assertIn("address space", err)
            self.assertEqual(150 << 20, {c["name"]: c["limit_bytes"] for c in p["checks"]}["address_space"])

    def test_takes_nothing_itself(self):
        """It plans terabytes in a process that may not have 32 MiB."""
        p, _ = self.plan("--kv-cache-bytes", "100T", "--max-num-batched-tokens", "65536", code=1,
                         preexec_fn=None if sanitized() else limited(resource.RLIMIT_DATA, 32 << 20))
        self.assertGreater(p["memory_bytes"], 1 << 40)

    def test_is_an_upper_bound(self):
        """What a busy server really takes is below its plan, but not far below."""
        args = ["--max-num-seqs", "8", "--max-num-batched-tokens", "256"]
        p, _ = self.plan(*args)
        with Server(*args) as s:
            body = {"prompt": [[3 + (i * 7919 + j * 104729) % 6000 for j in range(1500)] for i in range(8)],
                    "max_tokens": 8, "logprobs": 1, "temperature": 1, "seed": 1, "ignore_eos": True}
            self.assertEqual(200, s.complete(body, timeout=100).status)
            with open("/proc/%d/status" % s.proc.pid) as f:
                own = int(re.search(r"RssAnon:\s+(\d+) kB", f.read()).group(1)) * 1024
        if not sanitized():
            self.assertLessEqual(own, p["memory_bytes"])
            self.assertGreater(own, p["memory_bytes"] / 10)

    def test_refusals(self):
        for args, code, pattern in [(["/nonexistent"], 1, "/nonexistent/config.json"), (["--json=x"], 2, "--json: "),
                                    (["--max-model-len", "5000"], 1, "--max-model-len 5000"), (["a", "b"], 2, "one argument")]:
            r = run("plan", *args)
            self.assertEqual((code, b""), (r.returncode, r.stdout))
            self.assertRegex(r.stderr.decode(), "^engramd plan: .*%s.*\n$" % re.escape(pattern))


class Score(Case):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        with open(os.path.join(GOLDEN, "pocket", "expected.jsonl"), encoding="utf-8") as f:
            cls.text = "\n".join(line for line in f)[:6000] + "\n\nTwo  spaces, 12345 digits;\r\nend of line"
        cls.path = os.path.join(cls.dir.name, "text.txt")
        with open(cls.path, "w", encoding="utf-8", newline="") as f:
            f.write(cls.text)

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def score(self, *args, **more):
        r = run("score", "--json", *args, **more)
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        return json.loads(r.stdout)

    def over_http(self, max_len):
        """The same windows through the API: ids, then a prompt for each window."""
        with Server("--max-model-len", str(max_len)) as s:
            tokens = s.request("POST", "/tokenize", {"prompt": self.text}).json()["tokens"]
            values, n = [], 0
            for i in range(0, len(tokens), max_len - 1):
                a = s.complete({"prompt": tokens[i:i + max_len - 1], "echo": True, "logprobs": 0, "max_tokens": 0}, timeout=120)
                self.assertEqual(200, a.status, a)
                got = a.json()["choices"][0]["logprobs"]["token_logprobs"]
                self.assertIsNone(got[0])
                values += got[1:]
                n += 1
        return values, n

    def test_equals_the_api(self):
        for max_len in 64, 4096:
            values, n = self.over_http(max_len)
            got = self.score("--max-model-len", str(max_len), self.path)
            self.assertEqual((len(values), n), (got["tokens"], got["windows"]))
            self.assertLess(abs(math.fsum(values) - got["sum_logprob"]), 1e-6 * abs(got["sum_logprob"]))
            self.assertAlmostEqual(math.exp(-got["sum_logprob"] / got["tokens"]), got["perplexity"],
                                   delta=1e-6 * got["perplexity"])

    def test_table(self):
        r = run("score", self.path)
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        self.assertRegex(r.stdout.decode(), r"^tokens +\d+ in \d+ windows\nsum_logprob -\d+\.\d+\nperplexity +\d+\.\d+\n$")

    def test_chunks_threads_and_tiers_do_not_matter(self):
        want = self.score("--max-model-len", "64", self.path)
        self.assertEqual(want, self.score("--max-model-len", "64", "-", stdin=self.text.encode()))
        with tempfile.TemporaryDirectory() as folder:
            for tier in "ram", "mmap", "nvme", "shared", "shared":
                self.assertEqual(want, self.score("--max-model-len", "64", "--engram-tier", tier,
                                                  "--engram-shared-dir", folder, self.path), tier)
            self.assertEqual(1, len(os.listdir(folder)))
        self.assertEqual(want, self.score("--max-model-len", "64", "--threads", "1", "--max-num-batched-tokens", "5",
                                          self.path))

    def test_long_text_streams(self):
        """A text of several reads gives the ids of the whole."""
        text = "".join("Line %d says: Paris,\n%sand more.\r\n" % (i % 97, "  " * (i % 5)) for i in range(1500))
        self.assertGreater(len(text), 33 << 10)
        path = os.path.join(self.dir.name, "long.txt")
        with open(path, "w", newline="") as f:
            f.write(text)
        with Server() as s:
            n = s.request("POST", "/tokenize", {"prompt": text}, timeout=60).json()["count"]
        r = self.score("--max-model-len", "1024", path)
        self.assertEqual((n + 1022) // 1023, r["windows"])
        self.assertEqual(n - r["windows"], r["tokens"])

    def test_refusals(self):
        bad = os.path.join(self.dir.name, "bad.txt")
        empty = os.path.join(self.dir.name, "empty.txt")
        with open(bad, "wb") as f:
            f.write(b"good\nbad \xff\n")
        open(empty, "w").close()
        for args, code, pattern in [([], 2, "a FILE is missing"), (["/nonexistent"], 1, "cannot open /nonexistent"),
                                    ([self.dir.name], 1, "cannot read"), ([bad], 1, "not valid UTF-8"),
                                    ([empty], 1, "nothing to score"), (["--model", "/nonexistent", bad], 1, "/nonexistent")]:
            r = run("score", *args)
            self.assertEqual((code, b""), (r.returncode, r.stdout), args)
            self.assertRegex(r.stderr.decode(), "^engramd score: .*%s.*\n$" % re.escape(pattern))

    def test_bar_on_a_terminal_only(self):
        self.assertEqual(b"", run("score", self.path).stderr)
        master, slave = pty.openpty()
        p = subprocess.Popen([harness.exe, "score", "--max-model-len", "16", self.path], stdout=subprocess.PIPE,
                             stderr=slave)
        os.close(slave)
        seen, deadline = b"", time.monotonic() + 60
        while time.monotonic() < deadline and select.select([master], [], [], 60)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:  # the other side is gone
                break
            if not data:
                break
            seen += data
        os.close(master)
        self.assertIn(b"tokens", p.stdout.read())
        p.stdout.close()
        self.assertEqual(0, p.wait(10))
        self.assertRegex(seen, rb"\r\x1b\[K\[#*\.*\] +\d+ % ")
        self.assertTrue(seen.endswith(b"\r\x1b[K"), seen[-80:])


class Bench(Case):
    QUICK = ["--seconds", "0.05", "--read-bytes", "64M"]

    def bench(self, *args):
        r = run("bench", "--json", *self.QUICK, *args)
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        return json.loads(r.stdout)

    def test_figures(self):
        b = self.bench("--batch", "1,4", "--context", "1,100,128,4096,32768", "--prompt-tokens", "64,600,100000")
        self.assertEqual({"machine", "read_gbps", "math", "decode", "prefill", "engram", "server"}, set(b))
        self.assertEqual({"cpu", "cores", "device"}, set(b["machine"]))
        self.assertTrue(b["machine"]["device"].startswith("cpu/"), b["machine"])
        self.assertEqual("f32", b["math"])
        self.assertGreater(b["read_gbps"], 0.1)
        self.assertEqual([64, 600], [p["tokens"] for p in b["prefill"]])
        self.assertEqual([(c, n) for c in (1, 100, 128, 4096) for n in (1, 4)],
                         [(d["context"], d["batch"]) for d in b["decode"]])
        for d in b["decode"]:
            self.assertEqual({"batch", "context", "tok_s", "bytes_per_token", "fraction_of_read", "engram_fraction", "ms"},
                             set(d))
            self.assertEqual({"engram", "attention", "moe", "dense", "head", "other"}, set(d["ms"]))
            self.assertTrue(all(v >= 0 for v in d["ms"].values()), d)
            # the parts are a step: their sum, and the rate's median over rounds, speak of the same thing
            step_ms = sum(d["ms"].values())
            self.assertTrue(0.2 < 1000 * d["batch"] / d["tok_s"] / step_ms < 5, d)
            self.assertTrue(0 < d["engram_fraction"] < 1 and d["fraction_of_read"] > 0, d)
        one, four = b["decode"][4], b["decode"][5]
        self.assertTrue(one["bytes_per_token"] / 4 <= four["bytes_per_token"] < one["bytes_per_token"])
        self.assertEqual({"rows", "gather_rows_s_per_core", "wait_us_p50", "wait_us_p99"}, set(b["engram"]))
        self.assertEqual(192706 + 194042, b["engram"]["rows"])
        self.assertTrue(0 <= b["engram"]["wait_us_p50"] <= b["engram"]["wait_us_p99"])
        self.assertTrue(0 < b["server"]["schedule_us_p50"] <= b["server"]["schedule_us_p99"])

    def test_bytes_are_those_of_the_weights(self):
        """At batch 1: everything but the embedding and the experts that were not chosen."""
        b = self.bench("--batch", "1", "--context", "64", "--prompt-tokens", "64")
        plan = json.loads(run("plan", "--json").stdout)
        weights = next(i["bytes"] for i in plan["items"] if i["name"] == "weights")
        self.assertTrue(weights / 4 < b["decode"][0]["bytes_per_token"] < weights, (b, weights))

    def test_table(self):
        r = run("bench", *self.QUICK, "--batch", "2", "--context", "64,9999", "--prompt-tokens", "64")
        self.assertEqual((0, b""), (r.returncode, r.stderr))
        for word in b"read rate", b"prefill", b"decode", b"Engram: 386748 rows", b"1 figures left out":
            self.assertIn(word, r.stdout)

    def test_refusals(self):
        for args, code, pattern in [(["--batch", "0"], 2, '--batch: "0"'), (["--context", "1,x"], 2, '--context: "x"'),
                                    (["--prompt-tokens", "-1"], 2, "--prompt-tokens: "), (["--read-bytes", "1K"], 2, "--read-bytes"),
                                    (["--batch", ",".join(["1"] * 17)], 2, "--batch: more than 16"),
                                    (["--batch", "5000"], 1, "batch of 5000"), (["/nonexistent"], 1, "/nonexistent")]:
            r = run("bench", *args)
            self.assertEqual((code, b""), (r.returncode, r.stdout), args)
            self.assertRegex(r.stderr.decode(), "^engramd bench: .*%s.*\n$" % re.escape(pattern))


class Probe(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def probe(self, *args, code, pattern=""):
        r = run("probe", *args, timeout=20)
        self.assertEqual((code, b""), (r.returncode, r.stdout), r.stderr)
        self.assertRegex(r.stderr.decode(), "^engramd probe: .*%s.*\n$" % re.escape(pattern) if code else "^$")

    def test_well(self):
        base = "http://127.0.0.1:%d" % self.server.port
        for url in base, base + "/health", base + "/ready", base + "/version?x=1#y", \
                "http://localhost:%d/health" % self.server.port:
            self.probe(url, code=0)
        self.probe("--port", str(self.server.port), code=0)
        self.probe("--port", str(self.server.port), "--host", "0.0.0.0", code=0)

    def test_not_well(self):
        self.probe("http://127.0.0.1:%d/nothing/here" % self.server.port, code=1, pattern="answers 404")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.probe("http://127.0.0.1:%d" % s.getsockname()[1], code=1, pattern="cannot connect")
        self.probe("http://no.such.host.invalid/", code=1, pattern="no.such.host.invalid")

    def answer(self, data, code, pattern=""):
        """A server that says this, whatever it is asked."""
        def serve():
            c, _ = listener.accept()
            with c:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += c.recv(4096)
                seen.append(request)
                for part in data:
                    c.sendall(part)
                    time.sleep(0.01)
        seen = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            t = threading.Thread(target=serve)
            t.start()
            self.probe("http://127.0.0.1:%d/a?b" % listener.getsockname()[1], code=code, pattern=pattern)
            t.join()
        self.assertTrue(seen[0].startswith(b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:"), seen)

    def test_answers(self):
        self.answer([b"HTTP/1.1 204 No Content\r\n\r\n"], 0)
        self.answer([b"HTTP/1.0 ", b"200", b" OK\r\n\r\n"], 0)
        self.answer([b"HTTP/1.1 503 Busy\r\n\r\n"], 1, "answers 503")
        self.answer([b"HTTP/1.1 301 Moved\r\n\r\n"], 1, "answers 301")
        self.answer([b"SSH-2.0-OpenSSH_9\r\n"], 1, "does not answer in HTTP")
        self.answer([b"HTTP/1.1 2"], 1, "does not answer in HTTP")

    def test_silence(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            start = time.monotonic()
            self.probe("http://127.0.0.1:%d" % s.getsockname()[1], code=1, pattern="no answer within 5 seconds")
            self.assertTrue(4 < time.monotonic() - start < 10)

    def test_wrong_urls(self):
        for url in "https://127.0.0.1/", "127.0.0.1:80", "http://", "http://:80/", "http://a:0/", "http://a:65536/", \
                "http://a:x/", "http://[::1/", "http://a b/", "http://a/b\r\nX: y", "http://a/" + "x" * 2000:
            self.probe(url, code=2)


if __name__ == "__main__":
    main()
