"""Many completions at once over one event loop, answers kept as the bytes that came. Standard library only."""
import asyncio
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402,F401  (found through the line above; the tests import it from here)

LIMIT = 1 << 26  # bytes of one line or chunk that a reader takes


class Broken(Exception):
    """An answer that ended early or is not what HTTP allows."""


class Reply:
    def __init__(self, status, headers, body, complete):
        self.status, self.headers, self.body, self.complete = status, headers, body, complete

    def choices(self):
        """What must be the same bytes every time: the choices as they stand in the body; of a stream, the raw choice
        of each event, apart for each index. An answer that is no success stands for itself."""
        if self.status != 200:
            return self.status, self.body
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return self.status, stream_choices(self.body)
        return self.status, between(self.body, b'"choices":', b',"usage":')

    def usage(self):
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            usages = [e["usage"] for e in stream_events(self.body) if e.get("usage")]
            return usages[-1] if usages else None
        return json.loads(self.body).get("usage")

    def cached_tokens(self):
        usage = self.usage() or {}
        return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def between(text, start, end):
    at, to = text.find(start), text.rfind(end)
    if at < 0 or to < at:
        raise Broken("no %r before %r in %r" % (start, end, text[:300]))
    return text[at + len(start):to]


def stream_events(body):
    """The JSON objects of a finished stream."""
    if not body.endswith(b"data: [DONE]\n\n"):
        raise Broken("a stream without its end: ... %r" % body[-200:])
    events = []
    for line in body.split(b"\n\n")[:-2]:
        if line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
        elif not line.startswith(b":"):
            raise Broken("not an event: %r" % line)
    return events


def stream_choices(body):
    stream_events(body)
    by_index = {}
    for line in body.split(b"\n\n")[:-2]:
        if not line.startswith(b"data: "):
            continue
        raw = between(line, b'"choices":[', b"]")
        if raw:
            by_index.setdefault(json.loads(raw)["index"], []).append(raw)
    return tuple((i, tuple(by_index[i])) for i in sorted(by_index))


async def read_head(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = {}
    for line in lines[1:-2]:
        name, value = line.split(b":", 1)
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return int(lines[0].split()[1]), headers


async def read_body(reader, headers):
    """(bytes, whether the answer came to its end)."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0))), True
    body = []
    while True:
        try:
            n = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            body.append((await reader.readexactly(n + 2))[:-2])
        except (asyncio.IncompleteReadError, ConnectionError):
            return b"".join(body), False
        if n == 0:
            return b"".join(body), True


def head_of(port, body, headers):
    lines = ["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1:%d" % port, "Content-Type: application/json",
             "Content-Length: %d" % len(body), "Connection: close"]
    lines += ["%s: %s" % pair for pair in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def ask(port, body, headers=None, timeout=120):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def talk():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LIMIT)
        try:
            writer.write(head_of(port, data, headers) + data)
            status, got = await read_head(reader)
            return Reply(status, got, *await read_body(reader, got))
        finally:
            writer.close()
    return await asyncio.wait_for(talk(), timeout)


async def _ask_all(port, bodies, order, at_once, timeout):
    gate, replies = asyncio.Semaphore(at_once), [None] * len(bodies)

    async def one(i):
        async with gate:
            replies[i] = await ask(port, bodies[i], timeout=timeout)
    await asyncio.gather(*[one(i) for i in order])
    return replies


def ask_all(port, bodies, order=None, at_once=1, timeout=120):
    """The replies in the order of `bodies`, asked in the order given, `at_once` of them in flight."""
    return asyncio.run(_ask_all(port, bodies, order or range(len(bodies)), at_once, timeout))
