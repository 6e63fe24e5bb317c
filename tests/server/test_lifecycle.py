#!/usr/bin/env python3
"""Start, loading, draining, signals, crashes. Against the stub engine."""
import re
import signal
import subprocess
import time

import harness
from harness import Case, Closed, Server, main

STALL = 6000


class Loading(Case):
    def test_answers_while_loading(self):
        with Server("--served-model-name", "m", "stub:load_ms=3000", wait=False) as s:
            s.wait_port()
            a = s.request("GET", "/health")
            self.assertEqual((200, "loading"), (a.status, a.json()["status"]))
            progress = []
            for _ in range(2):
                a = s.request("GET", "/ready")
                self.check_ready(a)
                progress.append(a.json()["progress"])
                time.sleep(0.7)
            self.assertLess(progress[0], progress[1])
            for method, path in [("POST", "/v1/completions"), ("POST", "/tokenize"), ("GET", "/v1/models"),
                                 ("GET", "/v1/models/m")]:
                a = s.request(method, path, {"prompt": "x"} if method == "POST" else None)
                self.check_error(a, 503, code="loading")
                self.assertRegex(a.headers["retry-after"], r"^[1-9]\d*$")
            self.check_error(s.request("GET", "/nope"), 404)
            s.wait_ready()
            self.assertEqual("ready", s.request("GET", "/ready").json()["status"])
            self.assertEqual("ok", s.request("GET", "/health").json()["status"])
            self.assertEqual(200, s.complete({"prompt": [300], "max_tokens": 1}).status)

    def check_ready(self, a):
        self.assertEqual(503, a.status)
        body = a.json()
        self.assertEqual("loading", body["status"])
        self.assertIn(body["phase"], ("weights", "tables"))
        self.assertTrue(0 <= body["progress"] <= 1)
        self.assertEqual("loading", body["error"]["code"])

    def test_model_that_does_not_load(self):
        with Server("stub:load_ms=200,fail_load=1", wait=False) as s:
            self.assertEqual(1, s.wait())
            self.assertIn("the stub was told not to load", s.text())

    def test_port_in_use(self):
        with Server("stub:") as first, Server("stub:load_ms=5000", wait=False, port=first.port) as second:
            start = time.monotonic()
            self.assertEqual(1, second.wait())
            self.assertLess(time.monotonic() - start, 2)  # known before loading
            self.assertRegex(second.text(), r"engramd serve: port %d on 127.0.0.1 is in use" % first.port)

    def test_signal_while_loading(self):
        with Server("stub:load_ms=60000", wait=False) as s:
            s.wait_port()
            s.send_signal(signal.SIGTERM)
            self.assertEqual(0, s.wait(5))


class Draining(Case):
    def start(self, s, body, name):
        c = s.connect(timeout=20)
        self.addCleanup(c.sock.close)
        c.send_request("POST", "/v1/completions", body, {"X-Request-Id": name})
        s.wait_line("stub: begin %s$" % name)
        return c

    def test_idle(self):
        for sig in signal.SIGTERM, signal.SIGINT:
            with Server("stub:") as s:
                idle = s.connect()
                self.assertEqual(200, s.request("GET", "/health").status)
                start = time.monotonic()
                self.assertEqual(0, s.stop(sig))
                self.assertLess(time.monotonic() - start, 2)
                idle.sock.close()

    def test_running_requests_finish(self):
        with Server("stub:step_us=100000") as s:
            body = {"prompt": [300], "max_tokens": 12}
            stream, whole = self.start(s, {**body, "stream": True}, "stream"), self.start(s, body, "whole")
            self.assertEqual(200, stream.read_head()[0])
            early = s.connect()  # a connection from before
            self.addCleanup(early.sock.close)
            events = stream.events()
            next(events)
            s.send_signal(signal.SIGTERM)
            s.wait_line("draining")
            a = s.request("GET", "/ready")
            self.assertEqual((503, "draining"), (a.status, a.json()["status"]))
            self.assertEqual(200, s.request("GET", "/health").status)
            self.check_error(s.complete(body), 503, code="draining")
            early.send_request("POST", "/v1/completions", body)
            a = early.read_answer()
            self.check_error(a, 503, code="draining")
            self.assertIn("retry-after", a.headers)
            rest = [e for _, e in events]
            self.assertEqual("[DONE]", rest[-1])
            self.assertEqual(11, len(rest) - 1)
            self.assertEqual("t300 " * 12, whole.read_answer().json()["choices"][0]["text"])
            self.assertEqual(0, s.wait(5))

    def test_waiting_requests_finish_too(self):
        with Server("--max-num-seqs", "1", "stub:step_us=50000") as s:
            body = {"prompt": [300], "max_tokens": 5}
            running = [self.start(s, body, "r%d" % i) for i in range(3)]
            s.send_signal(signal.SIGTERM)
            for c in running:
                self.assertEqual(200, c.read_answer().status)
            self.assertEqual(0, s.wait(5))

    def test_drain_timeout(self):
        with Server("--drain-timeout", "0.5", "stub:") as s:
            stream = self.start(s, {"prompt": [STALL], "stream": True}, "stream")
            whole = self.start(s, {"prompt": [STALL]}, "whole")
            self.assertEqual(200, stream.read_head()[0])
            start = time.monotonic()
            s.send_signal(signal.SIGTERM)
            self.check_error(whole.read_answer(), 503, code="draining")
            events = stream.events()
            kind, event = next(events)
            self.assertEqual("draining", event["error"]["code"])
            self.assertRaises(Closed, next, events)  # not a clean end
            self.assertEqual(0, s.wait(5))
            self.assertTrue(0.4 < time.monotonic() - start < 3)
            for name in "stream", "whole":
                s.wait_line(r"stub: end %s finish=3" % name)

    def test_half_a_request_does_not_hold_the_end(self):
        with Server("--drain-timeout", "0.5", "stub:") as s, s.connect() as c:
            c.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.1)
            self.assertEqual(0, s.stop(timeout=6))

    def test_second_signal_aborts(self):
        for second in signal.SIGTERM, signal.SIGINT:
            with Server("stub:") as s:
                c = self.start(s, {"prompt": [STALL], "stream": True}, "stall")
                self.assertEqual(200, c.read_head()[0])
                s.send_signal(signal.SIGTERM)
                s.wait_line("draining")
                s.send_signal(second)
                self.assertEqual(1, s.wait(3))

    def test_many_streams_at_the_end(self):
        with Server("--drain-timeout", "0.3", "--max-num-seqs", "64", "stub:") as s:
            held = [self.start(s, {"prompt": [STALL], "stream": i % 2 == 0}, "r%d" % i) for i in range(200)]
            self.assertEqual(0, s.stop(timeout=10))
            self.assertEqual(200, len(held))

    def test_leaving_while_draining(self):
        with Server("stub:") as s:
            c = self.start(s, {"prompt": [STALL], "stream": True}, "stall")
            self.assertEqual(200, c.read_head()[0])
            s.send_signal(signal.SIGTERM)
            s.wait_line("draining")
            c.sock.close()
            self.assertEqual(0, s.wait(5))


class Watchdog(Case):
    FREEZE = 6002

    def freeze(self, s, name, stream=True):
        c = s.connect()
        self.addCleanup(c.sock.close)
        # the stub freezes when it has made one token
        c.send_request("POST", "/v1/completions", {"prompt": [self.FREEZE], "stream": stream, "max_tokens": 50},
                       {"X-Request-Id": name})
        s.wait_line("stub: begin %s$" % name)

    def test_hung_step_ends_the_process(self):
        with Server("--watchdog-timeout", "1", "--max-num-seqs", "1", "--log-format", "text",
                    "stub:freeze_ms=20000,step_us=50000") as s:
            c = s.connect()
            self.addCleanup(c.sock.close)
            self.freeze(s, "hung")
            c.send_request("POST", "/v1/completions", {"prompt": "a secret text"}, {"X-Request-Id": "waits"})
            s.wait_line("stub: begin waits$")
            start = time.monotonic()
            self.assertEqual(3, s.wait(10))
            self.assertTrue(0.5 < time.monotonic() - start < 4)
            text = s.text()
            self.assertRegex(text, r"error watchdog: the step thread has not moved for 1\.\d s \(--watchdog-timeout 1\)")
            self.assertRegex(text, r"\[hung\] watchdog: .* generating, 1 tokens so far, streamed")
            self.assertRegex(text, r"\[waits\] watchdog: .* no token yet, 0 tokens so far\n")
            self.assertRegex(text, r"watchdog: 2 requests, 2 connections, serving")
            self.assertRegex(text, r"watchdog: \d+ steps, .* 1 running, 1 waiting")
            self.assertNotIn("secret", text)

    def test_also_while_draining(self):
        with Server("--watchdog-timeout", "1", "stub:freeze_ms=20000") as s:
            self.freeze(s, "hung")
            s.send_signal(signal.SIGTERM)
            self.assertEqual(3, s.wait(10))
            self.assertIn("1 connections, draining", s.text())

    def test_slow_is_not_hung(self):
        with Server("--watchdog-timeout", "1", "stub:step_us=500000,freeze_ms=200") as s:
            time.sleep(2.5)  # idle, too
            self.assertEqual(200, s.complete({"prompt": [self.FREEZE], "max_tokens": 3}).status)
            self.assertEqual(0, s.stop())

    def test_stopped_process_is_not_hung(self):
        with Server("--watchdog-timeout", "1", "stub:") as s:
            for _ in range(2):
                s.send_signal(signal.SIGSTOP)
                time.sleep(2.5)
                s.send_signal(signal.SIGCONT)
                time.sleep(0.5)
            self.assertEqual(200, s.complete({"prompt": [300], "max_tokens": 1}).status)
            self.assertEqual(0, s.stop())

    def test_off(self):
        with Server("--watchdog-timeout", "0", "--health-timeout", "1", "stub:freeze_ms=3000") as s:
            self.freeze(s, "hung")
            time.sleep(2)
            self.check_error(s.request("GET", "/health"), 503, code="stalled")
            time.sleep(1.5)
            self.assertEqual(200, s.request("GET", "/health").status)


class Crashes(Case):
    def test_kill_and_restart_on_the_same_port(self):
        port = 0
        for _ in range(3):
            with Server("stub:", port=port) as s:
                port = s.port
                c = s.connect()
                c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 100000, "stream": True})
                self.assertEqual(200, c.read_head()[0])
                s.send_signal(signal.SIGKILL)
                self.assertEqual(-signal.SIGKILL, s.wait())
                c.sock.close()

    def test_sigpipe_is_ignored(self):
        with Server("stub:") as s:
            s.send_signal(signal.SIGPIPE)
            self.assertEqual(200, s.request("GET", "/health").status)

    def test_log_reader_that_goes_away(self):
        proc = subprocess.Popen([harness.exe, "serve", "--port", "0", "stub:"], stderr=subprocess.PIPE)
        self.addCleanup(proc.wait)
        self.addCleanup(proc.kill)
        for line in proc.stderr:
            m = re.search(rb"listening on http://127.0.0.1:(\d+)", line)
            if m:
                break
        proc.stderr.close()  # the next lines go nowhere
        for _ in range(5):
            with harness.Conn(int(m.group(1))) as c:
                c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 1})
                self.assertEqual(200, c.read_answer().status)


if __name__ == "__main__":
    main()
