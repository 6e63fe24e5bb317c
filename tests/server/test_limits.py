#!/usr/bin/env python3
"""Every limit of docs/LIMITS.md: its flag and default exist, its test exists, and those of a body hold exactly."""
import os
import re
import subprocess

import harness
from harness import Case, Server, main

HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(HERE, "..", "..", "docs", "LIMITS.md")


def rows():
    """(flag, default, test file) of each row that has a flag."""
    with open(DOCS) as f:
        return re.findall(r"^\| [^|]+ \| `(--[a-z-]+)` \| (\S+) \| .* \| `(test_\w+\.py)` \|$", f.read(), re.M)


def nested(depth):
    """A body of that depth, the object itself included."""
    return '{"prompt":[300],"max_tokens":1,"metadata":{"a":%s%s}}' % ("[" * (depth - 2), "]" * (depth - 2))


def prompts(n, samples=1):
    return {"prompt": [[300]] * n, "max_tokens": 1, "n": samples}


def with_field(name, value):
    return {"prompt": [300], "max_tokens": 1, name: value}


# flag: (its value, a body at the limit, one beyond, the parameter that the error names)
BODIES = {
    "--max-json-depth": (5, nested(5), nested(6), None),
    "--max-prompts": (3, prompts(3), prompts(4), "prompt"),
    "--max-choices": (6, prompts(3, 2), prompts(2, 4), "n"),
    "--max-n": (5, prompts(1, 5), prompts(1, 6), "n"),
    "--max-stops": (2, with_field("stop", ["x", "y"]), with_field("stop", ["x", "y", "z"]), "stop"),
    "--max-stop-bytes": (4, with_field("stop", "\u00e9\u00e9"), with_field("stop", "\u00e9\u00e9x"), "stop"),
    "--max-logit-bias": (2, with_field("logit_bias", {"5": 1, "6": 1}), with_field("logit_bias", {"5": 1, "6": 1, "7": 1}),
                         "logit_bias"),
    "--max-logprobs": (3, with_field("logprobs", 3), with_field("logprobs", 4), "logprobs"),
    "--max-cache-salt-bytes": (4, with_field("cache_salt", "\u00e9\u00e9"), with_field("cache_salt", "\u00e9\u00e9x"),
                               "cache_salt"),
    "--max-model-len": (10, {"prompt": [300] * 9, "max_tokens": 1}, {"prompt": [300] * 10, "max_tokens": 1}, "prompt"),
}


class Table(Case):
    def test_flags_and_defaults(self):
        help_text = subprocess.run([harness.exe, "serve", "--help"], capture_output=True, timeout=10).stdout.decode()
        self.assertGreater(len(rows()), 20)
        for flag, default, _ in rows():
            self.assertRegex(help_text, r"(?m)^  %s .*\[%s\]$" % (flag, re.escape(default)), flag)
        limits = set(re.findall(r"^  (--max-[a-z-]+)", help_text, re.M)) - {"--max-num-batched-tokens"}
        self.assertEqual(set(), limits - {flag for flag, _, _ in rows()})

    def test_each_has_its_test(self):
        for flag, _, name in rows():
            with open(os.path.join(HERE, name)) as f:
                self.assertIn('"%s"' % flag, f.read(), name)
            self.assertEqual(name == os.path.basename(__file__), flag in BODIES, flag)


class Bodies(Case):
    def test_each_holds_exactly(self):
        for flag, (value, at_limit, beyond, param) in BODIES.items():
            with self.subTest(flag), Server(flag, str(value), "stub:") as s:
                a = s.complete(at_limit)
                self.assertEqual(200, a.status, a)
                error = self.check_error(s.complete(beyond), 400, param=param)
                self.assertIn(str(value), error["message"])
                streamed = beyond if isinstance(beyond, str) else {**beyond, "stream": True}
                self.check_error(s.complete(streamed), 400)

    def test_context(self):
        with Server("--max-model-len", "10", "stub:") as s:
            error = self.check_error(s.complete({"prompt": [300] * 25}), 400, "prompt", "context_length_exceeded")
            self.assertRegex(error["message"], r"\b25\b")
            self.assertRegex(error["message"], r"\b10\b")

    def test_timeout_of_a_request(self):
        with Server("--request-timeout", "30", "stub:") as s:
            a = s.complete({"prompt": [6000], "timeout": 0.2})
            self.check_error(a, 504, code="timeout")
            s.wait_line(r"stub: end \S+ finish=4")


class Ids(Case):
    def test_request_id(self):
        """Taken when short and safe, else replaced; never where it could forge a line or a header."""
        with Server("--log-format", "json", "stub:") as s:
            for given in "a", "A.b_c:d-9", "x" * 64:
                self.assertEqual(given, s.request("GET", "/health", headers={"X-Request-Id": given}).headers["x-request-id"])
            for given in "", "x" * 65, "x" * 5000, "a b", "a\tb", 'a"b', "a\\b", "a\x1b[31m", "\xe9", "a,b", "<b>":
                a = s.request("GET", "/health", headers={"X-Request-Id": given})
                self.assertRegex(a.headers["x-request-id"], r"^req-[0-9a-f]{16}$", repr(given))
            self.assertEqual(0, s.stop())
            self.assertNotIn("\x1b", s.text())


class Logs(Case):
    SECRET = "swordfish-%d" % os.getpid()

    def test_no_prompt_text_in_any_log(self):
        """At the lowest level, in both forms, with every ending."""
        for form in "text", "json":
            with Server("--log-format", form, "--log-level", "debug", "--request-timeout", "1", "stub:") as s:
                for body in [with_field("user", self.SECRET), {"prompt": self.SECRET, "max_tokens": 2},
                             with_field("stop", self.SECRET), {"prompt": self.SECRET, "nope": self.SECRET},
                             {"prompt": {"a": self.SECRET}}, {"prompt": self.SECRET, "model": self.SECRET},
                             '{"prompt":"%s"' % self.SECRET, {"prompt": self.SECRET, "max_tokens": self.SECRET},
                             {"prompt": [6001], "max_tokens": 9, "metadata": {self.SECRET: self.SECRET}},
                             {"prompt": [6000], "user": self.SECRET}]:
                    for stream in False, True:
                        s.complete(body if isinstance(body, str) else {**body, "stream": stream})
                s.request("POST", "/tokenize", {"prompt": self.SECRET})
                with s.connect() as c:
                    c.send_request("POST", "/v1/completions", {"prompt": [6000], "user": self.SECRET, "stream": True})
                    c.read_head()
                s.wait_line("client_left")
                self.assertEqual(0, s.stop())
                self.assertNotIn(self.SECRET, s.text())


if __name__ == "__main__":
    main()
