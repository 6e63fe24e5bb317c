"""What the program under test can do, found by trying it."""
import re
import subprocess

import swarm
from swarm import harness

BLOCK_TOKENS = 64


def block_bytes():
    """Bytes of one KV block of BLOCK_TOKENS, as the refusal of a cache smaller than one names them."""
    r = subprocess.run([harness.exe, "serve", "--port", "0", "--kv-block-tokens", str(BLOCK_TOKENS), "--kv-cache-bytes", "1"],
                       capture_output=True, text=True, timeout=60)
    m = re.search(r"less than one block of (\d+) bytes", r.stderr)
    if not m:
        raise AssertionError("no refusal that names the size of a block:\n" + r.stderr)
    return int(m.group(1))


def cache_for(tokens):
    """Options of a cache with just enough blocks for `tokens` positions."""
    blocks = -(-tokens // BLOCK_TOKENS)
    return ["--kv-block-tokens", str(BLOCK_TOKENS), "--kv-cache-bytes", str(blocks * block_bytes())]


def accepts(server, field, value):
    """Whether a request may have this field."""
    return server.complete({"prompt": [300], "max_tokens": 1, field: value}).status == 200


def metrics(server):
    """{"name{labels}": value} of /metrics; None where there is none."""
    answer = server.request("GET", "/metrics")
    if answer.status != 200:
        return None
    values = {}
    for line in answer.body.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def metric(values, name):
    """The sum over all label sets of one metric; None where it does not exist."""
    found = [v for k, v in values.items() if k.split("{")[0] == name]
    return sum(found) if found else None


def still_well(server, largest):
    """After whatever happened: it answers a request that needs the whole cache, nothing runs or waits, and where there are
    metrics, they agree."""
    reply = swarm.ask_all(server.port, [largest], timeout=240)[0]
    if reply.status != 200 or not reply.complete:
        raise AssertionError("the whole cache is not to be had: %d %r\n%s" % (reply.status, reply.body[:300], server.text()[-4000:]))
    values = metrics(server)
    if values is None:
        return
    for name in "vllm:num_requests_running", "vllm:num_requests_waiting":
        if metric(values, name) != 0:
            raise AssertionError("%s is %r when nothing is asked" % (name, metric(values, name)))
