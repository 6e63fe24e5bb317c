#!/usr/bin/env python3
"""What goes wrong around a server, with the real model behind it: clients that leave in every phase of a request, that read
slowly or close one direction, kill -9 under load, a full disk for the log, a clock that jumps. Afterwards every block of
the cache is free and the same request still has the same bytes. `test_chaos.py ENGRAMD [--quick]`; ENGRAMD_CHAOS_ROUNDS says how
often each phase is gone through (12, quick 4)."""
import glob
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import probe
import swarm
import workload
from swarm import harness

SEED = int(os.environ.get("ENGRAMD_TEST_SEED") or 1)
quick = "--quick" in sys.argv
CACHE_TOKENS, LONG, ENDLESS_TOKENS = (512, 400, 480) if quick else (2048, 1500, 2000)
PROBE = {"prompt": [300, 301, 302], "max_tokens": 12, "temperature": 1, "seed": 5, "ignore_eos": True, "return_token_ids": True}
ENDLESS = {"prompt": [300], "max_tokens": ENDLESS_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
LONG_PROMPT = {"prompt": workload.some_ids(random.Random(1), LONG), "max_tokens": 4, "temperature": 0, "ignore_eos": True}
LARGEST = {"prompt": workload.some_ids(random.Random(2), CACHE_TOKENS - 80), "max_tokens": 64, "temperature": 0, "ignore_eos": True}
FAKETIME = (glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") or [None])[0]


def server(*args, **more):
    return harness.Server("--max-model-len", str(CACHE_TOKENS), *probe.cache_for(CACHE_TOKENS), *args, **more)


def ask_probe(s):
    return swarm.ask_all(s.port, [PROBE])[0].choices()


def send_part(c, body, share):
    """The first part of a request: share 0 to 1 of its header, 1 to 2 of its body as well."""
    data = body if isinstance(body, bytes) else harness.json.dumps(body).encode()
    head = swarm.head_of(c.port, data, None)
    n = int(len(head) * min(share, 1)) + int(len(data) * max(0, share - 1))
    c.send((head + data)[:n])


def leave(c, rng):
    """Closes, closes one direction, or resets."""
    kind = rng.randrange(3)
    if kind == 0:
        c.sock.close()
    elif kind == 1:
        c.sock.shutdown(socket.SHUT_WR)
        time.sleep(0.002)
        c.sock.close()
    else:
        c.reset()


class HangUps(harness.Case):
    """One server lives through all phases; each test leaves it as it found it."""

    @classmethod
    def setUpClass(cls):
        cls.rng = random.Random(SEED)
        cls.n_rounds = int(os.environ.get("ENGRAMD_CHAOS_ROUNDS") or (4 if quick else 12))
        cls.server = server("--max-num-seqs", "4", "--max-num-batched-tokens", "64")
        cls.alone = ask_probe(cls.server)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def tearDown(self):
        self.assertIsNone(self.server.proc.poll(), self.server.text()[-3000:])
        self.assertEqual(self.alone, ask_probe(self.server))
        probe.still_well(self.server, LARGEST)

    def rounds(self, body, after):
        """after(connection) does the rest of one client's life."""
        for _ in range(self.n_rounds):
            held = [self.server.connect(30) for _ in range(4)]
            for c in held:
                send_part(c, body, 2)
            for c in held:
                after(c)

    def test_in_the_header(self):
        for share in 0, 0.01, 0.3, 0.9, 0.999:
            for _ in range(self.n_rounds):
                c = self.server.connect()
                send_part(c, PROBE, share)
                leave(c, self.rng)

    def test_in_the_body(self):
        for share in 1, 1.01, 1.5, 1.99:
            for _ in range(self.n_rounds):
                c = self.server.connect()
                send_part(c, LONG_PROMPT, share)
                leave(c, self.rng)

    def test_right_after_the_body(self):
        for body in ENDLESS, LONG_PROMPT, {**ENDLESS, "n": 4, "stream": False}:
            self.rounds(body, lambda c: leave(c, self.rng))

    def test_in_the_queue(self):
        running = [self.server.connect(30) for _ in range(4)]
        for c in running:
            send_part(c, ENDLESS, 2)
        for c in running:
            next(self.started(c))
        self.rounds(ENDLESS, lambda c: leave(c, self.rng))
        self.rounds({**PROBE, "max_tokens": 200}, lambda c: leave(c, self.rng))
        for c in running:
            leave(c, self.rng)

    def test_in_the_prefill(self):
        def wait_and_leave(c):
            time.sleep(self.rng.random() * 0.03)
            leave(c, self.rng)
        self.rounds(LONG_PROMPT, wait_and_leave)
        self.rounds({**LONG_PROMPT, "echo": True, "logprobs": 5}, wait_and_leave)

    def started(self, c):
        self.assertEqual(200, c.read_head()[0])
        return (e for kind, e in c.events() if kind == "data")

    def test_in_the_decode(self):
        def read_some(c):
            events = self.started(c)
            for _ in range(self.rng.randint(1, 8)):
                next(events)
            leave(c, self.rng)
        self.rounds(ENDLESS, read_some)
        self.rounds({**ENDLESS, "n": 4, "temperature": 1, "logprobs": 5}, read_some)

    def test_at_the_stop(self):
        """The last token and the farewell at about the same time."""
        body = {**ENDLESS, "max_tokens": 3, "stop": ["zebra"]}

        def read_to_the_end(c):
            events = self.started(c)
            for _ in range(3):
                if next(events, "[DONE]") == "[DONE]":
                    break
            leave(c, self.rng)
        self.rounds(body, read_to_the_end)

    def test_slow_readers(self):
        """They hold nobody up: a quick client is served meanwhile, with the right bytes."""
        slow = [self.server.connect(30, rcvbuf=2048) for _ in range(3)]
        for c in slow:
            send_part(c, {**ENDLESS, "logprobs": 20}, 2)
        start = time.monotonic()
        for _ in range(5):
            self.assertEqual(self.alone, ask_probe(self.server))
        self.assertLess(time.monotonic() - start, 60 if quick else 15)
        for c in slow:
            leave(c, self.rng)

    def test_silent_halves(self):
        """Clients that close their sending side and wait for what never comes; nobody tells them anything."""
        held = []
        for share in 0.5, 1.5, 2:
            for _ in range(4):
                c = self.server.connect()
                send_part(c, ENDLESS, share)
                c.sock.shutdown(socket.SHUT_WR)
                held.append(c)
        self.assertEqual(self.alone, ask_probe(self.server))
        probe.still_well(self.server, LARGEST)  # although they are still there
        for c in held:
            c.sock.close()


class Process(harness.Case):
    def test_kill_under_load_and_restart(self):
        port, alone = 0, None
        for turn in range(2 if quick else 4):
            with server("--max-num-seqs", "64", port=port) as s:
                port = s.port
                now = ask_probe(s)
                alone = alone or now
                self.assertEqual(alone, now, "after %d kills" % turn)
                held = [s.connect(30) for _ in range(64)]
                for i, c in enumerate(held):
                    send_part(c, ENDLESS if i % 2 else LONG_PROMPT, 2)
                for c in held[1:16:2]:
                    self.assertEqual(200, c.read_head()[0])
                s.send_signal(signal.SIGKILL)
                self.assertEqual(-signal.SIGKILL, s.wait())
                for c in held:  # nobody gets what looks like a whole answer
                    try:
                        rest = c.buf + b"".join(iter(lambda: c.sock.recv(65536), b""))
                    except ConnectionError:
                        rest = b""
                    self.assertFalse(rest.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"))
                    c.sock.close()

    def test_a_full_disk_for_the_log(self):
        """Every write of the log fails; requests do not."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open("/dev/full", "w") as full:
            proc = subprocess.Popen([harness.exe, "serve", "--port", str(port), "--log-level", "debug"], stdin=subprocess.DEVNULL,
                                    stdout=full, stderr=full)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with harness.Conn(port) as c:
                        c.send_request("GET", "/ready", None, {"Connection": "close"})
                        if c.read_answer().status == 200:
                            break
                except OSError:
                    pass  # it does not listen yet
                self.assertIsNone(proc.poll(), "a full disk ended the server")
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            replies = swarm.ask_all(port, [PROBE] * 50 + [b"{"] * 50, None, 20)
            self.assertEqual([200] * 50 + [400] * 50, [r.status for r in replies])
            self.assertEqual(1, len({r.choices() for r in replies[:50]}))
            proc.terminate()
            self.assertEqual(0, proc.wait(60))
        finally:
            if proc.poll() is None:
                proc.kill()
                proc.wait()

    @unittest.skipIf(quick, "libfaketime and sanitizers do not go together")
    def test_clock_steps(self):
        """The time of day jumps to and fro while streams run: nothing times out, nothing stalls, only `created` shows it."""
        self.assertIsNotNone(FAKETIME, "libfaketime is not installed")
        with tempfile.NamedTemporaryFile("w", suffix=".faketime") as f:
            def step(text):
                f.seek(0)
                f.write(text + "\n")
                f.truncate()
                f.flush()
            step("+0")
            env = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": f.name, "FAKETIME_NO_CACHE": "1",
                   "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
            with server("--request-timeout", "60", "--header-timeout", "20", env=env) as s:
                alone, created = ask_probe(s), []
                for jump in "-400d", "+3650d", "-1s", "+0", "+1h", "-20y":
                    with s.connect(20) as c:
                        c.send_request("POST", "/v1/completions", {**ENDLESS, "max_tokens": 100})
                        self.assertEqual(200, c.read_head()[0])
                        events = (e for kind, e in c.events() if kind == "data")
                        created.append(next(events)["created"])
                        step(jump)
                        start = time.monotonic()
                        rest = list(events)
                        self.assertEqual(("[DONE]", "length"), (rest[-1], rest[-2]["choices"][0]["finish_reason"]))
                        self.assertLess(time.monotonic() - start, 15)
                        self.assertEqual(200, s.request("GET", "/health").status)
                        self.assertEqual(alone, ask_probe(s))
                self.assertGreater(max(created) - min(created), 3650 * 86400, "the clock did not jump at all")
                probe.still_well(s, LARGEST)
                self.assertEqual(0, s.stop(), s.text())


if __name__ == "__main__":
    harness.exe = sys.argv.pop(1)
    print("seed %d" % SEED)
    sys.stdout.flush()
    unittest.main(argv=[a for a in sys.argv if a != "--quick"], verbosity=2)
