#!/usr/bin/env python3
"""Random requests from a seed: good ones changed in their fields, their JSON, their bytes and their HTTP. Every answer must
be one that the contract knows, never a 500; then nothing may be left over. `test_fuzz.py EXE [--count N] [SERVER OPTIONS]`"""
import argparse
import concurrent.futures
import json
import os
import random
import socket
import time

import probe
import swarm
from swarm import harness

WORKERS = 8
# What a request may be answered; a 500 is a fault, and so is a 503 of a server that is neither loading nor draining.
ALLOWED = {200, 204, 400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 422, 429, 431, 501, 505}
MAX_GROWTH = 24 << 20
CACHE_TOKENS = 1024
LARGEST = {"prompt": [300] * (CACHE_TOKENS - 40), "max_tokens": 32, "temperature": 0, "ignore_eos": True}
ODD = [None, True, False, 0, -1, 1, 2, 20, 2 ** 31, 2 ** 63, -2 ** 63, 1e308, 0.5, -0.0, "", "x", "\u0000", "é", "😀", [], {}, [[]],
       [None], ["a", 1], {"a": 1}, "a" * 3000, [300] * 700, [6143], [6144], [-1], [2 ** 40]]
FIELDS = ["model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "logprobs", "echo", "stream",
          "stream_options", "ignore_eos", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens",
          "stop_token_ids", "add_special_tokens", "return_token_ids", "return_tokens_as_token_ids", "cache_salt", "priority", "timeout",
          "engram", "user", "metadata", "response_format", "structured_outputs", "best_of", "suffix", "nonsense"]
TEXTS = ["The capital of France is", "x", "", "é😀\n", "<｜end▁of▁sentence｜>", "one two three " * 30]
PATHS = ["/v1/completions"] * 12 + ["/tokenize", "/detokenize", "/v1/models", "/health", "/ready", "/version", "/metrics", "/",
                                    "/v1/chat/completions", "/v1/completions/", "//", "/%2e%2e/etc", "/v1/models/x", "/v1/completions?a=b"]
METHODS = ["POST"] * 12 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "TRACE", "X" * 40]
HEADERS = ["Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 1, 2",
           "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Expect: 100-continue", "Expect: nonsense", "Host: evil.example",
           "X-Request-Id: \x01\x02", "X-Request-Id: " + "a" * 300, "Connection: upgrade", "Upgrade: h2c", "Cookie: " + "b" * 5000,
           "Authorization: Bearer x", "Authorization: Basic eDp5", "Content-Type: text/plain", "Origin: http://evil.example", ": empty",
           "No colon", " folded: yes", "X-\xff: \xfe", "Range: bytes=0-1", "Accept-Encoding: gzip", "If-Match: *"]


class Fuzzer:
    """One seed, one request: what number i sends depends on nothing else."""

    def __init__(self, seed, port):
        self.rng = random.Random(seed)
        self.port = port

    def body(self):
        rng = self.rng
        body = {"prompt": rng.choice([rng.choice(TEXTS), [300 + rng.randrange(5000) for _ in range(rng.randint(1, 40))]]),
                "max_tokens": rng.randrange(4)}
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            body[rng.choice(FIELDS)] = rng.choice(ODD)
        if rng.random() < 0.2:
            body["stream"] = True
        if rng.random() < 0.1:
            body.pop("prompt", None)
        if isinstance(body.get("n"), int) and body["n"] > 4 and rng.random() < 0.9:
            body["n"] = 2
        return json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")

    def damage(self, data):
        rng, data = self.rng, bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(5)
            if kind == 0:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
            elif kind == 1:
                del data[at:at + rng.randint(1, 8)]
            elif kind == 2:
                data[at:at + 1] = rng.choice([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\xff", b"\r\n", b"\n", b" "])
            elif kind == 3:
                data[at:at] = data[at:at + rng.randint(1, 30)]
            else:
                data = data[:at]
        return bytes(data)

    def request(self):
        """(bytes, whether they are whole HTTP, so that an answer must come)."""
        rng, body = self.rng, self.body()
        if rng.random() < 0.35:
            body = self.damage(body)
        whole = rng.random() < 0.7
        if whole:
            head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n" % (self.port, len(body))
            return head.encode() + b"Connection: close\r\n\r\n" + body, True
        lines = ["%s %s %s" % (rng.choice(METHODS), rng.choice(PATHS),
                               rng.choice(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "", "FTP/1.1"])),
                 "Host: 127.0.0.1:%d" % self.port, "Content-Length: %d" % (len(body) + rng.choice([0, 0, 0, 1, -1, 1000])),
                 "Connection: close"]
        for _ in range(rng.randrange(4)):
            lines.insert(rng.randint(1, len(lines)), rng.choice(HEADERS))
        if rng.random() < 0.2:
            lines.pop(rng.randrange(len(lines)))
        end = rng.choice(["\r\n"] * 8 + ["\n", "\r", "\r\n\r\n"])
        data = (end.join(lines) + end + end).encode("latin-1") + body
        return (self.damage(data) if rng.random() < 0.3 else data), False


def converse(port, data, must_answer, rng):
    """Sends in pieces, reads until the end or, where nothing need come, a moment. Returns the status or None."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        try:
            cut = rng.randrange(len(data) + 1) if rng.random() < 0.2 else len(data)
            s.sendall(data[:cut])
            s.sendall(data[cut:])
            s.settimeout(60 if must_answer else 0.1)
            while len(answer) < 1 << 24:
                piece = s.recv(65536)
                if not piece:
                    break
                answer += piece
        except socket.timeout:
            if must_answer:
                raise AssertionError("no end of the answer to %r, only %r" % (data[:2000], answer[:500]))
        except OSError:
            pass
    while answer.startswith(b"HTTP/1.1 100"):
        answer = answer.split(b"\r\n\r\n", 1)[1]
    if not answer:
        return None
    return int(answer.split(b" ", 2)[1][:3])


def one(seed, number, port):
    fuzzer = Fuzzer("%d/%d" % (seed, number), port)
    data, must_answer = fuzzer.request()
    status = converse(port, data, must_answer, fuzzer.rng)
    if status is None and must_answer:
        raise AssertionError("seed %d, request %d: no answer to %r" % (seed, number, data[:2000]))
    if status is not None and status not in ALLOWED:
        raise AssertionError("seed %d, request %d: status %d to %r" % (seed, number, status, data[:2000]))
    return status


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exe")
    parser.add_argument("--count", type=int, default=10000)
    args, options = parser.parse_known_args()
    harness.exe = args.exe
    seed = int(os.environ.get("ENGRAMD_TEST_SEED") or 1)
    print("seed %d" % seed, flush=True)
    counts, start, sizes = {}, time.monotonic(), []
    with harness.Server("--max-model-len", str(CACHE_TOKENS), *probe.cache_for(CACHE_TOKENS), "--log-level", "warning",
                        "--body-timeout", "5", "--header-timeout", "5", *options) as s:
        good = {"prompt": [300, 301], "max_tokens": 4, "temperature": 0}
        expected = swarm.ask_all(s.port, [good])[0].choices()
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            for first in range(0, args.count, 500):
                for status in pool.map(lambda i: one(seed, i, s.port), range(first, min(args.count, first + 500))):
                    counts[status] = counts.get(status, 0) + 1
                assert s.proc.poll() is None, s.text()[-3000:]
                assert swarm.ask_all(s.port, [good])[0].choices() == expected, "a good request has another answer"
                sizes.append(s.rss())
        probe.still_well(s, LARGEST)
        assert s.stop() == 0, s.text()[-3000:]
    print("%d requests in %.1f s: %s" % (args.count, time.monotonic() - start, dict(sorted(counts.items(), key=str))))
    print("resident: %.1f MiB after a quarter, %.1f MiB at the end" % (sizes[len(sizes) // 4] / 2 ** 20, sizes[-1] / 2 ** 20))
    assert counts.get(200, 0) > args.count / 20 and counts.get(400, 0) > args.count / 20, "the requests are not mixed"
    assert os.environ.get("ASAN_OPTIONS") or sizes[-1] - sizes[len(sizes) // 4] < MAX_GROWTH, "it grows"


if __name__ == "__main__":
    main()
