#!/usr/bin/env python3
"""What the HTTP layer costs, with nginx beside it in the same run. Prints JSON.

    bench_http.py ENGRAMD_STUB STREAM_LOAD [--seconds S] [--rounds N]

get       wrk on GET /version: engramd and nginx (one worker, static return of as many bytes) in turn, median of all rounds;
          cpu_us is the server's own CPU time per request, which other load on the machine hardly changes
stream    events per second of one core: streamed tokens over the CPU time of the HTTP thread and of the whole process; the
          engine is a stub that makes tokens at a fixed pace (one event a write) or as fast as it can
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402

NGINX = """daemon off; master_process off; worker_processes 1; pid %(dir)s/pid; error_log %(dir)s/error;
events { worker_connections 2048; }
http { access_log off; keepalive_requests 100000000; client_body_temp_path %(dir)s/b; proxy_temp_path %(dir)s/p;
  fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s; default_type application/json;
  server { listen 127.0.0.1:%(port)d backlog=1024; location / { return 200 '%(body)s'; } } }
"""


def wrk(port, seconds, connections):
    out = subprocess.run(["wrk", "-t1", "-c%d" % connections, "-d%gs" % seconds, "--latency", "http://127.0.0.1:%d/version" % port],
                         capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit("wrk met errors:\n" + out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


class Nginx:
    def __init__(self, body):
        self.dir = tempfile.mkdtemp()
        with harness.socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        with open(self.dir + "/conf", "w") as f:
            f.write(NGINX % {"dir": self.dir, "port": self.port, "body": body})
        self.proc = subprocess.Popen(["nginx", "-c", self.dir + "/conf", "-e", self.dir + "/error"], stderr=subprocess.PIPE)

    def wait(self):
        for _ in range(100):
            try:
                harness.socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("nginx does not start: %s" % self.proc.stderr.read())

    def stop(self):
        self.proc.terminate()
        self.proc.wait()
        self.proc.stderr.close()
        shutil.rmtree(self.dir)


def bench_get(seconds, rounds):
    rows = []
    with harness.Server("--log-level", "warning", "stub:") as s:
        nginx = Nginx(s.request("GET", "/version").body.decode())
        try:
            nginx.wait()
            for connections in 16, 64, 256:
                ours, theirs = [], []
                for i in range(rounds):
                    for rates, port, pid in [(ours, s.port, s.proc.pid), (theirs, nginx.port, nginx.proc.pid)][::1 if i % 2 else -1]:
                        cpu = cpu_seconds(pid)
                        rate = wrk(port, seconds, connections)
                        rates.append((rate, (cpu_seconds(pid) - cpu) * 1e6 / (rate * seconds)))
                (a, a_us), (b, b_us) = [[statistics.median(x) for x in zip(*rates)] for rates in (ours, theirs)]
                rows.append({"connections": connections, "engramd_per_s": round(a), "nginx_per_s": round(b), "ratio": round(a / b, 3),
                             "engramd_cpu_us": round(a_us, 2), "nginx_cpu_us": round(b_us, 2)})
        finally:
            nginx.stop()
    return rows


def cpu_seconds(pid, thread=None):
    path = "/proc/%d/task/%d/stat" % (pid, thread) if thread else "/proc/%d/stat" % pid
    with open(path) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench_stream(stream_load, seconds):
    rows = []
    for clients, step_us in (64, 1000), (512, 10000), (64, 1), (512, 1):
        with harness.Server("--log-level", "error", "--max-num-seqs", "4096", "stub:step_us=%d" % step_us) as s:
            http, whole = cpu_seconds(s.proc.pid, s.proc.pid), cpu_seconds(s.proc.pid)
            r = subprocess.run([stream_load, "--port", str(s.port), "--clients", str(clients), "--seconds", "%g" % seconds, "--requests",
                                "4", "--prompt-tokens", "2", "--max-tokens", "500", "--no-verify"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, check=True)
            report = json.loads(r.stdout)
            http, whole = cpu_seconds(s.proc.pid, s.proc.pid) - http, cpu_seconds(s.proc.pid) - whole
        rows.append({"clients": clients, "step_us": step_us, "events_per_s": round(report["tokens_per_s"]),
                     "events_per_http_cpu_s": round(report["tokens"] / http), "events_per_process_cpu_s": round(report["tokens"] / whole),
                     "inter_token_p99_ms": report["inter_token_ms"]["p99"]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stub")
    parser.add_argument("stream_load")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    harness.exe = args.stub
    for tool in "wrk", "nginx":
        if not shutil.which(tool):
            raise SystemExit("%s is not installed (Debian: apt-get install wrk nginx-light)" % tool)
    print(json.dumps({"get": bench_get(args.seconds, args.rounds), "stream": bench_stream(args.stream_load, 3 * args.seconds)}, indent=1))


if __name__ == "__main__":
    main()
