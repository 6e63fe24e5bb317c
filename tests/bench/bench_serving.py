#!/usr/bin/env python3
"""What batching and the prefix cache are worth on a real model. Prints JSON.

    bench_serving.py ENGRAMD STREAM_LOAD [--rounds N] [SERVER OPTIONS]

batch     tokens per second at 1, 4, 16 and 64 streams in turn, median of all rounds; speedup is over one stream
turn      time to the first token of a prompt that is new, and of a second turn that shares 90 % of its prompt with the
          first; share is the second over the first
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402

PROMPT = 2000
SHARED = 1800


def bench_batch(server, stream_load, rounds, seconds):
    rates = {1: [], 4: [], 16: [], 64: []}
    for _ in range(rounds):
        for clients, found in rates.items():
            r = subprocess.run([stream_load, "--port", str(server.port), "--clients", str(clients), "--seconds", "%g" % seconds,
                                "--prompt-tokens", "4", "--max-tokens", "128", "--no-verify"], stdout=subprocess.PIPE, check=True)
            found.append(json.loads(r.stdout)["tokens_per_s"])
    medians = {clients: statistics.median(found) for clients, found in rates.items()}
    return [{"streams": c, "tokens_per_s": round(m), "speedup": round(m / medians[1], 2)} for c, m in medians.items()]


def first_token(server, prompt):
    """(milliseconds, cached tokens)."""
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}
    with server.connect(120) as c:
        start = time.perf_counter()
        c.send_request("POST", "/v1/completions", body)
        assert c.read_head()[0] == 200
        events = (e for kind, e in c.events() if kind == "data")
        next(events)
        ms = (time.perf_counter() - start) * 1e3
        usage = list(events)[-2]["usage"]
    return ms, usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)


def bench_turn(server, rounds):
    rng, cold, warm, cached = random.Random(1), [], [], 0
    for _ in range(rounds):
        shared, tails = [300 + rng.randrange(5000) for _ in range(SHARED)], []
        for _ in range(2):
            tails.append([300 + rng.randrange(5000) for _ in range(PROMPT - SHARED)])
        cold.append(first_token(server, shared + tails[0])[0])
        ms, cached = first_token(server, shared + tails[1])
        warm.append(ms)
    a, b = statistics.median(cold), statistics.median(warm)
    return {"prompt_tokens": PROMPT, "shared_tokens": SHARED, "cached_tokens": cached, "cold_ms": round(a, 2), "warm_ms": round(b, 2),
            "share": round(b / a, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engramd")
    parser.add_argument("stream_load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    args, options = parser.parse_known_args()
    harness.exe = args.engramd
    with harness.Server("--log-level", "warning", *options) as s:
        batch = bench_batch(s, args.stream_load, args.rounds, args.seconds)
        print(json.dumps({"batch": batch, "turn": bench_turn(s, 2 * args.rounds + 1)}, indent=1))


if __name__ == "__main__":
    main()
