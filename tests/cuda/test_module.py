#!/usr/bin/env python3
"""The program with the CUDA module on the stand-ins: it takes the GPU where one can be used, says why not where not, plans
its memory, and answers as on the CPU.

usage: test_module.py ENGRAMD MODULE OTHER_LIBRARY
"""
import json
import os
import subprocess
import sys
import unittest

ENGRAMD, MODULE, OTHER = sys.argv[1:4]
PROMPT = "The sun is a star. Iron is"


def run(command, *args, fake="eager", check=True):
    env = dict(os.environ, FAKE_CUDA=fake)
    done = subprocess.run([ENGRAMD, command, *args], env=env, capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise AssertionError(f"{command} {args}: {done.stderr}")
    return done


def plan(*args, fake="eager"):
    return json.loads(run("plan", "--json", "--cuda-module", MODULE, *args, fake=fake, check=False).stdout)


class Module(unittest.TestCase):
    def generate(self, *args, fake="eager"):
        return run("generate", "--max-tokens", "5", *args, PROMPT, fake=fake).stdout

    def test_same_answer_as_the_cpu(self):
        want = self.generate("--backend", "cpu")
        for tier in "ram", "mmap":
            got = self.generate("--backend", "cuda", "--cuda-module", MODULE, "--engram-tier", tier, fake="random=3")
            self.assertEqual(want, got, tier)

    def test_auto_takes_the_gpu(self):
        p = plan()
        self.assertEqual(("cuda", "stand-in sm_90", ""), (p["backend"], p["device"], p["no_gpu_because"]))
        items = {i["name"]: i for i in p["items"]}
        device = sum(i["bytes"] for i in p["items"] if i["place"] == "device")
        self.assertEqual(p["device_bytes"], device)
        self.assertLess(device, 250 << 20)
        for name in "gpu_weights", "gpu_experts", "gpu_kv_blocks", "gpu_slots", "gpu_step_buffers":
            self.assertEqual("device", items[name]["place"])
        self.assertEqual("locked", items["engram_tables"]["place"])
        self.assertNotIn("host_experts", items)

    def test_experts_stay_on_the_host(self):
        whole = plan()
        experts = next(i["bytes"] for i in whole["items"] if i["name"] == "gpu_experts")
        mib = ((whole["device_bytes"] - experts // 3) * 32 // 31 >> 20)
        items = {i["name"]: i for i in plan(fake=f"memory={mib}")["items"]}
        self.assertEqual("locked", items["host_experts"]["place"])
        self.assertGreater(items["host_experts"]["bytes"], 0)
        self.assertEqual(experts, items["host_experts"]["bytes"] + items["gpu_experts"]["bytes"])

    def test_why_not(self):
        for fake, why in {"driver=0,none": "no NVIDIA driver is installed", "driver=12080": "the NVIDIA driver is too old",
                          "none": "no NVIDIA GPU is there", "arch=75": "compute capability 7.5",
                          "memory=64": "the GPU has 64.0 MiB free"}.items():
            p = plan(fake=fake)
            self.assertEqual("cpu", p["backend"])
            self.assertIn(why, p["no_gpu_because"])
            self.assertEqual(0, p["device_bytes"])
            forced = run("plan", "--backend", "cuda", "--cuda-module", MODULE, fake=fake, check=False)
            self.assertEqual(1, forced.returncode)
            self.assertIn("--backend cuda: ", forced.stderr)
            self.assertIn(why, forced.stderr)
        self.assertIn("no NVIDIA GPU", run("plan", "--cuda-module", MODULE, fake="none", check=False).stdout)

    def test_cpu_is_not_asked_why(self):
        p = plan("--backend", "cpu", fake="none")
        self.assertEqual(("cpu", ""), (p["backend"], p["no_gpu_because"]))

    def test_other_files(self):
        for path, why in {"/nowhere/engramd-cuda.so": "cannot be read", __file__: "does not open",
                          OTHER: "has no em_backend_module_1"}.items():
            done = run("plan", "--backend", "cuda", "--cuda-module", path, check=False)
            self.assertEqual(1, done.returncode)
            self.assertIn(why, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
