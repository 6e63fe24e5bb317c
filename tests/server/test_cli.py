#!/usr/bin/env python3
"""The command line: options from four sources, help, version, wrong usage, generate. `test_cli.py STUB`."""
import os
import re
import subprocess
import tempfile

import harness
from harness import Case, Server, main


def run(*args, env=None, stdin=b"", timeout=20):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ENGRAMD_")}
    return subprocess.run([harness.exe, *args], input=stdin, capture_output=True, timeout=timeout,
                          env={**clean, **(env or {})})


def flags_of(command):
    return re.findall(r"^  --([a-z-]+)", run(command, "--help").stdout.decode(), re.M)


class Usage(Case):
    def fails(self, r, code, pattern):
        err = r.stderr.decode()
        self.assertEqual(code, r.returncode, err)
        self.assertRegex(err, pattern)
        self.assertEqual(b"", r.stdout)
        return err

    def wrong(self, *args, pattern, env=None):
        err = self.fails(run(*args, env=env), 2, pattern)
        self.assertEqual(1, err.count("\n"), err)  # one sentence

    def test_help(self):
        for args in ["--help"], ["-h"], ["help"], ["serve", "--help"], ["generate", "-h"], ["serve", "--port", "x", "--help"]:
            r = run(*args)
            self.assertEqual((0, b""), (r.returncode, r.stderr))
            self.assertTrue(r.stdout.startswith(b"Usage: engramd "), r.stdout)
        self.assertIn("port", flags_of("serve"))
        self.assertIn("temperature", flags_of("generate"))
        self.assertNotIn("temperature", flags_of("serve"))

    def test_version(self):
        for args in ["--version"], ["serve", "--version"], ["generate", "--version"]:
            self.assertRegex(run(*args).stdout.decode(), r"^engramd \d+\.\d+\.\d+\n$")

    def test_no_command(self):
        self.fails(run(), 2, "Usage: engramd")
        self.fails(run("explode"), 2, 'no command "explode"')

    def test_unknown_flags(self):
        for flag in "--nonsense", "--nonsense=1", "-p", "--Port", "--port8080", "--temperature":
            self.wrong("serve", flag, "stub:", pattern="unknown option " + flag.split("=")[0])
        self.wrong("generate", "--port", "1", "x", pattern="unknown option --port")

    def test_arguments(self):
        self.wrong("serve", "a", "b", pattern='one argument too many: "b"')
        self.wrong("generate", pattern="PROMPT is missing")
        self.wrong("generate", "a", "b", pattern="one argument too many")
        for flag in "--port", "--host", "--log-level":
            self.wrong("serve", "stub:", flag, pattern=flag + " needs a value")

    def test_values(self):
        for flag, values in {
                "--port": ["", "x", "-1", "65536", "8080x", "0x50", " 80", "1e3", "99999999999999999999"],
                "--max-num-seqs": ["0", "-1", "1.5"], "--kv-cache-bytes": ["-1", "1X", "G", "2GG", "9999999999G", "1.5G"],
                "--drain-timeout": ["-1", "x", "nan", "inf", "1e9", "0x1p3", ""], "--engram-tier": ["", "disk", "RAM", "a"],
                "--backend": ["gpu", "c"], "--math": ["bf16"], "--log-format": ["xml"], "--log-level": ["loud"],
                "--ignore-unknown-fields": [], "--max-n": ["129"], "--max-logprobs": ["21"],
                "--served-model-name": ["", ",", "a,,b", "a,"]}.items():
            for value in values:
                self.wrong("serve", flag, value, "stub:", pattern=re.escape(flag) + ": ")
                self.wrong("serve", flag + "=" + value, "stub:", pattern=re.escape(flag) + ": ")
        self.wrong("serve", "--ignore-unknown-fields=maybe", "stub:", pattern="neither true nor false")
        self.wrong("generate", "--temperature", "2.5", "x", pattern="--temperature: 2.5 is outside 0 to 2")
        self.wrong("generate", "--seed", "99999999999999999999", "x", pattern="--seed: ")

    def test_invalid_utf8(self):
        r = subprocess.run([harness.exe, "serve", b"--host", b"\xff"], capture_output=True, timeout=10)
        self.assertEqual(2, r.returncode)
        self.assertIn(b"not valid UTF-8", r.stderr)

    def test_every_flag_has_its_variable(self):
        """A bad value in ENGRAMD_NAME is refused in that name: each is read, in one place."""
        free_text = {"model", "host", "config", "api-key-file", "engram-shared-dir", "cuda-module"}
        for name in set(flags_of("serve") + flags_of("generate")) - free_text:
            variable = "ENGRAMD_" + name.upper().replace("-", "_")
            self.wrong("serve", "stub:", env={variable: ",bad"}, pattern=variable + ": ")

    def test_host_that_is_none(self):
        r = run("serve", "--host", "no.such.host.invalid", "--port", "0", "stub:")
        self.fails(r, 1, "--host: ")
        self.fails(run("serve", "--host", "192.0.2.1", "--port", "0", "stub:"), 1, "cannot listen on 192.0.2.1")

    def test_no_bundled_model_beside_a_lonely_program(self):
        with tempfile.TemporaryDirectory() as d:
            program = os.path.join(d, "bin", "engramd")
            os.mkdir(os.path.dirname(program))
            with open(harness.exe, "rb") as src, open(program, "wb") as dst:
                dst.write(src.read())
            os.chmod(program, 0o755)
            r = subprocess.run([program, "serve", "--port", "0"], capture_output=True, timeout=20)
            self.fails(r, 1, "no model was given")
            # found in an install prefix
            models = os.path.join(d, "share", "engramd", "models", "engram-pocket")
            os.makedirs(models)
            with open(os.path.join(models, "config.json"), "w") as f:
                f.write("{}")
            r = subprocess.run([program, "generate", "--max-tokens", "1", "a"], capture_output=True, timeout=20)
            self.assertEqual((0, b"t0 \n"), (r.returncode, r.stdout), r.stderr)


class Sources(Case):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def file(self, text):
        path = os.path.join(self.dir.name, "engramd.conf")
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        return path

    def shown(self, *args, env=None):
        """Options in effect, as the log says at start."""
        with Server(*args, "stub:", env=env) as s:
            lines = [m.group(1) for _, line in s.lines for m in [re.search(r"options: (.*)", line)] if m]
            self.assertEqual(0, s.stop())
        return dict(re.findall(r"([a-z-]+)=(\S+(?: \((?:file|environment|flag)\))?)", " ".join(lines)))

    def test_strength(self):
        conf = self.file("# a comment\n\n  max-num-seqs = 3  \r\nmax-queue=4\nmax-n = 5\nkv-cache-bytes = 2G\n")
        shown = self.shown("--config", conf, "--max-n", "7", env={"ENGRAMD_MAX_QUEUE": "6", "ENGRAMD_MAX_N": "6"})
        self.assertEqual(("3 (file)", "6 (environment)", "7 (flag)", "2147483648 (file)", "16"),
                         tuple(shown[k] for k in ("max-num-seqs", "max-queue", "max-n", "kv-cache-bytes", "max-stops")))

    def test_all_of_a_command_are_shown(self):
        shown = self.shown()
        self.assertEqual(set(flags_of("serve")), set(shown))

    def test_config_by_environment(self):
        shown = self.shown(env={"ENGRAMD_CONFIG": self.file("max-n = 9\n")})
        self.assertEqual("9 (file)", shown["max-n"])

    def test_lists(self):
        for args, env, names in [
                (["--served-model-name", "a,b", "--served-model-name", "c"], {}, ["a", "b", "c"]),
                (["--served-model-name", "a"], {"ENGRAMD_SERVED_MODEL_NAME": "x,y"}, ["a"]),
                ([], {"ENGRAMD_SERVED_MODEL_NAME": "x,y"}, ["x", "y"])]:
            with Server(*args, "stub:", env=env) as s:
                for name in names:
                    a = s.complete({"model": name, "prompt": [300], "max_tokens": 1})
                    self.assertEqual((200, names[0]), (a.status, a.json()["model"]))
                self.assertEqual(404, s.complete({"model": "z", "prompt": [300]}).status)

    def test_ignore_unknown_fields(self):
        body = {"prompt": [300], "max_tokens": 1, "nonsense": 1}
        for args, status in ([], 400), (["--ignore-unknown-fields"], 200), (["--ignore-unknown-fields=false"], 400):
            with Server(*args, "stub:") as s:
                self.assertEqual(status, s.complete(body).status)

    def test_bad_files(self):
        for text, pattern in [("port = x\n", r"engramd.conf:1: port: "), ("\nnonsense = 1\n", r"engramd.conf:2: .*nonsense"),
                              ("port\n", r"engramd.conf:1: expected"), ("config = x\n", r"engramd.conf:1: "),
                              (b"max-n = 3\0\n", "not a text file"), ("x" * 2000000, "engramd.conf"),
                              (b"host = \xff\n", "UTF-8")]:
            r = run("serve", "--config", self.file(text), "stub:")
            self.assertEqual(2, r.returncode, r.stderr)
            self.assertRegex(r.stderr.decode(), pattern)
        for path in "/nonexistent/x.conf", self.dir.name:
            r = run("serve", "--config", path, "stub:")
            self.assertEqual(2, r.returncode)
            self.assertIn(path, r.stderr.decode())

    def test_kubernetes_service_variables(self):
        self.assertEqual("0 (flag)", self.shown(env={"ENGRAMD_PORT": "tcp://10.0.0.1:8080"})["port"])

    def test_json_log(self):
        import json
        with Server("--log-format", "json", "stub:") as s:
            s.complete({"prompt": [300], "max_tokens": 1}, headers={"X-Request-Id": "r1"})
            s.wait_line('"request_id":"r1"')
            self.assertEqual(0, s.stop())
            for _, line in s.lines:
                if not line.startswith(("stub:", "<end")):
                    self.assertIn("message", json.loads(line))

    def test_quiet_log_still_says_where(self):
        with Server("--log-level", "error", "stub:") as s:
            self.assertEqual(200, s.request("GET", "/health").status)
            self.assertEqual(0, s.stop())
            self.assertEqual(1, len([line for _, line in s.lines if not line.startswith("<end")]))


class Generate(Case):
    def generate(self, *args, **more):
        return run("generate", "--model", "stub:", *args, **more)

    def test_text(self):
        r = self.generate("--max-tokens", "3", "ab")
        self.assertEqual((0, b"t0 t99 t100 \n"), (r.returncode, r.stdout))
        self.assertRegex(r.stderr, rb"^stub: begin generate\nstub: end generate .*\n$")  # the stub's own line and nothing else
        r = self.generate("--max-tokens", "3", "-", stdin=b"ab")
        self.assertEqual((0, b"t0 t99 t100 \n"), (r.returncode, r.stdout))
        r = self.generate("--max-tokens", "2", "--", "--ab")
        self.assertEqual((0, b"t0 t47 \n"), (r.returncode, r.stdout))
        self.assertEqual(b"\n", self.generate("--max-tokens", "0", "ab").stdout)
        self.assertEqual(0, self.generate("--max-tokens", "1", "").returncode)  # begins from BOS

    def test_refusals(self):
        for args, stdin, pattern in [(["-"], b"\xff", b"not valid UTF-8"),
                                     (["--max-model-len", "4", "abcdef"], b"", b"too long: the model takes 4")]:
            r = self.generate(*args, stdin=stdin)
            self.assertEqual((1, b""), (r.returncode, r.stdout), r.stderr)
            self.assertRegex(r.stderr, pattern)
        r = run("generate", "--model", "stub:fail_load=1", "x")
        self.assertEqual((1, b"engramd generate: the stub was told not to load.\n"), (r.returncode, r.stderr))

    def test_long_standard_input(self):
        r = self.generate("--max-tokens", "1", "-", stdin=b"a" * 500000)
        self.assertEqual((0, b"t0 \n"), (r.returncode, r.stdout))

    def test_full_output(self):
        with open("/dev/full", "wb") as full:
            r = subprocess.run([harness.exe, "generate", "--model", "stub:", "--max-tokens", "100000", "ab"], stdout=full,
                               stderr=subprocess.PIPE, timeout=20)
        self.assertEqual(1, r.returncode)
        self.assertIn(b"cannot write the answer", r.stderr)


if __name__ == "__main__":
    main()
