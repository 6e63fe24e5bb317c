#!/usr/bin/env python3
"""Loads one or more servers and writes a report with plots: wrk's rates of whole answers, then open-loop load at rising rates.

    deploy/load/report.py --out DIR [--rates 2,4,8] [--seconds 20] [--connections 64,256] NAME=URL ...

Servers are loaded in turn, point by point, so that a busy neighbour slows all of them alike. wrk's scripts check every answer
of engramd and run against the first server only; the others may be anything with OpenAI's /v1/completions (--text for those
that take no token ids). Exit code 1 when a request failed or an answer was wrong."""
import argparse
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

import plot

HERE = os.path.dirname(os.path.abspath(__file__))
WRK = (("completions", "completions.lua", []), ("completions, streamed", "stream.lua", []), ("chat", "chat.lua", []),
       ("chat, streamed", "chat.lua", ["stream=1"]))


def read_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--rates", default="2,4,8,16", help="requests per second, rising")
    p.add_argument("--seconds", type=float, default=20, help="of each run")
    p.add_argument("--connections", default="64,256", help="of wrk; empty: no wrk")
    p.add_argument("--max-tokens", type=int, default=16, help="of wrk's requests")
    p.add_argument("--trace-load", default=os.path.join(HERE, "..", "..", "build", "deploy", "load", "trace_load"))
    p.add_argument("--text", action="store_true", help="prompts as text")
    p.add_argument("--key", help="API key")
    p.add_argument("servers", nargs="+", metavar="NAME=URL")
    a = p.parse_args()
    a.rates = [float(r) for r in a.rates.split(",")]
    a.connections = [int(c) for c in a.connections.split(",") if c]
    a.servers = [s.split("=", 1) for s in a.servers]
    if any(len(s) != 2 or not urllib.parse.urlsplit(s[1]).port for s in a.servers):
        p.error("a server is NAME=http://HOST:PORT")
    return a


def first_match(path, pattern):
    try:
        with open(path, encoding="utf-8") as f:
            m = re.search(pattern, f.read(), re.M)
        return m.group(1).strip() if m else "unknown"
    except OSError:
        return "unknown"


def machine():
    """What a reader must know to compare."""
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "processor": first_match("/proc/cpuinfo", r"^model name\s*: (.*)$"),
        "cores": "%d usable" % len(os.sched_getaffinity(0)),
        "memory": first_match("/proc/meminfo", r"^MemTotal:\s*(.*)$"),
        "transparent huge pages": first_match("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"),
        "system": "%s, Linux %s" % (first_match("/etc/os-release", r'^PRETTY_NAME="(.*)"$'), platform.release()),
        "load before": " ".join("%.2f" % v for v in os.getloadavg()),
        "commit": commit.stdout.strip() or "unknown",
    }


def run_wrk(a, url, script, connections, settings):
    words = ["max_tokens=%d" % a.max_tokens, *settings, *(["key=" + a.key] if a.key else [])]
    r = subprocess.run(["wrk", "-t2", "-c%d" % connections, "-d%ds" % a.seconds, "--timeout", "120s", "-s",
                        os.path.join(HERE, script), url, "--", *words], capture_output=True, text=True)
    verdict = (re.findall(r"^verdict: (.*)$", r.stdout, re.M) or ["none: " + r.stderr.strip()[-200:]])[-1]
    answers = re.search(r"answers: (\d+) right, (\d+) wrong, ([\d.]+) tokens/s", r.stdout)
    latency = re.search(r"p50 ([\d.]+) ms, p90 ([\d.]+) ms, p99 ([\d.]+) ms", r.stdout)
    return {"verdict": verdict, "right": answers.group(1) if answers else "0", "wrong": answers.group(2) if answers else "-",
            "tokens": answers.group(3) if answers else "-", "latency": " / ".join(latency.groups()) if latency else "-"}


def run_rate(a, url, rate, folder):
    """The summary and the time to the first token of every answered request."""
    at = urllib.parse.urlsplit(url)
    path = os.path.join(folder, "run.csv")
    command = [a.trace_load, "--host", at.hostname, "--port", str(at.port), "--rate", "%g" % rate, "--seconds",
               "%g" % a.seconds, "--csv", path, *(["--text"] if a.text else []), *(["--key", a.key] if a.key else [])]
    r = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    with open(path, newline="", encoding="utf-8") as f:
        first = sorted(float(row["first_ms"]) for row in csv.DictReader(f) if row["answered"] == "1")
    return {**json.loads(r.stdout), "first": first, "command": command}


def distribution(values):
    """(value, percent of all that are at most so large), at most a hundred points."""
    n = len(values)
    picked = range(n) if n <= 100 else [i * (n - 1) // 99 for i in range(100)]
    return [(values[i], 100 * (i + 1) / n) for i in picked]


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def write_plots(a, runs):
    """runs: {server: {rate: run}}. Returns (file, what it shows)."""
    def over_rates(*keys):
        def value(run):
            for k in keys:
                run = run[k]
            return run
        return {name: [(rate, value(r)) for rate, r in by_rate.items()] for name, by_rate in runs.items()}

    last = {name: distribution(by_rate[a.rates[-1]]["first"]) for name, by_rate in runs.items()}
    plots = (
        ("first-token.svg", "Time to first token, p99", "requests/s offered", "ms", over_rates("first_token_ms", "p99")),
        ("inter-token.svg", "Time between tokens, p99", "requests/s offered", "ms", over_rates("inter_token_ms", "p99")),
        ("goodput.svg", "Requests that met their goals", "requests/s offered", "requests/s", over_rates("goodput_per_s")),
        ("throughput.svg", "Generated tokens", "requests/s offered", "tokens/s", over_rates("output_tokens_per_s")),
        ("first-token-spread.svg", "Time to first token at %g requests/s" % a.rates[-1], "ms", "% of requests", last),
    )
    for name, title, x, y, series in plots:
        write(os.path.join(a.out, name), plot.chart(title, x, y, series))
        yield name, title


def tables(a, wrk, runs):
    if wrk:
        yield "## Whole answers, closed loop (wrk)\n"
        yield "%g s each, %d tokens an answer; every answer is compared with the first one to the same request.\n" % (
            a.seconds, a.max_tokens)
        yield "| what | connections | right | wrong | tokens/s | p50 / p90 / p99 ms | verdict |\n|---|---|---|---|---|---|---|"
        for what, connections, r in wrk:
            yield "| %s | %d | %s | %s | %s | %s | %s |" % (what, connections, r["right"], r["wrong"], r["tokens"],
                                                          r["latency"], r["verdict"])
        yield ""
    yield "## Open loop\n"
    goal = next(iter(next(iter(runs.values())).values()))["goal"]
    yield ("Poisson arrivals, half of the prompts with one of four shared beginnings. Goals: first token within %g ms, "
           "%g ms per token in the mean.\n" % (goal["first_token_ms"], goal["per_token_ms"]))
    yield ("| server | rate | answered | failed | first token p50 / p99 ms | between tokens p50 / p99 ms | tokens/s | "
           "met goals |\n|---|---|---|---|---|---|---|---|")
    for name, by_rate in runs.items():
        for rate, r in by_rate.items():
            yield "| %s | %g | %d | %d | %.1f / %.1f | %.1f / %.1f | %.0f | %.1f %% |" % (
                name, rate, r["answered"], r["failed"] + r["never_sent"], r["first_token_ms"]["p50"],
                r["first_token_ms"]["p99"], r["inter_token_ms"]["p50"], r["inter_token_ms"]["p99"],
                r["output_tokens_per_s"], 100 * r["good_share"])
    yield ""


def write_report(a, about, wrk, runs):
    out = ["# Load report\n", "| machine | |\n|---|---|"]
    out += ["| %s | %s |" % pair for pair in about.items()]
    out += ["", "The generator ran on the same machine.\n" if all("127.0.0.1" in u or "localhost" in u for _, u in a.servers)
            else ""]
    out += tables(a, wrk, runs)
    for name, title in write_plots(a, runs):
        out.append("![%s](%s)\n" % (title, name))
    example = next(iter(runs.values()))[a.rates[0]]["command"]
    shown = [w for w in example if w != "--key" and w != a.key]
    out.append("Command of the first point: `%s`\n" % " ".join([os.path.basename(shown[0]), *shown[1:]]))
    write(os.path.join(a.out, "report.md"), "\n".join(out))


def main():
    a = read_arguments()
    os.makedirs(a.out, exist_ok=True)
    about, wrk, runs = machine(), [], {name: {} for name, _ in a.servers}
    if a.connections and not shutil.which("wrk"):
        sys.exit("report.py: wrk is not installed (or give --connections '')")
    for what, script, settings in WRK if a.connections else ():
        for connections in a.connections:
            print("wrk: %s, %d connections" % (what, connections), file=sys.stderr)
            wrk.append((what, connections, run_wrk(a, a.servers[0][1], script, connections, settings)))
    with tempfile.TemporaryDirectory() as folder:
        for rate in a.rates:
            for name, url in a.servers:
                print("%s at %g requests/s" % (name, rate), file=sys.stderr)
                runs[name][rate] = run_rate(a, url, rate, folder)
    write_report(a, about, wrk, runs)
    print(os.path.join(a.out, "report.md"))
    bad = [r for _, _, r in wrk if r["verdict"] != "ok"]
    bad += [r for by_rate in runs.values() for r in by_rate.values() if r["failed"] or r["never_sent"]]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
