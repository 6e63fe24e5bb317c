#!/usr/bin/env python3
"""The same request, the same bytes: alone, together, in any order, in any chunks, after prefix hits, under preemption, on
any number of threads. `test_determinism.py ENGRAMD [--quick]` (--quick: a smaller set, for builds with sanitizers);
ENGRAMD_DETERMINISM_REQUESTS says how many requests there are (200, quick 40).

The reference is each request alone on one thread. Whatever differs is printed with the seed that repeats the run."""
import os
import random
import sys
import time
import unittest

import probe
import swarm
import workload
from swarm import harness

SEED = int(os.environ.get("ENGRAMD_TEST_SEED") or 1)
QUIET = ["--log-level", "warning"]
quick = False


class Determinism(harness.Case):
    @classmethod
    def setUpClass(cls):
        count, longest = (40, 500) if quick else (200, 3000)
        count = int(os.environ.get("ENGRAMD_DETERMINISM_REQUESTS") or count)
        cls.longest = longest
        cls.bodies = workload.Workload(SEED, count, longest).bodies
        cls.rng = random.Random(SEED + 1)
        start = time.monotonic()
        with harness.Server("--threads", "1", *QUIET) as s:
            cls.salted = probe.accepts(s, "cache_salt", "a")
            # a salt of its own keeps each request away from what the others left in the cache
            alone = [cls.salt(b, "alone-%d" % i) for i, b in enumerate(cls.bodies)]
            cls.reference = swarm.ask_all(s.port, alone)
            assert s.stop() == 0, s.text()
        print("reference: %d requests alone in %.1f s" % (count, time.monotonic() - start))

    @classmethod
    def salt(cls, body, salt):
        return {**body, "cache_salt": salt} if cls.salted else body

    def compare(self, replies, which=None, what=""):
        for i, reply in zip(which or range(len(replies)), replies):
            expected = self.reference[i]
            self.assertTrue(reply.complete, "%s: request %d was cut off" % (what, i))
            if expected.choices() != reply.choices():
                self.fail("%s: request %d differs (seed %d)\n%r\nalone: %r\nnow:   %r" % (
                    what, i, SEED, {**self.bodies[i], "prompt": str(self.bodies[i]["prompt"])[:100]},
                    str(expected.choices())[:1500], str(reply.choices())[:1500]))

    def run_all(self, what, options, at_once, order=None, which=None, salt=None):
        """Asks `which` (all) of a fresh server; returns its metrics before it ends."""
        which = list(which or range(len(self.bodies)))
        bodies = [self.salt(self.bodies[i], salt) if salt else self.bodies[i] for i in which]
        start = time.monotonic()
        with harness.Server(*options, *QUIET) as s:
            replies = swarm.ask_all(s.port, bodies, order, at_once, timeout=300)
            values = probe.metrics(s)
            self.assertEqual(0, s.stop(), s.text())
        print("%s: %d requests in %.1f s" % (what, len(which), time.monotonic() - start))
        self.compare(replies, which, what)
        return values

    def shuffled(self, n):
        order = list(range(n))
        self.rng.shuffle(order)
        return order

    def test_answers_are_answers(self):
        """The comparison would not notice if all of them were refusals."""
        self.assertEqual({200}, {r.status for r in self.reference})
        self.assertTrue(all(r.complete for r in self.reference))
        self.assertGreater(len({r.choices() for r in self.reference}), len(self.reference) * 3 // 4)

    def test_all_together(self):
        self.run_all("together, 1 thread, chunks of 512", ["--threads", "1"], len(self.bodies))

    def test_two_threads_chunks_of_64(self):
        n = len(self.bodies)
        self.run_all("shuffled, 2 threads, chunks of 64", ["--threads", "2", "--max-num-batched-tokens", "64"], n, self.shuffled(n))

    def test_five_threads_chunks_of_7(self):
        n = len(self.bodies)
        short = [i for i in range(n) if workload.prompt_tokens(self.bodies[i]) <= 1200]
        self.run_all("shuffled, 5 threads, chunks of 7", ["--threads", "5", "--max-num-batched-tokens", "7"], 32,
                     self.shuffled(len(short)), short)

    def test_chunks_of_one(self):
        short = [i for i, b in enumerate(self.bodies) if workload.prompt_tokens(b) <= 130][:60]
        middle = [i for i, b in enumerate(self.bodies) if 130 < workload.prompt_tokens(b) <= 500][:6]
        self.run_all("2 threads, chunks of 1", ["--threads", "2", "--max-num-batched-tokens", "1"], 16, None, short + middle)

    def test_few_places(self):
        n = len(self.bodies)
        self.run_all("reversed, 3 sequences a step", ["--threads", "2", "--max-num-seqs", "3"], n, list(reversed(range(n))))

    def test_small_cache(self):
        """Just enough blocks for the longest request: everybody else is in its way, sequences get thrown out."""
        n = len(self.bodies)
        options = probe.cache_for(self.longest + 128)
        self.run_all("shuffled, smallest cache", ["--threads", "2", *options], n, self.shuffled(n))

    def test_preemption(self):
        """Sequences that begin small and grow beyond what there is: some must be thrown out and computed again."""
        rng = random.Random(SEED + 2)
        bodies = [{"prompt": workload.some_ids(rng, rng.randint(30, 60)), "max_tokens": 100 if quick else 200, "seed": i, "n": 1 + i % 2,
                   "temperature": i % 2, "logprobs": i % 3, "ignore_eos": True, "stream": i % 4 == 0} for i in range(10 if quick else 24)]
        with harness.Server("--threads", "1", *QUIET) as s:
            alone = swarm.ask_all(s.port, bodies)
        with harness.Server("--threads", "2", "--max-model-len", "512", *probe.cache_for(512), *QUIET) as s:
            together = swarm.ask_all(s.port, bodies, self.shuffled(len(bodies)), len(bodies), timeout=300)
            values = probe.metrics(s)
            self.assertEqual(0, s.stop(), s.text())
        for i, (a, b) in enumerate(zip(alone, together)):
            self.assertEqual(200, b.status)
            self.assertEqual(a.choices(), b.choices(), "request %d of seed %d" % (i, SEED))
        preempted = values and probe.metric(values, "vllm:num_preemptions_total")
        print("preemptions: %s" % ("not told" if preempted is None else "%d" % preempted))
        if preempted is not None:
            self.assertGreater(preempted, 0)

    def test_prefix_hits(self):
        """The second and third time everything that can be in the cache is there."""
        with harness.Server("--threads", "2", *QUIET) as s:
            cached = []
            for turn in range(3):
                replies = swarm.ask_all(s.port, self.bodies, self.shuffled(len(self.bodies)), [64, 1, 16][turn])
                self.compare(replies, None, "turn %d" % turn)
                cached.append(sum(r.cached_tokens() for r in replies))
            self.assertEqual(0, s.stop(), s.text())
        print("cached prompt tokens in three turns: %s" % cached)
        if not self.salted:
            print("no field cache_salt: there is no prefix cache to hit")
            self.assertEqual([0, 0, 0], cached)
        else:
            self.assertGreater(cached[1], cached[0])
            self.assertGreater(cached[1], min(1000, 25 * len(self.bodies)))

    def test_salt_shares_nothing(self):
        """Another salt never sees the blocks: neither in the answer nor in what it says of the cache."""
        if not self.salted:
            print("no field cache_salt: there is no prefix cache to keep apart")
            return
        body = {"prompt": workload.some_ids(random.Random(SEED), 400), "max_tokens": 4, "temperature": 0}
        with harness.Server(*QUIET) as s:
            def cached(more):
                return swarm.ask_all(s.port, [{**body, **more}])[0].cached_tokens()
            self.assertEqual([0, 0, 0], [cached({}), cached({"cache_salt": "a"}), cached({"cache_salt": "b"})])
            self.assertTrue(all(n >= 128 for n in (cached({}), cached({"cache_salt": "a"}), cached({"cache_salt": "b"}))))
            self.assertEqual(0, s.stop(), s.text())


if __name__ == "__main__":
    harness.exe = sys.argv.pop(1)
    if "--quick" in sys.argv:
        sys.argv.remove("--quick")
        quick = True
    print("seed %d" % SEED)
    sys.stdout.flush()
    unittest.main(verbosity=2)
