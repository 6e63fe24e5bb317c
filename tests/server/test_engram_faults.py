#!/usr/bin/env python3
"""Disks and machines that go wrong under the Engram tables: `test_engram_faults.py ENGRAMD FAULT_PRELOAD [FAULT_FS]`.

Reads go wrong in two ways: through a library that is preloaded (threads read then, io_uring is forbidden), and through a
FUSE file system where one can be mounted. Whatever happens, an answer is the right one or an error with a sentence."""
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import Case, Server, main

preload = fault_fs = None
MODEL = os.environ.get("ENGRAMD_BUNDLED_MODEL") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..",
                                                                "models", "engram-pocket")
TIERS = ["ram", "mmap", "shared", "nvme"]
BARE = ["--engram-cache-bytes", "0", "--no-prefix-cache"]  # every answer needs its rows anew
PROMPTS = ["The capital of France is", "One two three four five", "In the beginning there was"]
BLOCK = 4096


def ask(server, prompt, n=4, timeout=60):
    return server.complete({"prompt": prompt, "max_tokens": n, "temperature": 0}, timeout=timeout)


def text_of(answer):
    assert answer.status == 200, answer
    return answer.json()["choices"][0]["text"]


def at_once(*calls):
    """What each of the functions returned, all run together."""
    results = [None] * len(calls)

    def run(i):
        results[i] = calls[i]()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


class Disk:
    """The bundled model on a disk that does what `set` says."""

    def __init__(self, kind):
        self.kind = kind
        self.dir = tempfile.TemporaryDirectory()
        self.control = os.path.join(self.dir.name, "control")
        self.log = os.path.join(self.dir.name, "log")
        self.model = os.path.join(self.dir.name, "mnt")
        self.set()
        self.env = {}
        if kind == "preload":
            os.symlink(os.path.abspath(MODEL), self.model)
            asan = os.environ.get("ASAN_OPTIONS", "")
            self.env = {"LD_PRELOAD": preload, "FAULTS_CONTROL": self.control,
                        "ASAN_OPTIONS": asan + ":verify_asan_link_order=0"}
        else:
            os.mkdir(self.model)
            r = subprocess.run([fault_fs, MODEL, self.control, self.model], capture_output=True)
            if r.returncode:
                self.dir.cleanup()
                raise OSError(r.stderr.decode())

    def __enter__(self):
        return self

    def __exit__(self, *what):
        if self.kind == "fuse":
            subprocess.run(["umount", "--lazy", self.model], check=True)
        self.dir.cleanup()

    def set(self, *lines):
        with open(self.control + ".new", "w") as f:
            f.write("".join(line + "\n" for line in lines))
        os.replace(self.control + ".new", self.control)

    def blocks_of(self, work):
        """Of the file, which `work` has read."""
        self.set("log " + self.log)
        work()
        self.set()
        with open(self.log) as f:
            reads = [tuple(map(int, line.split())) for line in f]
        os.unlink(self.log)
        return {b for offset, n in reads for b in range(offset // BLOCK, (offset + n - 1) // BLOCK + 1)}


def table_spans(path):
    """Where in the file the codes of each table lie."""
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
    return sorted(tuple(8 + n + at for at in t["data_offsets"]) for name, t in header.items()
                  if name.endswith("engram.embed.weight"))


def disks():
    kinds = ["preload"]
    if fault_fs:
        try:
            with Disk("fuse"):
                kinds.append("fuse")
        except OSError as e:
            print("no FUSE file system can be mounted here, reads go wrong by preloading alone: %s" % str(e).strip())
    return kinds


class Reads(Case):
    @classmethod
    def setUpClass(cls):
        cls.kinds = disks()
        with Server("--no-prefix-cache", MODEL) as s:
            cls.want = [text_of(ask(s, p)) for p in PROMPTS]
            assert s.stop() == 0

    def on_each(self, test, kinds=None):
        """test(disk, server) on a disk of each kind; afterwards all is well again."""
        for kind in kinds or self.kinds:
            with self.subTest(kind), Disk(kind) as disk, \
                    Server("--engram-tier", "nvme", *BARE, disk.model, env=disk.env) as s:
                self.assertEqual(self.want[0], text_of(ask(s, PROMPTS[0])))
                test(disk, s)
                disk.set()
                self.assertEqual(self.want, [text_of(ask(s, p)) for p in PROMPTS])
                self.assertEqual(0, s.stop())

    def check_row_missing(self, answer):
        error = self.check_error(answer, 500)
        self.assertRegex(error["message"], r"a row of the Engram table of layer \d+ could not be read")

    def test_a_row_that_cannot_be_read(self):
        def test(disk, s):
            first = disk.blocks_of(lambda: ask(s, PROMPTS[0]))
            others = disk.blocks_of(lambda: [ask(s, p) for p in PROMPTS[1:]])
            self.assertGreater(len(first - others), 50)
            block = sorted(first - others)[len(first - others) // 2]
            disk.set("eio %d %d" % (block * BLOCK, block * BLOCK + BLOCK))
            self.check_row_missing(ask(s, PROMPTS[0]))
            self.assertEqual(self.want[1:], [text_of(ask(s, p)) for p in PROMPTS[1:]])
            for _ in range(5):  # also where they share steps
                failed, *fine = at_once(*[lambda p=p: ask(s, p) for p in PROMPTS])
                self.check_row_missing(failed)
                self.assertEqual(self.want[1:], [text_of(a) for a in fine])
            self.assertEqual(200, s.request("GET", "/health").status)
        self.on_each(test)

    def test_the_whole_table_cannot_be_read(self):
        def test(disk, s):
            disk.set(*["eio %d %d" % span for span in table_spans(os.path.join(MODEL, "model.safetensors"))])
            for p in PROMPTS:
                self.check_row_missing(ask(s, p))
        self.on_each(test)

    def test_a_disk_that_stalls(self):
        def test(disk, s):
            start = time.monotonic()
            disk.set("stall %d" % ((start + 5) * 1000))

            def health():
                time.sleep(1)
                before = time.monotonic()
                answer = s.request("GET", "/health")
                return answer.status == 200 and time.monotonic() - before < 2
            self.assertEqual(self.want + [True], at_once(*[lambda p=p: text_of(ask(s, p)) for p in PROMPTS], health))
            self.assertGreater(time.monotonic() - start, 4.9)
        self.on_each(test)

    def test_a_file_cut_short_under_the_server(self):
        """Preloaded alone: of a mapped file the kernel itself would take the pages away, weights and all."""
        def test(disk, s):
            disk.set("cut %d" % BLOCK)
            for p in PROMPTS[:2]:
                self.check_row_missing(ask(s, p))
        self.on_each(test, ["preload"])


def copy_model(to):
    shutil.copytree(MODEL, to)
    return to


class Files(Case):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.model = copy_model(os.path.join(self.dir.name, "model"))
        self.file = os.path.join(self.model, "model.safetensors")

    def tearDown(self):
        self.dir.cleanup()

    def args(self, tier):
        return ["--engram-tier", tier, "--engram-shared-dir", self.dir.name, *BARE, self.model]

    def test_truncated_before_the_start(self):
        os.truncate(self.file, table_spans(self.file)[-1][1] - 100)
        for tier in TIERS:
            with Server(*self.args(tier), wait=False) as s:
                self.assertEqual(1, s.wait())
                self.assertRegex(s.text(), r"model\.safetensors")
                self.assertNotIn("listening", s.text())

    def test_mapped_file_cut_short_under_the_server(self):
        """Pages of weights are gone, so nothing can be answered any more: that is said, instead of a bare signal."""
        with Server(*self.args("mmap")) as s:
            self.assertTrue(text_of(ask(s, PROMPTS[0])))
            os.truncate(self.file, BLOCK)
            with self.assertRaises((harness.Closed, OSError)):
                ask(s, PROMPTS[1])
            self.assertEqual(1, s.wait())
            self.assertRegex(s.text(), r"a page of \S*model\.safetensors could not be read")

    def test_replaced_under_the_server(self):
        """A new file under the old name: the rows stay those the server was started with."""
        for tier in TIERS:
            with self.subTest(tier), Server(*self.args(tier)) as s:
                want = [text_of(ask(s, p)) for p in PROMPTS[:2]]
                with open(self.file, "rb") as f:
                    data = bytearray(f.read())
                keep = bytes(data)
                for i in range(table_spans(self.file)[-1][1] - (1 << 20), table_spans(self.file)[-1][1]):
                    data[i] ^= 0x11
                for content in bytes(data), keep:  # the second is for the next tier
                    with open(self.file + ".new", "wb") as f:
                        f.write(content)
                    os.replace(self.file + ".new", self.file)
                    self.assertEqual(want, [text_of(ask(s, p)) for p in PROMPTS[:2]])
                self.assertEqual(0, s.stop())


PR_SET_THP_DISABLE = 41


def no_huge_pages():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def little_locked_memory():
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))


class Machine(Case):
    def check_all_tiers(self, **how):
        with Server(MODEL) as s:
            want = [text_of(ask(s, p)) for p in PROMPTS]
        with tempfile.TemporaryDirectory() as shared:
            for tier in TIERS:
                with self.subTest(tier), Server("--engram-tier", tier, "--engram-shared-dir", shared, *BARE, MODEL, **how) as s:
                    self.check_limits(s, **how)
                    self.assertEqual(want, [text_of(ask(s, p)) for p in PROMPTS])
                    self.assertEqual(0, s.stop())

    def check_limits(self, s, prefix=(), **more):
        with open("/proc/%d/status" % s.proc.pid) as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        if "preexec" in more and more["preexec"] is no_huge_pages and "THP_enabled" in status:
            self.assertEqual("0", status["THP_enabled"])
        if prefix:
            self.assertFalse(int(status["CapEff"], 16) >> 14 & 1, "CAP_IPC_LOCK")
            with open("/proc/%d/limits" % s.proc.pid) as f:
                self.assertRegex(f.read(), r"Max locked memory +65536 +65536 ")

    def test_no_huge_pages(self):
        self.check_all_tiers(preexec=no_huge_pages)

    def test_little_locked_memory(self):
        drop = ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"] if os.geteuid() == 0 else ["env"]
        self.check_all_tiers(preexec=little_locked_memory, prefix=drop)
        # the tier that wants to lock its tables says so, and what to do
        for command in "serve", "plan":
            r = subprocess.run([*drop, harness.exe, command, "--engram-tier", "pinned", MODEL], capture_output=True,
                               preexec_fn=little_locked_memory, timeout=60)
            self.assertEqual(1, r.returncode, r.stderr)
            self.assertRegex(r.stderr.decode(), r"may lock (65536 bytes|64\.0 KiB).*ulimit -l")


class SharedTable(Case):
    """Two processes on one copy of the tables."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.args = ["--engram-tier", "shared", "--engram-shared-dir", self.dir.name, "--no-prefix-cache", MODEL]
        self.seed = int(os.environ.get("ENGRAMD_TEST_SEED", "1"))
        print("seed %d" % self.seed)

    def tearDown(self):
        self.dir.cleanup()

    def tables(self):
        return [n for n in os.listdir(self.dir.name) if n.endswith(".table")]

    def mapped(self, server):
        """(resident, proportional share) in bytes of the shared copy in a process."""
        rss = pss = 0
        inside = False
        with open("/proc/%d/smaps" % server.proc.pid) as f:
            for line in f:
                word = line.split()
                if "-" in word[0] and not word[0].endswith(":"):
                    inside = self.dir.name in line
                elif inside and word[0] == "Rss:":
                    rss += int(word[1]) << 10
                elif inside and word[0] == "Pss:":
                    pss += int(word[1]) << 10
        return rss, pss

    def test_resident_once(self):
        with Server(*self.args) as a, Server(*self.args) as b:
            answers = [[text_of(ask(s, p)) for p in PROMPTS] for s in (a, b)]
            self.assertEqual(answers[0], answers[1])
            self.assertEqual(1, len(self.tables()))
            (rss_a, pss_a), (rss_b, pss_b) = self.mapped(a), self.mapped(b)
            self.assertGreater(min(rss_a, rss_b), 1 << 20)
            # the same rows were asked: each page is there once and both halves of it are counted
            self.assertLess(abs(rss_a - rss_b), 0.1 * rss_a)
            self.assertLess(pss_a + pss_b, 1.1 * max(rss_a, rss_b))
            self.assertEqual([0, 0], [s.stop() for s in (a, b)])

    def test_killed_at_any_moment(self):
        """One of two is killed while the copy is made, found or used: the other serves right answers, and so does the next."""
        rng = random.Random(self.seed)
        with Server(MODEL) as s:
            want = [text_of(ask(s, p)) for p in PROMPTS]
        for i in range(6):
            with self.subTest(i):
                fresh = i % 2 == 0
                for name in os.listdir(self.dir.name) if fresh else []:
                    os.unlink(os.path.join(self.dir.name, name))
                with Server(*self.args, wait=False) as victim, Server(*self.args, wait=False) as other:
                    time.sleep(rng.uniform(0, 0.6))
                    victim.send_signal(signal.SIGKILL)
                    other.wait_ready()
                    self.assertEqual(want, [text_of(ask(other, p)) for p in PROMPTS])
                    with Server(*self.args) as late:
                        late.send_signal(signal.SIGKILL)  # in use: nobody else's rows change
                        self.assertEqual(want, [text_of(ask(other, p)) for p in PROMPTS])
                    self.assertEqual(0, other.stop())
                self.assertEqual(1, len(self.tables()))


if __name__ == "__main__":
    preload = os.path.abspath(sys.argv.pop(2))
    if len(sys.argv) > 2 and not sys.argv[2].startswith("-") and os.path.exists(sys.argv[2]):
        fault_fs = os.path.abspath(sys.argv.pop(2))
    main()
