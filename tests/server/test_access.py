#!/usr/bin/env python3
"""Who may ask: API keys, origins, connections of one address. Against the stub engine."""
import os
import signal
import socket
import tempfile
import time

from harness import Case, Closed, Server, main

BODY = {"prompt": [300], "max_tokens": 1}
KEY, OTHER = "sk-" + "a" * 40, "sk-" + "b" * 40


def bearer(key):
    return {"Authorization": "Bearer " + key}


class KeyFile(Case):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "keys")

    def write(self, text):
        with open(self.path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())

    def server(self, *args):
        s = Server("--api-key-file", self.path, *args, "stub:")
        self.addCleanup(s.__exit__)
        return s


class Keys(KeyFile):
    def test_who_gets_in(self):
        self.write("# tenants\n\nalice %s\r\n  bob\t%s  \n" % (KEY, OTHER))
        s = self.server()
        for headers in bearer(KEY), bearer(OTHER), {"authorization": "bEARER   " + KEY}, {"X-Api-Key": OTHER}:
            self.assertEqual(200, s.complete(BODY, headers=headers).status, headers)
            self.assertEqual(200, s.request("GET", "/v1/models", headers=headers).status, headers)
        wrong = [{}, bearer(""), bearer(KEY[:-1]), bearer(KEY + "a"), bearer(KEY.upper()), bearer("alice"),
                 bearer("x" * 255), bearer("x" * 256), bearer("x" * 5000), {"Authorization": KEY}, {"X-Api-Key": ""},
                 {"Authorization": "Basic " + KEY}, bearer(KEY + " " + OTHER), bearer("alice " + KEY), bearer("#")]
        for headers in wrong:
            for method, path in [("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/metrics"),
                                 ("GET", "/version"), ("POST", "/tokenize"), ("GET", "/nope"), ("OPTIONS", "/v1/models")]:
                a = s.request(method, path, BODY if method == "POST" else None, headers=headers)
                self.check_error(a, 401, code="invalid_api_key")
                self.assertEqual("Bearer", a.headers["www-authenticate"])
                self.assertEqual("invalid_request_error", a.error()["type"])
        for path in "/health", "/ready":
            self.assertEqual(200, s.request("GET", path).status)
        self.assertEqual(0, s.stop())
        self.assertNotIn(KEY, s.text())
        self.assertNotIn(OTHER, s.text())

    def test_the_name_is_the_client(self):
        self.write("alice %s\nalice %s\nbob %s\n" % (KEY, OTHER, "k"))
        s = self.server()
        for i, (key, name) in enumerate([(KEY, "alice"), (OTHER, "alice"), ("k", "bob")]):
            s.complete(BODY, headers={**bearer(key), "X-Request-Id": "r%d" % i})
            s.wait_line(r"stub: request r%d client=%s " % (i, name))
            s.wait_line(r"\[r%d\] POST /v1/completions 200 .* client=%s " % (i, name))

    def test_longest_key(self):
        self.write("a %s\nb %s\n" % ("x" * 255, "x" * 254))
        s = self.server()
        self.assertEqual(200, s.complete(BODY, headers=bearer("x" * 255)).status)
        self.assertEqual(401, s.complete(BODY, headers=bearer("x" * 253)).status)

    def test_metrics_flag(self):
        self.write("a " + KEY)
        self.assertEqual(401, self.server().request("GET", "/metrics").status)
        s = self.server("--public-metrics")
        self.assertEqual(200, s.request("GET", "/metrics").status)
        self.assertEqual(401, s.request("GET", "/v1/models").status)

    def test_reload(self):
        self.write("a " + KEY)
        s = self.server()
        self.write("a " + OTHER)
        self.assertEqual(200, s.complete(BODY, headers=bearer(KEY)).status)  # not before the signal
        s.send_signal(signal.SIGHUP)
        s.wait_line("1 API keys read from")
        self.assertEqual(401, s.complete(BODY, headers=bearer(KEY)).status)
        self.assertEqual(200, s.complete(BODY, headers=bearer(OTHER)).status)
        for bad, says in [("", "holds no key"), ("a", ":1: expected"), (None, "No such file")]:
            if bad is None:
                os.unlink(self.path)
            else:
                self.write(bad)
            s.send_signal(signal.SIGHUP)
            s.wait_line("the API keys stay as they were: .*" + says)
            self.assertEqual(200, s.complete(BODY, headers=bearer(OTHER)).status)
        self.assertEqual(0, s.stop())

    def test_bad_files(self):
        for text, says in [("", "holds no key"), ("# only\n", "holds no key"), ("a b c\n", r":1: expected a line"),
                           ("x k1\ny\n", r":2: expected a line"), ("x k1\ny k1\n", r":2: this key stands there twice"),
                           ("x %s" % ("k" * 256), ":1: a key is"), ("x k\u00e4", ":1: a key is"),
                           ("%s k" % ("n" * 65), ":1: a name is"), ("n/m k", ":1: a name is"),
                           (b"a k\0", "not a text file"), ("".join("a %d\n" % i for i in range(4097)), "more than 4096"),
                           (None, "No such file")]:
            if text is None:
                os.unlink(self.path)
            else:
                self.write(text)
            with Server("--api-key-file", self.path, "stub:", wait=False) as s:
                self.assertEqual(1, s.wait(10))
                self.assertRegex(s.text(), "engramd serve: .*" + says)
                if text and not isinstance(text, bytes) and "k1" in text:
                    self.assertNotIn("k1", s.text())

    def test_hangup_without_keys_ends_the_program(self):
        with Server("stub:") as s:
            s.send_signal(signal.SIGHUP)
            self.assertEqual(-signal.SIGHUP, s.wait(5))


class Origins(KeyFile):
    PREFLIGHT = {"Access-Control-Request-Method": "POST"}

    def test_none_unless_given(self):
        with Server("stub:") as s:
            for a in [s.request("GET", "/health", headers={"Origin": "https://a.example"}),
                      s.request("OPTIONS", "/v1/completions", headers={"Origin": "https://a.example", **self.PREFLIGHT})]:
                self.assertFalse([h for h in a.headers if h.startswith("access-control")], a)

    def test_list(self):
        with Server("--cors-origin", "https://a.example,http://localhost:3000", "stub:") as s:
            for origin in "https://a.example", "http://localhost:3000":
                for a in [s.request("GET", "/health", headers={"Origin": origin}),
                          s.complete(BODY, headers={"Origin": origin}), s.request("GET", "/nope", headers={"Origin": origin}),
                          s.complete({**BODY, "stream": True}, headers={"Origin": origin})]:
                    self.assertEqual(origin, a.headers["access-control-allow-origin"])
                    self.assertEqual("Origin", a.headers["vary"])
                    self.assertIn("X-Request-Id", a.headers["access-control-expose-headers"])
                    self.assertNotIn("access-control-allow-credentials", a.headers)
            for origin in "https://b.example", "https://a.example.evil", "http://a.example", "null", "*", "":
                a = s.request("GET", "/health", headers={"Origin": origin})
                self.assertNotIn("access-control-allow-origin", a.headers)
                self.assertEqual("Origin", a.headers["vary"])
            self.assertNotIn("access-control-allow-origin", s.request("GET", "/health").headers)

    def test_preflight(self):
        self.write("a " + KEY)
        s = self.server("--cors-origin", "https://a.example")
        ask = {"Origin": "https://a.example", **self.PREFLIGHT}
        a = s.request("OPTIONS", "/v1/completions", headers=ask)  # bears no key
        self.assertEqual(204, a.status)
        self.assertEqual("https://a.example", a.headers["access-control-allow-origin"])
        self.assertIn("POST", a.headers["access-control-allow-methods"])
        self.assertIn("Authorization", a.headers["access-control-allow-headers"])
        self.assertEqual("600", a.headers["access-control-max-age"])
        wanted = "authorization,content-type,x-stainless-os"
        a = s.request("OPTIONS", "/v1/completions", headers={**ask, "Access-Control-Request-Headers": wanted})
        self.assertEqual(wanted, a.headers["access-control-allow-headers"])
        for strange in "a\x01b", "a:b", "x" * 1025:
            a = s.request("OPTIONS", "/v1/completions", headers={**ask, "Access-Control-Request-Headers": strange})
            self.assertNotIn(strange, a.headers["access-control-allow-headers"])
        self.assertEqual(404, s.request("OPTIONS", "/nope", headers=ask).status)
        self.assertEqual(401, s.request("OPTIONS", "/v1/completions", headers={**ask, "Origin": "https://b.example"}).status)
        self.assertEqual(401, s.request("OPTIONS", "/v1/completions", headers={"Origin": "https://a.example"}).status)
        a = s.complete(BODY, headers={"Origin": "https://a.example"})
        self.check_error(a, 401)
        self.assertEqual("https://a.example", a.headers["access-control-allow-origin"])  # so that a page can read why

    def test_any(self):
        with Server("--cors-origin", "*", "stub:") as s:
            a = s.request("GET", "/health", headers={"Origin": "https://x.example"})
            self.assertEqual("*", a.headers["access-control-allow-origin"])

    def test_bad_flags(self):
        for value in "a.example", "https://", "https://a.example/", "https://A.example", "://a", "https://a b", "https://u@h":
            with Server("--cors-origin", value, "stub:", wait=False) as s:
                self.assertEqual(1, s.wait(10))
                self.assertRegex(s.text(), "--cors-origin: .* is no origin")


class Addresses(Case):
    def test_limit(self):
        with Server("--max-connections-per-address", "4", "stub:") as s:
            held = [s.connect() for _ in range(4)]
            for c in held:
                c.send_request("GET", "/version")
                self.assertEqual(200, c.read_answer().status)
            with s.connect() as c:
                c.send_request("GET", "/v1/models")
                a = c.read_answer()
                self.check_error(a, 429, code="too_many_connections")
                self.assertIn("4 connections", a.error()["message"])
                self.assertRegex(a.headers["retry-after"], r"^[1-9]\d*$")
                c.send_request("GET", "/health")
                self.assertEqual(200, c.read_answer().status)
            self.from_elsewhere(s)
            held.pop().sock.close()
            self.until_served(s)
            for c in held:
                c.sock.close()

    def from_elsewhere(self, s):
        with socket.create_connection(("127.0.0.1", s.port), source_address=("127.0.0.9", 0), timeout=10) as sock:
            sock.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))

    def until_served(self, s):
        """The server learns of a closed connection a little later."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if s.request("GET", "/version").status == 200:
                return
            time.sleep(0.02)
        self.fail("the place of a closed connection stays taken")

    def test_far_beyond_the_door_is_closed(self):
        with Server("--max-connections-per-address", "2", "stub:") as s:
            held = [s.connect() for _ in range(18)]
            for c in held:
                c.send_request("GET", "/health")
                self.assertEqual(200, c.read_answer().status)
            with s.connect() as c:
                c.send_request("GET", "/health")
                self.assertRaises(Closed, c.read_head)
            self.from_elsewhere(s)
            for c in held:
                c.sock.close()

    def test_off(self):
        with Server("--max-connections-per-address", "0", "stub:") as s:
            held = [s.connect() for _ in range(100)]
            self.assertEqual(200, s.request("GET", "/version").status)
            for c in held:
                c.sock.close()


if __name__ == "__main__":
    main()
