#!/usr/bin/env python3
"""Benchmarks of the Engram service; each prints one table, with the machine's own limit measured in the same run.

    deploy/bench/engram.py gather    rows copied per second and core: library, bare prefetching loop, numpy.take
    deploy/bench/engram.py disk      rows per second of the nvme tier, and fio on the same file
    deploy/bench/engram.py tiers     decode with tables in memory and on disk, rows met for the first time and again
    deploy/bench/engram.py rows      a decode step with tables of a thousand and of thirty million rows
    deploy/bench/engram.py share     hash, ask and wait as a share of a decode step, by batch

Wants a build with tests (tests/run makes one). Models and tables are made in --dir, as large as du says afterwards, and
removed at the end unless --keep is given. Other work on the machine disturbs: what is compared is taken in turn."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# A child of its own: array and gather are gone when the next round's table is made.
NUMPY = """
import sys, time, numpy
mib, rounds = int(sys.argv[1]), int(sys.argv[2])
n, k = (mib << 20) // 264, 512 * 24
table = numpy.empty((n, 256), numpy.uint8)
table[:] = numpy.arange(256, dtype=numpy.uint8)
scales = numpy.ones((n, 8), numpy.uint8)
rng = numpy.random.default_rng(1)
for _ in range(rounds):
    ids = rng.integers(0, n, (64, k))
    start = time.process_time()
    for i in ids:
        rows, some = table.take(i, axis=0), scales.take(i, axis=0)
    print(ids.size / (time.process_time() - start))
"""


def fail(text):
    sys.exit("engram.py: " + text)


def run(*argv, **more):
    r = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, text=True, **more)
    if r.returncode:
        fail("%s failed" % argv[0])
    return r.stdout


def cpu():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return "%s, %d cores" % (names[0] if names else "unknown CPU", len(os.sched_getaffinity(0)))


def table(title, heads, rows):
    print("%s, %s, %s; load %.1f when it ended\n" % (title, cpu(), time.strftime("%Y-%m-%d"), os.getloadavg()[0]))
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(str(v) for v in row) + " |")


class Bench:
    def __init__(self, args):
        self.args = args
        self.dir = args.dir

    def tool(self, name):
        path = os.path.join(self.args.build, name)
        if not os.path.exists(path):
            fail("%s is not there: build with tests first (tests/run)" % path)
        return path

    def model(self, name, *options):
        path = os.path.join(self.dir, name)
        if not os.path.exists(os.path.join(path, "done")):
            print("making model %s ..." % name, file=sys.stderr)
            run(self.tool("tests/tools/make-model"), *options, path)
            open(os.path.join(path, "done"), "w").close()
        return path

    def path(self, name):
        return os.path.join(self.dir, name)

    # --- the tables --------------------------------------------------------------------------------------------------

    def gather(self):
        python = self.args.python
        if subprocess.run([python, "-c", "import numpy"], stderr=subprocess.DEVNULL).returncode:
            fail("numpy is missing: apt-get install python3-numpy, or --python with one that has it")
        last = max(os.sched_getaffinity(0))
        rows = []
        for mib in self.args.mib or [1024, 8192]:
            own, numpy = [], []
            for _ in range(self.args.rounds):
                own.append(json.loads(run(self.tool("tests/bench/bench_gather"), "--table-mib", mib, "--rounds", 5, "--json",
                                          stderr=subprocess.DEVNULL)))
                out = run(python, "-c", NUMPY, mib, 5, preexec_fn=lambda: os.sched_setaffinity(0, {last}))
                numpy.append(statistics.median(map(float, out.split())))
            bare, kernel, service, take = (statistics.median(v) for v in (
                [o["bare_loop_rows_s"] for o in own], [o["kernel_rows_s"] for o in own],
                [o["service_rows_s"] for o in own], numpy))
            of_bare = [statistics.median(o[k + "_of_bare"] for o in own) for k in ("kernel", "service")]
            rows.append(["%g GiB" % (mib / 1024)] + ["%.2f" % (v / 1e6) for v in (bare, kernel, service, take)] +
                        ["%.2f" % of_bare[0], "%.2f" % of_bare[1], "%.1f" % (service / take)])
        table("Rows of 256 + 8 bytes, millions per second of a core",
              ["table", "bare loop", "copy", "ask to take", "numpy take", "copy / bare", "ask to take / bare",
               "ask to take / numpy"], rows)

    def disk(self):
        if not shutil.which("fio"):
            fail("fio is missing: apt-get install fio")
        path = self.path("rows.table")
        mib = (self.args.mib or [4096])[0]
        own, fio, block = [], [], 512
        for _ in range(self.args.rounds):
            o = json.loads(run(self.tool("tests/bench/bench_nvme"), path, "--mib", mib, "--seconds", self.args.seconds))
            own.append(o)
            block = round(o["bytes_s"] / o["reads_s"])
            out = run("fio", "--name=rows", "--filename=" + path, "--readonly", "--rw=randread", "--bs=%d" % block,
                      "--direct=1", "--ioengine=io_uring", "--fixedbufs=1", "--iodepth=%d" % (o["most_in_flight"] // 2),
                      "--numjobs=2", "--norandommap", "--time_based", "--runtime=%d" % self.args.seconds, "--group_reporting",
                      "--output-format=json")
            fio.append(json.loads(out)["jobs"][0]["read"]["iops"])
        a, b = statistics.median(o["rows_s"] for o in own), statistics.median(fio)
        table("Random rows of a file of %g GiB, page cache passed by" % (mib / 1024),
              ["block", "in flight", "nvme tier, rows/s", "fio, reads/s", "share"],
              [["%d B" % block, own[0]["most_in_flight"], "%.0f" % a, "%.0f" % b, "%.2f" % (a / b)]])

    def versus(self, a, b, batch):
        return json.loads(run(self.tool("tests/bench/bench_versus"), "--a", a, "--b", b, "--batch", batch, "--steps",
                              self.args.steps or max(20, 60 // batch)))

    def tiers(self):
        m = self.model("m", "--preset", "m")
        rows = []
        for batch in self.args.batch or [1, 8]:
            v = self.versus(m + ",ram", m + ",nvme,%d" % self.args.cache_mib, batch)
            for name in "cold", "warm":
                p = v[name]
                rows.append([batch, name, "%.2f" % p["a_ms"], "%.2f" % p["b_ms"], "%+.1f %%" % (100 * (p["b_of_a"] - 1)),
                             "%.0f" % p["a_lookup_us"], "%.0f" % p["b_lookup_us"],
                             "%.2f %%" % (0.1 * (p["b_lookup_us"] - p["a_lookup_us"]) / p["a_ms"])])
        table("Model M, a decode step with its tables in memory (ram) and on disk (nvme, %d MiB row cache)" % self.args.cache_mib,
              ["batch", "rows", "ram, ms", "nvme, ms", "difference", "ram lookup, us", "nvme lookup, us",
               "lookup's part of the difference"], rows)

    def rows(self):
        small = self.model("m-thousand", "--preset", "m", "--engram-dim", 32, "--engram-vocab", 60)
        large = self.model("m-thirty-million", "--preset", "m", "--engram-dim", 32, "--engram-vocab", 2500000)
        count = [json.loads(run(self.tool("engramd"), "engram", "inspect", "--json", d))["tables"][0]["rows"]
                 for d in (small, large)]
        rows = []
        for batch in self.args.batch or [1, 8]:
            v = self.versus(small + ",ram", large + ",ram", batch)
            for name in "cold", "warm":
                p = v[name]
                rows.append([batch, name, "%.2f" % p["a_ms"], "%.2f" % p["b_ms"], "%+.1f %%" % (100 * (p["b_of_a"] - 1)),
                             "%.1f" % p["a_lookup_us"], "%.1f" % p["b_lookup_us"]])
        table("Model M with rows of 32 columns, ram tier, a decode step",
              ["batch", "rows", "{:,} rows, ms".format(count[0]), "{:,} rows, ms".format(count[1]), "difference", "lookup, us",
               "lookup, us"], rows)

    def share(self):
        m = self.model("m", "--preset", "m")
        out = json.loads(run(self.tool("engramd"), "bench", "--json", "--batch", ",".join(map(str, self.args.batch or [1, 8, 64])),
                             "--context", 128, "--prompt-tokens", 64, "--seconds", self.args.seconds, "--engram-tier", "ram", m))
        table("Model M, ram tier, read rate %.1f GB/s" % out["read_gbps"],
              ["batch", "tokens/s", "of the read rate", "lookup share of the step", "Engram layers, ms", "step, ms"],
              [[d["batch"], "%.1f" % d["tok_s"], "%.0f %%" % (100 * d["fraction_of_read"]),
                "%.3f %%" % (100 * d["engram_fraction"]), "%.2f" % d["ms"]["engram"], "%.1f" % sum(d["ms"].values())]
               for d in out["decode"]])


def main():
    what = ["gather", "disk", "tiers", "rows", "share"]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=what)
    p.add_argument("--build", default=os.path.join(TOP, "build"))
    p.add_argument("--dir", help="where models and tables are made; a temporary folder when absent")
    p.add_argument("--keep", action="store_true", help="leave them there")
    p.add_argument("--python", default=sys.executable, help="one that has numpy")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=3)
    p.add_argument("--mib", type=int, action="append", help="size of the table")
    p.add_argument("--batch", type=int, action="append")
    p.add_argument("--steps", type=int, help="decode steps of a pass")
    p.add_argument("--cache-mib", type=int, default=256)
    args = p.parse_args()
    given = args.dir
    args.dir = tempfile.mkdtemp(prefix="engram-bench-", dir=given) if not (given and args.keep) else given
    os.makedirs(args.dir, exist_ok=True)
    try:
        getattr(Bench(args), args.what)()
    finally:
        if not args.keep:
            shutil.rmtree(args.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
