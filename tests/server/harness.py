"""Starts a server on a free port and speaks HTTP with it, byte by byte where a test wants that. Standard library only."""
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

exe = None  # the program under test: first argument of every script


class Server:
    """One process; its stderr is read line by line in the background."""

    def __init__(self, *args, wait=True, env=None, command="serve", port=0, preexec=None, prefix=()):
        argv = [*prefix, exe, command, "--port", str(port), *args]
        self.lines = []
        self.changed = threading.Condition()
        self.port = None
        self.proc = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                     env={**os.environ, **(env or {})}, preexec_fn=preexec)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.wait_ready()

    def _read(self):
        for line in self.proc.stderr:
            with self.changed:
                self.lines.append((time.monotonic(), line.decode(errors="replace").rstrip("\n")))
                self.changed.notify_all()
        with self.changed:
            self.lines.append((time.monotonic(), "<end of stderr>"))
            self.changed.notify_all()

    def wait_line(self, pattern, timeout=30, start=0):
        """(time, match) of the first line from `start` on that matches."""
        deadline = time.monotonic() + timeout
        with self.changed:
            i = start
            while True:
                for i in range(i, len(self.lines)):
                    m = re.search(pattern, self.lines[i][1])
                    if m:
                        return self.lines[i][0], m
                i = len(self.lines)
                left = deadline - time.monotonic()
                ended = bool(self.lines) and self.lines[-1][1] == "<end of stderr>"
                if left <= 0 or ended:
                    raise AssertionError("no line %r on stderr, only:\n%s" % (pattern, self.text()))
                self.changed.wait(left)

    def text(self):
        return "\n".join(line for _, line in self.lines)

    def wait_ready(self, timeout=60):
        _, m = self.wait_line(r"listening on http://(\S+):(\d+)", timeout)
        self.port = int(m.group(2))
        return m.group(1)

    def wait_port(self, timeout=10):
        """The port while the model is still being loaded, from the kernel's table of listening sockets."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            inodes = set()
            for fd in os.listdir("/proc/%d/fd" % self.proc.pid):
                try:
                    m = re.match(r"socket:\[(\d+)\]", os.readlink("/proc/%d/fd/%s" % (self.proc.pid, fd)))
                except OSError:
                    continue
                if m:
                    inodes.add(m.group(1))
            with open("/proc/net/tcp") as f:
                rows = f.read().splitlines()[1:]
            for row in rows:
                f = row.split()
                if f[3] == "0A" and f[9] in inodes:
                    self.port = int(f[1].split(":")[1], 16)
                    return self.port
            time.sleep(0.02)
        raise AssertionError("the server does not listen:\n" + self.text())

    def rss(self):
        with open("/proc/%d/status" % self.proc.pid) as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def send_signal(self, sig):
        self.proc.send_signal(sig)

    def wait(self, timeout=30):
        rc = self.proc.wait(timeout)
        self.reader.join(5)
        return rc

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        try:
            rc = self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise
        self.proc.stdout.close()
        self.proc.stderr.close()
        return rc

    def __enter__(self):
        return self

    def __exit__(self, *what):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.reader.join(5)
        self.proc.stdout.close()
        self.proc.stderr.close()

    def connect(self, timeout=10, rcvbuf=None):
        return Conn(self.port, timeout, rcvbuf)

    def request(self, method, path, body=None, headers=None, timeout=10):
        """One request on a connection of its own."""
        with self.connect(timeout) as c:
            c.send_request(method, path, body, {"Connection": "close", **(headers or {})})
            return c.read_answer(head=method == "HEAD")

    def complete(self, body, **more):
        return self.request("POST", "/v1/completions", body, **more)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]

    def __repr__(self):
        return "%d %r %r" % (self.status, self.headers, self.body[:500])


class Closed(Exception):
    """The other side closed where an answer, or more of it, should have come."""


class Conn:
    def __init__(self, port, timeout=10, rcvbuf=None, host="127.0.0.1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect((host, port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = port
        self.buf = b""

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def send_request(self, method, path, body=None, headers=None):
        """headers: None as a value takes a default away. A client that is answered early may fail to send the rest."""
        if body is not None and not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        h = {"Host": "127.0.0.1:%d" % self.port, "Accept": "*/*"}
        if body is not None or method == "POST":
            h["Content-Type"] = "application/json"
            h["Content-Length"] = str(len(body or b""))
        h.update(headers or {})
        head = "%s %s HTTP/1.1\r\n" % (method, path)
        head += "".join("%s: %s\r\n" % (k, v) for k, v in h.items() if v is not None)
        try:
            self.send(head.encode("latin-1") + b"\r\n" + (body or b""))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(self.buf)
        self.buf += data

    def take(self, n):
        while len(self.buf) < n:
            self._more()
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def line(self):
        while b"\r\n" not in self.buf:
            self._more()
        out, self.buf = self.buf.split(b"\r\n", 1)
        return out

    def read_head(self):
        """Status and headers, interim answers passed over."""
        while True:
            m = re.fullmatch(rb"HTTP/1\.[01] (\d\d\d)(?: .*)?", self.line())
            assert m, "no status line"
            headers = {}
            while True:
                line = self.line()
                if not line:
                    break
                k, v = line.split(b":", 1)
                headers[k.decode("latin-1").lower()] = v.strip().decode("latin-1")
            if int(m.group(1)) >= 200:
                return int(m.group(1)), headers

    def chunks(self):
        """The pieces of a chunked body; Closed when it is cut."""
        while True:
            n = int(self.line().split(b";")[0], 16)
            data = self.take(n)
            assert self.take(2) == b"\r\n"
            if n == 0:
                return
            yield data

    def read_answer(self, head=False):
        status, headers = self.read_head()
        if head or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, b"".join(self.chunks()))
        if "content-length" in headers:
            return Answer(status, headers, self.take(int(headers["content-length"])))
        try:
            while True:
                self._more()
        except Closed:
            return Answer(status, headers, self.buf)

    def events(self):
        """The data of the events of a stream whose head has been read, comments as (':', text)."""
        text = b""
        for chunk in self.chunks():
            text += chunk
            while b"\n\n" in text:
                event, text = text.split(b"\n\n", 1)
                if event.startswith(b":"):
                    yield ":", event
                else:
                    assert event.startswith(b"data: "), event
                    data = event[6:].decode()
                    yield "data", data if data == "[DONE]" else json.loads(data)
        assert not text, text

    def reset(self):
        """Closes with a reset instead of a farewell."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Case(unittest.TestCase):
    def check_error(self, answer, status, param=None, code=None):
        """The four keys, the status, and what of the keys is given."""
        self.assertIn(answer.status, status if isinstance(status, (list, tuple)) else [status], answer)
        self.assertTrue(answer.headers["content-type"].startswith("application/json"), answer)
        self.assertIn("x-request-id", answer.headers)
        error = answer.error()
        self.assertEqual({"message", "type", "param", "code"}, set(error), answer)
        self.assertTrue(error["message"] and isinstance(error["message"], str))
        self.assertTrue(error["type"] and isinstance(error["type"], str))
        for key in "param", "code":
            self.assertTrue(error[key] is None or isinstance(error[key], str), answer)
        if param:
            self.assertIsNotNone(error["param"], answer)
            self.assertRegex(error["param"], r"^%s(\[|\.|$)" % re.escape(param))
            self.assertIn(param, error["message"])
        if code:
            self.assertEqual(code, error["code"], answer)
        return error


def main():
    global exe
    # the tests import this file by its name, so the program must be told to that copy, too
    import harness
    harness.exe = exe = sys.argv.pop(1)
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(verbosity=2)
