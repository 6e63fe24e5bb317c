#!/usr/bin/env python3
"""Answers as they come: clients that leave, read slowly, wait long; failures in the middle. Against the stub engine."""
import socket
import time

from harness import Case, Closed, Server, main

STALL, FAIL, FREEZE, BURST = 6000, 6001, 6002, 6003  # first ids of a prompt that the stub understands
STEP = 0.1  # seconds between the stub's steps where it matters


def ended(server, request_id, timeout=10):
    """(time, finish, tokens) of the stub's line about the end of a request."""
    at, m = server.wait_line(r"stub: end %s finish=(\d) tokens=(\d+)" % request_id, timeout)
    return at, int(m.group(1)), int(m.group(2))


class Streams(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--keepalive-interval", "1", "stub:step_us=%d" % (STEP * 1e6))

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def start(self, request_id, body):
        c = self.server.connect()
        self.addCleanup(c.sock.close)
        c.send_request("POST", "/v1/completions", body, {"X-Request-Id": request_id})
        return c

    def expect_cancel(self, request_id, since):
        at, finish, tokens = ended(self.server, request_id)
        self.assertEqual(3, finish)  # EM_FINISH_CANCEL
        self.assertLess(at - since, 2 * STEP + 0.1)
        _, m = self.server.wait_line(r"\[%s\] POST \S+ (\d+) .*end=client_left" % request_id)
        return tokens, int(m.group(1))

    def leave(self, request_id, body, how, events=2):
        c = self.start(request_id, body)
        if body.get("stream"):
            self.assertEqual(200, c.read_head()[0])
            stream = c.events()
            for _ in range(events):
                next(stream)
        else:
            self.server.wait_line("stub: begin %s$" % request_id)
            time.sleep(2.5 * STEP)
        since = time.monotonic()
        how(c)
        return self.expect_cancel(request_id, since)

    def test_leaving_a_stream(self):
        body = {"prompt": [300], "max_tokens": 1000, "stream": True}
        for name, how in [("close", lambda c: c.sock.close()), ("reset", lambda c: c.reset()),
                          ("half-close", lambda c: c.sock.shutdown(socket.SHUT_WR))]:
            tokens, status = self.leave("stream-" + name, body, how)
            self.assertEqual(200, status)
            self.assertTrue(2 <= tokens <= 4, tokens)

    def test_leaving_while_waiting_for_all(self):
        body = {"prompt": [300], "max_tokens": 1000}
        for name, how in [("close", lambda c: c.sock.close()), ("reset", lambda c: c.reset()),
                          ("half-close", lambda c: c.sock.shutdown(socket.SHUT_WR))]:
            tokens, status = self.leave("whole-" + name, body, how)
            self.assertEqual(499, status)
            self.assertTrue(1 <= tokens <= 5, tokens)

    def test_leaving_before_the_first_token(self):
        for stream in False, True:
            name = "stall-%d" % stream
            tokens, _ = self.leave(name, {"prompt": [STALL], "stream": stream}, lambda c: c.sock.close(), events=0)
            self.assertEqual(0, tokens)

    def test_leaving_at_once(self):
        for i in range(20):
            c = self.start("once-%d" % i, {"prompt": [STALL], "stream": i % 2 == 0})
            c.sock.close()
        for i in range(20):
            self.assertEqual(3, ended(self.server, "once-%d" % i)[1])

    def test_comments_keep_a_silent_stream_alive(self):
        c = self.start("silent", {"prompt": [STALL], "stream": True})
        status, headers = c.read_head()
        self.assertEqual((200, "no", "no-cache"), (status, headers["x-accel-buffering"], headers["cache-control"]))
        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
        start, stream = time.monotonic(), c.events()
        for i in range(1, 4):
            kind, text = next(stream)
            self.assertEqual((":", b": keep-alive"), (kind, text))
            self.assertLess(abs(time.monotonic() - start - i), 0.4 * i)

    def test_tokens_come_one_by_one(self):
        c = self.start("paced", {"prompt": [300, 301], "max_tokens": 5, "stream": True})
        c.read_head()
        times, texts = [], []
        for _, event in c.events():
            times.append(time.monotonic())
            texts.append(event if event == "[DONE]" else event["choices"][0]["text"])
        self.assertEqual(["t300 ", "t301 ", "t300 ", "t301 ", "t300 ", "[DONE]"], texts)
        for a, b in zip(times[:4], times[1:5]):
            self.assertTrue(0.5 * STEP < b - a < 2.5 * STEP, times)

    def test_failure_in_a_stream(self):
        c = self.start("fail-stream", {"prompt": [FAIL], "max_tokens": 10, "stream": True})
        self.assertEqual(200, c.read_head()[0])
        events = [e for _, e in c.events()]
        self.assertEqual("[DONE]", events[-1])
        self.assertEqual({"message", "type", "param", "code"}, set(events[-2]["error"]))
        self.assertEqual("server_error", events[-2]["error"]["type"])

    def test_failure_of_a_whole_answer(self):
        a = self.start("fail-whole", {"prompt": [FAIL], "max_tokens": 10}).read_answer()
        self.check_error(a, 500)
        self.assertEqual("false", a.headers["x-should-retry"])

    def test_choices_of_one_request(self):
        body = {"prompt": [[300], [301]], "n": 2, "max_tokens": 2, "temperature": 1}
        choices = self.start("choices", body).read_answer().json()["choices"]
        self.assertEqual([(0, "t300 t300 "), (1, "t300 t300 "), (2, "t301 t301 "), (3, "t301 t301 ")],
                         sorted((c["index"], c["text"]) for c in choices))

    def test_an_answer_survives_the_next_request_of_the_connection(self):
        c = self.start("kept", {"prompt": [300], "max_tokens": 2, "stream": True})
        self.assertEqual(200, c.read_answer().status)
        time.sleep(0.3)
        c.send_request("POST", "/v1/completions", {"prompt": [300], "max_tokens": 2})
        self.assertEqual(200, c.read_answer().status)


class Pressure(Case):
    def test_slow_reader_is_cut_off(self):
        with Server("--max-output-bytes", "64K", "stub:step_us=2000") as s:
            with s.connect(rcvbuf=4096) as c:
                c.send_request("POST", "/v1/completions", {"prompt": [BURST], "max_tokens": 1000000, "stream": True},
                               {"X-Request-Id": "slow"})
                at, finish, tokens = ended(s, "slow", 30)
                self.assertEqual(3, finish)
                self.assertLess(tokens, 1000000)
                # others are not disturbed
                self.assertEqual(200, s.complete({"prompt": [300], "max_tokens": 2}).status)
                with self.assertRaises(Closed):  # a cut stream must not look complete
                    for _ in c.chunks() if c.read_head() else ():
                        pass
            s.wait_line(r"\[slow\] .* end=slow_reader")
            self.assertEqual(0, s.stop())

    def test_answer_too_large_to_be_whole(self):
        with Server("--max-reply-bytes", "64K", "stub:") as s:
            a = s.complete({"prompt": [BURST], "max_tokens": 100000})
            self.check_error(a, 400, code="answer_too_large")
            self.assertEqual(200, s.complete({"prompt": [300], "max_tokens": 2}).status)

    def test_queue_full(self):
        with Server("--max-num-seqs", "2", "--max-queue", "3", "stub:") as s:
            held = []
            for i in range(5):
                held.append(s.connect())
                prompt = [300] if i < 2 else [STALL]
                held[-1].send_request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 10 ** 6, "stream": True})
                self.assertEqual(200, held[-1].read_head()[0])
                if i < 2:
                    next(held[-1].events())  # has its place, so that the others wait
            for stream in False, True:
                a = s.complete({"prompt": [300], "stream": stream})
                self.check_error(a, 429, code="queue_full")
                self.assertEqual("4", a.headers["retry-after"])  # three wait, each takes the stub's second
                self.assertEqual("rate_limit_error", a.error()["type"])
            for c in held:
                c.sock.close()
            deadline = time.monotonic() + 5
            while s.complete({"prompt": [300], "max_tokens": 1}).status != 200:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

    def test_waiting_requests_are_kept_alive_and_cancelled(self):
        with Server("--max-num-seqs", "1", "--keepalive-interval", "1", "stub:") as s:
            first, second = s.connect(), s.connect()
            for c, name in (first, "first"), (second, "second"):
                c.send_request("POST", "/v1/completions", {"prompt": [STALL], "stream": True}, {"X-Request-Id": name})
                self.assertEqual(200, c.read_head()[0])
            self.assertEqual(":", next(second.events())[0])
            second.sock.close()
            self.assertEqual(3, ended(s, "second")[1])
            first.sock.close()
            self.assertEqual(3, ended(s, "first")[1])

    def test_request_timeout(self):
        with Server("--request-timeout", "0.3", "stub:") as s:
            start = time.monotonic()
            a = s.complete({"prompt": [STALL]})
            self.assertIn(a.status, (408, 503, 504))
            self.check_error(a, a.status)
            self.assertLess(time.monotonic() - start, 3)
            with s.connect() as c:
                c.send_request("POST", "/v1/completions", {"prompt": [STALL], "stream": True})
                c.read_head()
                events = [e for _, e in c.events()]
                self.assertIn("error", events[0])

    def test_health_tells_of_a_frozen_step_thread(self):
        with Server("--health-timeout", "1", "stub:freeze_ms=3000") as s:
            self.assertEqual(200, s.request("GET", "/health").status)
            with s.connect(timeout=20) as c:
                c.send_request("POST", "/v1/completions", {"prompt": [FREEZE], "max_tokens": 3})
                time.sleep(2)
                self.check_error(s.request("GET", "/health"), 503, code="stalled")
                self.assertEqual(503, s.request("GET", "/ready").status)
                self.assertEqual(200, c.read_answer().status)
            self.assertEqual(200, s.request("GET", "/health").status)

    def test_large_event_over_the_limit_still_arrives(self):
        # the limit is for clients that do not read, not for large answers
        with Server("--max-output-bytes", "1K", "stub:") as s:
            a = s.complete({"prompt": [BURST], "max_tokens": 1000, "stream": True})
            self.assertTrue(a.body.endswith(b"data: [DONE]\n\n"))
            self.assertEqual(1000, a.body.count(b"t6003"))


if __name__ == "__main__":
    main()
