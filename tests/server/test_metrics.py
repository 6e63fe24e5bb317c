#!/usr/bin/env python3
"""/metrics: its format, its names, and its values after known requests. `test_metrics.py ENGRAMD STUB`."""
import os
import re
import shutil
import subprocess
import sys
import time

from harness import Case, Server, main
import harness
import promtext

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "METRICS.md")
stub = None


def scrape(server):
    a = server.request("GET", "/metrics")
    assert a.status == 200, a
    assert a.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8", a.headers
    return promtext.parse(a.body.decode())


def documented():
    """{name: type} of the tables in docs/METRICS.md."""
    with open(DOCS) as f:
        return dict(re.findall(r"^\| `([a-zA-Z0-9_:]+)` \| (counter|gauge|histogram) \|", f.read(), re.M))


class Model(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--served-model-name", 'na"me\\1,alias')

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def complete(self, **body):
        a = self.server.complete({"prompt": [300, 301, 302], "temperature": 0, "ignore_eos": True, **body}, timeout=60)
        self.assertEqual(200, a.status, a)
        return a.json()

    def changes(self, do):
        """name -> how much it grew while do() ran; the engine may finish its books a little after the answer."""
        before = scrape(self.server)
        do()
        deadline = time.monotonic() + 5
        while True:
            after = scrape(self.server)
            idle = promtext.value(after, "vllm:num_requests_running") == 0
            if idle or time.monotonic() > deadline:
                break
            time.sleep(0.02)

        def grown(name, **labels):
            return promtext.value(after, name, **labels) - promtext.value(before, name, **labels)
        return grown

    def test_names_and_types_are_the_documented_ones(self):
        self.complete(max_tokens=2)
        scrape(self.server)  # so that a request has been counted
        self.assertEqual(documented(), {f.name: f.type for f in scrape(self.server).values()})

    def test_every_series_has_the_model_name(self):
        for f in scrape(self.server).values():
            for (name, labels) in f.samples:
                if name.startswith("vllm:") or name.startswith("engramd_engram"):
                    self.assertEqual('na"me\\1', dict(labels).get("model_name"), name)

    def test_tokens_and_ends(self):
        grown = self.changes(lambda: [self.complete(max_tokens=5), self.complete(max_tokens=3, n=2),
                                      self.complete(prompt=[[300], [301, 302]], max_tokens=1)])
        self.assertEqual(5 + 2 * 3 + 2, grown("vllm:generation_tokens_total"))
        self.assertEqual(5, grown("vllm:request_success_total", finished_reason="length"))
        for reason in "stop", "abort", "error":
            self.assertEqual(0, grown("vllm:request_success_total", finished_reason=reason))
        for name in "vllm:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds", \
                "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds", \
                "vllm:request_decode_time_seconds", "vllm:request_inference_time_seconds", \
                "vllm:request_prompt_tokens", "vllm:request_generation_tokens":
            self.assertEqual(5, grown(name + "_count"), name)
        self.assertEqual(4 + 2 * 2, grown("vllm:inter_token_latency_seconds_count"))
        self.assertEqual(3, grown("vllm:request_time_per_output_token_seconds_count"))
        self.assertEqual(3 + 3 + 3 + 1 + 2, grown("vllm:request_prompt_tokens_sum"))
        self.assertEqual(13, grown("vllm:request_generation_tokens_sum"))
        self.assertEqual(3, grown("vllm:request_params_n_count"))
        self.assertEqual(4, grown("vllm:request_params_n_sum"))
        self.assertEqual(9, grown("vllm:request_params_max_tokens_sum"))
        self.assertGreater(grown("vllm:iteration_tokens_total_count"), 4)
        self.assertGreater(grown("vllm:iteration_tokens_total_sum"), 12)
        self.assertGreater(grown("engramd_steps_total"), 4)
        self.assertGreater(grown("engramd_step_seconds_total"), 0)
        self.assertGreater(grown("engramd_engram_rows_total"), 0)
        self.assertGreater(grown("engramd_engram_bytes_total"), 0)
        self.assertGreater(grown("process_cpu_seconds_total"), 0)
        self.assertEqual(3, grown("http_requests_total", handler="/v1/completions", method="POST", status="2xx"))

    def test_engram_histograms(self):
        """Each step counts once per table: it waited, or its rows had been there for a while."""
        grown = self.changes(lambda: self.complete(prompt=list(range(300, 400)), max_tokens=20))
        for layer in "1", "3":
            waits = grown("engramd_engram_wait_seconds_count", layer=layer)
            leads = grown("engramd_engram_lead_seconds_count", layer=layer)
            self.assertEqual(20, waits)  # the prompt's step draws the first token
            self.assertLessEqual(leads, waits)
            self.assertGreater(leads, 10)
            self.assertGreater(grown("engramd_engram_lead_seconds_sum", layer=layer), 0)
        self.assertEqual(2 * 12 * 119, grown("engramd_engram_rows_total"))
        m = scrape(self.server)
        self.assertEqual(["1e-06", "4e-06"], promtext.bounds(m, "engramd_engram_wait_seconds")[:2])
        self.assertEqual(2 * 12, len(promtext.bounds(m, "engramd_engram_lead_seconds")))

    def test_counters_never_shrink(self):
        before = scrape(self.server)
        for i in range(4):
            self.complete(prompt=[300 + i] * 20, max_tokens=i)
            after = scrape(self.server)
            for f in before.values():
                if f.type != "gauge":
                    for key, v in f.samples.items():
                        self.assertGreaterEqual(after[f.name].samples[key], v, key)
            before = after

    def test_gauges(self):
        m = scrape(self.server)
        self.assertEqual(1, promtext.value(m, "engramd_ready"))
        self.assertEqual(1, promtext.value(m, "engramd_build_info"))
        self.assertEqual(0, promtext.value(m, "vllm:num_requests_waiting"))
        self.assertGreaterEqual(promtext.value(m, "vllm:kv_cache_usage_perc"), 0)
        self.assertLessEqual(promtext.value(m, "vllm:kv_cache_usage_perc"), 1)
        info = dict(next(iter(m["vllm:cache_config_info"].samples))[1])
        self.assertGreater(int(info["num_gpu_blocks"]), 0)
        self.assertGreater(int(info["block_size"]), 0)
        self.assertEqual(int(info["num_gpu_blocks"]), sum(m["engramd_kv_blocks"].samples.values()))
        self.assertLess(abs(promtext.value(m, "process_start_time_seconds") - time.time()), 120)
        self.assertLess(abs(promtext.value(m, "process_resident_memory_bytes") / self.server.rss() - 1), 0.2)
        fds = len(os.listdir("/proc/%d/fd" % self.server.proc.pid))
        self.assertLess(abs(promtext.value(m, "process_open_fds") - fds), 4)
        self.assertGreaterEqual(promtext.value(m, "engramd_http_connections"), 1)
        self.assertGreater(promtext.value(m, "engramd_memory_bytes", kind="weights"), 0)
        for layer in "1", "3":
            size = promtext.value(m, "engramd_engram_table_bytes", layer=layer, tier="ram")
            self.assertGreater(size, 0)
            self.assertEqual(size, promtext.value(m, "engramd_engram_resident_bytes", layer=layer, tier="ram"))
        self.assertGreater(promtext.value(m, "engramd_engram_staging_bytes"), 0)

    def test_buckets_are_those_of_vllm(self):
        m = scrape(self.server)
        self.assertEqual("0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 "
                         "640.0 2560.0 +Inf".split(), promtext.bounds(m, "vllm:time_to_first_token_seconds"))
        self.assertEqual("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 "
                         "+Inf".split(), promtext.bounds(m, "vllm:inter_token_latency_seconds"))
        self.assertEqual("0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 1920.0 "
                         "7680.0 +Inf".split(), promtext.bounds(m, "vllm:e2e_request_latency_seconds"))
        self.assertEqual("1.0 2.0 5.0 10.0 20.0 +Inf".split(), promtext.bounds(m, "vllm:request_params_n"))
        self.assertEqual("1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0 +Inf".split(),
                         promtext.bounds(m, "vllm:iteration_tokens_total"))

    def test_rows_by_tier(self):
        """nvme with --engram-verify: what is wanted is found in the cache or read, and every row is compared."""
        with Server("--engram-tier", "nvme", "--engram-verify") as server:
            body = {"prompt": list(range(300, 340)), "max_tokens": 8, "temperature": 0, "ignore_eos": True, "engram": True}
            first, again = (server.complete(body).json()["choices"][0] for _ in range(2))
            m = scrape(server)
        def total(name):
            return promtext.value(m, "engramd_engram_" + name, tier="nvme")
        self.assertEqual(total("rows_unique_total"), total("cache_hits_total") + total("rows_read_total"))
        self.assertGreater(total("cache_hits_total"), 0)
        self.assertGreaterEqual(total("read_bytes_total"), 256 * total("rows_read_total"))
        self.assertEqual(total("rows_total"), total("verified_rows_total"))
        self.assertEqual(0, total("wrong_rows_total"))
        self.assertEqual(0, total("read_errors_total"))
        self.assertGreater(total("reads_in_flight_max"), 1)
        self.assertGreater(total("cache_bytes"), 0)
        tiers = [t for token in first["engram"]["tier"] for t in token]
        self.assertIn("nvme", tiers)
        self.assertEqual({"cache"}, {t for token in again["engram"]["tier"] for t in token})
        for name in "gate", "share", "ngrams":
            self.assertEqual(first["engram"][name], again["engram"][name])

    def test_promtool(self):
        """Prometheus' own checker: vLLM's names are all that it may dislike, for their colons, and one for its _total."""
        tool = shutil.which("promtool")
        self.assertTrue(tool, "promtool is missing: Debian's package prometheus brings it")
        text = self.server.request("GET", "/metrics").body
        r = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, timeout=30)
        odd = 'vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix'  # vLLM's is a histogram, too
        left = [line for line in r.stderr.decode().splitlines()
                if line != odd and not re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line)]
        self.assertEqual([], left)
        self.assertEqual(3, r.returncode)  # it has read the page and spoken only of style


class Http(Case):
    """What the HTTP side counts, against the stub."""

    def setUp(self):
        program, harness.exe = harness.exe, stub
        self.addCleanup(setattr, harness, "exe", program)

    def test_requests(self):
        with Server("--max-num-seqs", "1", "--max-queue", "1", "stub:") as s:
            for method, path in [("GET", "/health"), ("HEAD", "/health"), ("GET", "/nope"), ("GET", "/other?x=1"),
                                 ("BREW", "/health"), ("OPTIONS", "/v1/completions"), ("GET", "/v1/models/zzz")]:
                s.request(method, path)
            held = [s.connect() for _ in range(2)]
            for c in held:
                c.send_request("POST", "/v1/completions", {"prompt": [6000], "stream": True})
                self.assertEqual(200, c.read_head()[0])
                s.wait_line("stub: begin", start=0)
                time.sleep(0.05)
            self.assertEqual(429, s.complete({"prompt": [300]}).status)
            m = scrape(s)
            self.assertEqual((1, 1), (promtext.value(m, "vllm:num_requests_running"),
                                      promtext.value(m, "vllm:num_requests_waiting")))
            self.assertEqual(1, promtext.value(m, "engramd_requests_refused_total"))
            self.assertEqual(0, promtext.value(m, "engramd_clients_left_total"))
            for c in held:
                c.sock.close()
            s.wait_line("end=client_left")
            deadline = time.monotonic() + 5
            while promtext.value(scrape(s), "engramd_clients_left_total") != 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            m = scrape(s)
            self.assertEqual(2, promtext.value(m, "engramd_clients_left_total"))
            expect = {("/health", "GET", "2xx"): 1, ("/health", "HEAD", "2xx"): 1, ("none", "GET", "4xx"): 2,
                      ("/health", "other", "4xx"): 1, ("/v1/completions", "OPTIONS", "2xx"): 1,
                      ("/v1/models/", "GET", "4xx"): 1, ("/v1/completions", "POST", "4xx"): 1,
                      ("/v1/completions", "POST", "2xx"): 2}
            for (handler, method, status), n in expect.items():
                self.assertEqual(n, promtext.value(m, "http_requests_total", handler=handler, method=method,
                                                   status=status), (handler, method, status))

    def test_while_loading(self):
        with Server("stub:load_ms=2000", wait=False) as s:
            s.wait_port()
            m = scrape(s)
            self.assertEqual(0, promtext.value(m, "engramd_ready"))
            self.assertNotIn("vllm:num_requests_running", m)
            self.assertGreater(promtext.value(m, "process_resident_memory_bytes"), 0)
            s.wait_ready()
            self.assertEqual(1, promtext.value(scrape(s), "engramd_ready"))


if __name__ == "__main__":
    stub = sys.argv.pop(2)
    main()
