#!/usr/bin/env python3
"""Methods, paths, headers, framing, limits and times of HTTP, against the stub engine."""
import re
import socket
import time

from harness import Case, Closed, Conn, Server, main

IDS = {"prompt": [300, 301], "max_tokens": 2}
POSTS = ["/v1/completions", "/tokenize", "/detokenize"]
GETS = ["/health", "/ready", "/version", "/v1/models", "/v1/models/stub"]


class Transport(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--served-model-name", "stub,org/other", "--max-body-bytes", "64K", "--allowed-host",
                            "engramd.test", "stub:")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def get(self, path, **more):
        return self.server.request("GET", path, **more)

    # --- methods

    def test_get_and_head_agree(self):
        for path in GETS:
            get, head = self.get(path), self.server.request("HEAD", path)
            self.assertEqual((200, 200, b""), (get.status, head.status, head.body), path)
            self.assertEqual(get.headers["content-type"], head.headers["content-type"])
            self.assertTrue(get.headers["content-type"].startswith("application/json"))

    def test_options(self):
        for path, allow in [(p, "POST") for p in POSTS] + [(p, "GET") for p in GETS] + [("*", "GET")]:
            a = self.server.request("OPTIONS", path)
            self.assertEqual(204, a.status, path)
            self.assertIn(allow, a.headers["allow"])
        self.check_error(self.server.request("OPTIONS", "/nope"), 404)

    def test_wrong_method(self):
        for path in POSTS:
            for method in "GET", "HEAD", "PUT", "DELETE", "PATCH", "BREW":
                a = self.server.request(method, path)
                self.assertEqual(405, a.status, (method, path))
                self.assertIn("POST", a.headers["allow"])
                if method != "HEAD":
                    self.check_error(a, 405, code="method_not_allowed")
        for path in GETS:
            a = self.server.request("POST", path, {})
            self.check_error(a, 405)
            self.assertIn("GET", a.headers["allow"])

    def test_body_of_a_wrong_method_is_read(self):
        self.check_error(self.server.request("PUT", "/v1/completions", IDS), 405)

    # --- paths

    def test_unknown_paths(self):
        for path in ["/page", "/page/", "/page/nope.js", "/page/../main.js", "/v1", "/v1/", "/v1/models/", "/v1/completions/", "/v1/completions/extra", "/nope",
                     "/v1/Models", "//v1/models", "/v1/../v1/models", "/v1/%256dodels", "/health%20", "/%e2%82%ac"]:
            a = self.get(path)
            self.check_error(a, 404)
        self.check_error(self.get("/v1/models/nope"), 404, code="model_not_found")

    def test_paths_are_decoded_once(self):
        self.assertEqual(200, self.get("/v1/%6dodels").status)
        self.assertEqual(200, self.get("/v1/models/org%2Fother").status)
        self.assertEqual(200, self.get("/v1/models/org/other").status)
        for path in "/v1/models%00", "/v1/models/%00", "/v1/%zz", "/v1/models%", "/v1/models/%4":
            self.check_error(self.get(path), 400)

    def test_query_strings_do_no_harm(self):
        for query in "?limit=5&x=%20", "?", "?&&&=", "?a=%zz", "?%00":
            self.assertIn(self.get("/v1/models" + query).status, (200, 400), query)

    def test_absolute_form(self):
        self.assertEqual(200, self.get("http://127.0.0.1/v1/models").status)
        self.check_error(self.get("v1/models"), 400)

    def test_long_path(self):
        self.check_error(self.get("/" + "a" * 3000), (404, 414))

    # --- the page

    def test_page(self):
        a = self.get("/")
        self.assertEqual((200, "text/html; charset=utf-8"), (a.status, a.headers["content-type"]))
        for name in re.findall(rb'(?:href|src)="([^"]+)"', a.body):
            part = self.get(name.decode())
            self.assertEqual(200, part.status, name)
            policy = part.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual("nosniff", part.headers["x-content-type-options"])
            again = self.get(name.decode(), headers={"If-None-Match": part.headers["etag"]})
            self.assertEqual((304, b""), (again.status, again.body))
        with self.server.connect() as c:
            c.send_request("HEAD", "/")
            self.assertEqual(str(len(a.body)), c.read_answer(head=True).headers["content-length"])
        with Server("--no-page", "stub:") as s:
            self.check_error(s.request("GET", "/"), 404)
            self.check_error(s.request("GET", "/page/main.js"), 404)

    # --- headers

    def test_large_header(self):
        a = self.get("/health", headers={"X-Filler": "f" * 40000})
        self.check_error(a, 431)
        self.assertEqual(200, self.get("/health", headers={"X-Filler": "f" * 16000}).status)

    def test_far_too_large_header_is_refused_somehow(self):
        with self.server.connect() as c:
            try:
                c.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"f" * 4000000)
                self.assertIn(c.read_answer().status, (400, 413, 431))
            except (Closed, ConnectionError):
                pass
        self.assertEqual(200, self.get("/health").status)

    def test_request_id(self):
        for given in "abc-123_XYZ", "a", "x" * 64, "018f:a.b":
            self.assertEqual(given, self.get("/nope", headers={"X-Request-Id": given}).headers["x-request-id"])
            self.assertEqual(given, self.server.complete(IDS, headers={"X-Request-Id": given}).headers["x-request-id"])
        own = set()
        for bad in "", "x" * 65, "a b", "a\x1b[31mb", "\xe4", "a,b", "a;b", "a\"b":
            a = self.get("/health", headers={"X-Request-Id": bad})
            self.assertRegex(a.headers["x-request-id"], r"^req-[0-9a-f]{16}$")
            own.add(a.headers["x-request-id"])
        self.assertEqual(8, len(own))

    def test_host(self):
        port = self.server.port
        for host in ["localhost", "LocalHost:%d" % port, "127.0.0.1:%d" % port, "127.1.2.3", "[::1]:%d" % port,
                     "[::1]", "localhost.", "engramd.test", "Engramd.Test:80"]:
            self.assertEqual(200, self.get("/v1/models", headers={"Host": host}).status, host)
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.0.2.1", "[::2]",
                     "localhost:8080evil", "[::1", "engramd.test.evil"]:
            self.check_error(self.get("/v1/models", headers={"Host": host}), 403, code="host_not_allowed")
            self.check_error(self.server.complete(IDS, headers={"Host": host}), 403)

    def test_headers_of_the_official_clients(self):
        a = self.server.complete(IDS, headers={"X-Stainless-Lang": "python", "Authorization": "Bearer sk-x",
                                               "Accept-Encoding": "gzip, deflate", "Content-Type": None})
        self.assertEqual(200, a.status)
        self.assertNotIn("content-encoding", a.headers)

    # --- framing

    def test_chunked_body(self):
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None,
                           {"Transfer-Encoding": "chunked", "Content-Length": None, "Connection": "close"})
            for piece in b'{"prompt":', b"[300,301]", b',"max_tokens":2}':
                c.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(0.02)
            c.send(b"0\r\n\r\n")
            self.assertEqual("t300 t301 ", c.read_answer().json()["choices"][0]["text"])

    def test_expect_continue(self):
        body = b'{"prompt":[300],"max_tokens":1}'
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None, {"Content-Length": len(body), "Expect": "100-continue"})
            self.assertEqual(b"HTTP/1.1 100 Continue", c.line())
            self.assertEqual(b"", c.line())
            c.send(body)
            self.assertEqual(200, c.read_answer().status)

    def test_expect_continue_too_large_is_answered_before_the_body(self):
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None, {"Content-Length": 100000, "Expect": "100-continue"})
            self.check_error(c.read_answer(), 413)

    def test_unclear_framing(self):
        body = b'{"prompt":[300]}'
        for extra in [b"Content-Length: 16\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 16\r\nContent-Length: 17\r\n",
                      b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked, chunked\r\n",
                      b"Host: localhost\r\nContent-Length: 16\r\n"]:
            with self.server.connect(timeout=2) as c:
                c.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + extra + b"\r\n" + body)
                try:
                    a = c.read_answer()
                    self.assertIn(a.status, (400, 501), extra)
                    self.assertRaises(Closed, c.line)  # what follows is not read as a request
                except Closed:
                    pass

    def test_no_host(self):
        for header in b"", b"Host : localhost\r\n", b"Hosts: localhost\r\n":
            with self.server.connect() as c:
                c.send(b"GET /health HTTP/1.1\r\n" + header + b"\r\n")
                self.check_error(c.read_answer(), 400)
        with self.server.connect() as c:
            c.send(b"GET /health HTTP/1.0\r\n\r\n")
            self.assertEqual(200, c.read_answer().status)

    def test_blanks_in_the_path(self):
        for path in b"/health x", b"/v1/models\t", b"/\x01":
            with self.server.connect() as c:
                c.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.check_error(c.read_answer(), 400)

    def test_bytes_that_are_no_text(self):
        for path in "/%ff%fe", "/v1/models/%ff", "/%e2%82", "/a%0a%22b", "/v1/models/%22%0a":
            self.check_error(self.get(path), 404)
        with self.server.connect() as c:
            c.send(b"G\xffT /\xff\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.check_error(c.read_answer(), 404)

    def test_garbage(self):
        for junk in [b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff\xfe\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n: x\r\n\r\n",
                     b"GET /health HTTP/1.1\r\nHost localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
            with self.server.connect(timeout=1) as c:
                c.send(junk)
                c.sock.shutdown(socket.SHUT_WR)
                try:
                    self.assertGreaterEqual(c.read_answer().status, 400, junk)
                except (Closed, TimeoutError):
                    pass
            self.assertEqual(200, self.get("/health").status)

    def test_http_1_0(self):
        with self.server.connect() as c:
            body = b'{"prompt":[300],"max_tokens":2,"stream":true}'
            c.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            a = c.read_answer()
            self.assertEqual(200, a.status)
            self.assertNotIn("transfer-encoding", a.headers)
            self.assertTrue(a.body.endswith(b"data: [DONE]\n\n"))

    def test_keep_alive_and_pipelining(self):
        with self.server.connect() as c:
            for i in range(5):
                c.send_request("POST", "/v1/completions", {**IDS, "stream": i % 2 == 1})
                self.assertEqual(200, c.read_answer().status)
                c.send_request("GET", "/nope")
                self.assertEqual(404, c.read_answer().status)
            c.send_request("POST", "/v1/completions", IDS)
            c.send_request("GET", "/version")
            self.assertIn("choices", c.read_answer().json())
            self.assertIn("version", c.read_answer().json())

    # --- bodies

    def test_body_too_large(self):
        body = b'{"prompt":"' + b"a" * 300000 + b'"}'
        for path in POSTS:
            self.check_error(self.server.request("POST", path, body), 413, code="body_too_large")

    def test_chunked_body_too_large(self):
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None, {"Transfer-Encoding": "chunked", "Content-Length": None})
            for _ in range(50):
                c.send(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
            c.send(b"0\r\n\r\n")
            self.check_error(c.read_answer(), 413)
            c.send_request("GET", "/health")  # the rest was read, so the connection is still good
            self.assertEqual(200, c.read_answer().status)

    def test_absurd_length_is_refused_at_once(self):
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None, {"Content-Length": 10 ** 15})
            self.check_error(c.read_answer(), 413)

    def test_endless_chunks_are_cut(self):
        with self.server.connect() as c:
            c.send_request("POST", "/v1/completions", None, {"Transfer-Encoding": "chunked", "Content-Length": None})
            sent = 0
            try:
                while sent < 1 << 30:
                    c.send(b"100000\r\n" + b"a" * 0x100000 + b"\r\n")
                    sent += 0x100000
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertLess(sent, 1 << 28)

    def test_empty_body(self):
        for path in POSTS:
            self.check_error(self.server.request("POST", path, b""), 400)

    def test_access_lines_hold_no_prompt(self):
        self.server.complete({"prompt": "secretword", "max_tokens": 1}, headers={"X-Request-Id": "look-here"})
        self.server.wait_line(r"\[look-here\] POST /v1/completions 200 prompt_tokens=11 completion_tokens=1 .* ms")
        self.assertNotIn("secretword", self.server.text())

    def test_a_path_cannot_forge_a_log_line(self):
        self.get("/a%0Ab%1b%5b31m", headers={"X-Request-Id": "forge"})
        _, m = self.server.wait_line(r"\[forge\] GET (.*) 404")
        self.assertNotIn("\x1b", m.group(1))
        self.assertIn("b", m.group(1))


class Times(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "1", "stub:")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def expect_cut(self, first, drip, at_most):
        """first is sent, then one byte of drip every 100 ms, until the server hangs up."""
        start = time.monotonic()
        with self.server.connect(timeout=0.1) as c:
            c.send(first)
            for i in range(100):
                try:
                    if drip:
                        c.send(drip)
                    if c.sock.recv(1000) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                self.fail("never cut")
        took = time.monotonic() - start
        self.assertGreater(took, 0.5)
        self.assertLess(took, at_most)

    def test_silent_client(self):
        self.expect_cut(b"", b"", 4)

    def test_slow_header(self):
        self.expect_cut(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"a", 3)

    def test_slow_body(self):
        self.expect_cut(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b" ", 3)

    def test_slow_chunks(self):
        self.expect_cut(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
                        b"1\r\na\r\n", 3)

    def test_slow_second_header(self):
        self.expect_cut(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\n", b"X: a\r\n", 5)

    def test_a_long_answer_is_not_idle(self):
        with self.server.connect(timeout=4) as c:
            c.send_request("POST", "/v1/completions", {"prompt": [6000], "stream": True})
            self.assertEqual(200, c.read_head()[0])
            time.sleep(2.5)
            c.sock.setblocking(False)
            with self.assertRaises(BlockingIOError):  # nothing more to read, but not closed either
                while True:
                    self.assertNotEqual(b"", c.sock.recv(1000))


class Limits(Case):
    def test_all_bodies_together(self):
        with Server("--max-total-body-bytes", "64K", "stub:") as s, s.connect() as first:
            first.send_request("POST", "/tokenize", None, {"Content-Length": 70000})
            first.send(b" " * 60000)
            time.sleep(0.2)
            a = s.request("POST", "/tokenize", b" " * 10000)
            self.check_error(a, 503, code="overloaded")
            self.assertIn("retry-after", a.headers)
            first.sock.close()
            time.sleep(0.2)
            self.check_error(s.request("POST", "/tokenize", b" " * 10000), 400)

    def test_header_limit(self):
        with Server("--max-header-bytes", "2K", "stub:") as s:
            self.assertEqual(200, s.request("GET", "/version", headers={"X-Long": "x" * 1800}).status)
            self.check_error(s.request("GET", "/version", headers={"X-Long": "x" * 2048}), 431, code="header_too_large")
            self.check_error(s.request("GET", "/version", headers={"X-%d" % i: "x" * 50 for i in range(40)}), 431)
        with Server("stub:") as s:  # by default, where libmicrohttpd's own limit is not far
            self.assertEqual(200, s.request("GET", "/version", headers={"X-Long": "x" * 16000}).status)
            for size in (16384, 24000, 40000):
                self.check_error(s.request("GET", "/version", headers={"X-Long": "x" * size}), 431, code="header_too_large")

    def test_connections(self):
        with Server("--max-connections", "8", "stub:") as s:
            held = [s.connect() for _ in range(8)]
            time.sleep(0.2)
            a = s.complete(IDS)
            self.check_error(a, 429, code="too_many_connections")
            self.assertIn("retry-after", a.headers)
            self.assertEqual(200, s.request("GET", "/health").status)
            self.assertEqual(200, s.request("GET", "/ready").status)
            for c in held:
                c.sock.close()
            time.sleep(0.2)
            self.assertEqual(200, s.complete(IDS).status)

    def test_not_bound_to_loopback(self):
        with Server("--host", "0.0.0.0", "stub:") as s:
            self.assertEqual(200, s.request("GET", "/v1/models", headers={"Host": "any.example"}).status)
        with Server("--host", "0.0.0.0", "--allowed-host", "a.example", "stub:") as s:
            self.assertEqual(200, s.request("GET", "/v1/models", headers={"Host": "a.example"}).status)
            self.check_error(s.request("GET", "/v1/models", headers={"Host": "b.example"}), 403)

    def test_addresses(self):
        for host, client, shown in [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1", "127.0.0.1"),
                                    ("::1", "::1", "[::1]"), ("[::1]", "::1", "[::1]"), ("127.0.0.2", "127.0.0.2", "127.0.0.2")]:
            with Server("--host", host, "stub:", wait=False) as s:
                self.assertEqual(shown, s.wait_ready())
                with Conn(s.port, host=client) as c:
                    c.send_request("GET", "/health", headers={"Host": "%s:%d" % (shown, s.port)})
                    self.assertEqual(200, c.read_answer().status)


if __name__ == "__main__":
    main()
