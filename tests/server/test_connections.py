#!/usr/bin/env python3
"""Many connections at once. libmicrohttpd 0.9.75 can sleep on exactly 128, 256, ... ready sockets: no number may stall."""
import resource
import selectors
import socket
import time

from harness import Case, Server, main

COUNTS = [1, 127, 128, 129, 255, 256, 512, 1024]
ROUNDS = 4
ROUND_SECONDS = 20  # longer than any honest round on a slow machine


class Swarm:
    """n connections driven together: every round sends on all of them and waits for all answers."""

    def __init__(self, port, n):
        self.selector = selectors.DefaultSelector()
        self.socks = []
        for _ in range(n):
            s = socket.create_connection(("127.0.0.1", port), timeout=10)
            s.setblocking(False)
            self.socks.append(s)

    def close(self):
        self.selector.close()
        for s in self.socks:
            s.close()

    def round(self, data, complete):
        """complete(bytes so far) tells when an answer is whole. Returns the answers and the longest silence of all."""
        got = {s: b"" for s in self.socks}
        for s in self.socks:
            self.selector.register(s, selectors.EVENT_READ)
        for s in self.socks:
            s.sendall(data)
        waiting, silence, deadline = len(got), 0, time.monotonic() + ROUND_SECONDS
        while waiting:
            before = time.monotonic()
            events = self.selector.select(deadline - before)
            silence = max(silence, time.monotonic() - before)
            if not events:
                raise AssertionError("%d of %d answers missing" % (waiting, len(got)))
            for key, _ in events:
                piece = key.fileobj.recv(65536)
                if not piece:
                    raise AssertionError("closed after %r" % got[key.fileobj])
                got[key.fileobj] += piece
                if complete(got[key.fileobj]):
                    self.selector.unregister(key.fileobj)
                    waiting -= 1
        return list(got.values()), silence


def post(body):
    return ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).encode()


GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
WHOLE = post('{"prompt":[300],"max_tokens":3}')
STREAM = post('{"prompt":[300],"max_tokens":3,"stream":true}')
KINDS = [("get", GET, lambda b: b"}" in b), ("whole", WHOLE, lambda b: b.endswith(b"}}}")),
         ("stream", STREAM, lambda b: b.endswith(b"\r\n0\r\n\r\n"))]


class Connections(Case):
    def test_every_number(self):
        with Server("--max-num-seqs", "4096", "--max-queue", "2048", "stub:step_us=5000") as s:
            for n in COUNTS:
                swarm = Swarm(s.port, n)
                try:
                    for name, data, complete in KINDS:
                        silences = []
                        for _ in range(ROUNDS):
                            answers, silence = swarm.round(data, complete)
                            silences.append(silence)
                            with self.subTest(n=n, kind=name):
                                self.assertEqual(n, sum(a.startswith(b"HTTP/1.1 200 ") for a in answers))
                                if name == "stream":
                                    self.assertEqual(n, sum(a.count(b"t300") == 3 and b"[DONE]" in a for a in answers))
                        # our loop looks again every 250 ms, so a stall costs that much, and in every round; a busy
                        # machine may delay one round, not all
                        self.assertLess(min(silences), 0.2, (n, name, silences))
                finally:
                    swarm.close()
            self.assertEqual(0, s.stop())

    def test_more_than_there_are_places(self):
        """512 at once on 4 places: all wait their turn and all are answered."""
        with Server("--max-num-seqs", "4", "--max-queue", "1024", "stub:step_us=1000") as s:
            swarm = Swarm(s.port, 512)
            answers, _ = swarm.round(STREAM, KINDS[2][2])
            self.assertEqual(512, sum(b"[DONE]" in a for a in answers))
            swarm.close()
            self.assertEqual(0, s.stop())

    def test_file_limit_below_the_connections(self):
        """A low limit of open files makes fewer connections, not errors."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        s = Server("stub:", preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
        with s:
            s.wait_line("enough for 136 connections")
            held = [s.connect() for _ in range(100)]
            self.assertEqual(200, s.request("GET", "/health").status)
            for c in held:
                c.sock.close()
            self.assertEqual(0, s.stop())
        self.assertEqual((soft, hard), resource.getrlimit(resource.RLIMIT_NOFILE))


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    main()
