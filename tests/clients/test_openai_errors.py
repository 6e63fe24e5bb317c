#!/usr/bin/env python3
"""What goes wrong, as the official OpenAI client sees it: its exception classes, retries, time limits, failures amid a
stream. `test_openai_errors.py ENGRAMD STUB`; STUB is the server over an engine that fails as it is told. Needs what sdk.py
says."""
import os
import sys
import tempfile
import threading
import time

import sdk
import harness
import openai
from harness import Case, Server, main

HI = [{"role": "user", "content": "Hi"}]
FAILS, STALLS = 6001, 6000  # first ids of a prompt that the stub knows
stub = None


class Stubbed(Server):
    def __init__(self, script, *args, **options):
        program, harness.exe = harness.exe, stub
        try:
            super().__init__(*args, "--max-model-len", "4096", "stub:" + script, **options)
        finally:
            harness.exe = program


def served(server, request_id):
    """How many answers the server has logged for it."""
    return sum("[%s] POST" % request_id in line for line in server.text().split("\n"))


class Classes(Case):
    """Status codes become the client's classes, with message, param, code and request id."""

    @classmethod
    def setUpClass(cls):
        cls.keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
        cls.keys.write("alice key-of-alice\n")
        cls.keys.flush()
        cls.server = Server("--log-level", "warning", "--api-key-file", cls.keys.name, "--max-body-bytes", "64K")
        cls.client = sdk.client_of(cls.server, api_key="key-of-alice")

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.keys.close()
        assert cls.server.stop() == 0, cls.server.text()

    def raised(self, kind, call, **expected):
        with self.assertRaises(kind) as e:
            call()
        error = e.exception
        self.assertTrue(error.message and error.request_id)
        for name, value in expected.items():
            self.assertEqual(value, getattr(error, name), name)
        return error

    def chat(self, client=None, **fields):
        return (client or self.client).chat.completions.create(**{"model": "engram-pocket", "messages": HI, "max_tokens": 2,
                                                                   **fields})

    def test_400(self):
        for field, value in [("temperature", 2.5), ("top_p", -1), ("n", 129), ("stop", []), ("top_logprobs", 2),
                             ("max_tokens", -1), ("presence_penalty", 3), ("logit_bias", {"x": 1}),
                             ("tools", [{"type": "web"}]), ("tool_choice", "maybe"), ("response_format", {"type": "xml"}),
                             ("reasoning_effort", "little"), ("messages", []), ("audio", {"voice": "a", "format": "wav"}),
                             ("service_tier", 5)]:
            error = self.raised(openai.BadRequestError, lambda: self.chat(**{field: value}), type="invalid_request_error")
            self.assertEqual(field, error.param.split(".")[0].split("[")[0])
            self.assertIn(field, error.message)
        self.raised(openai.BadRequestError, lambda: self.chat(extra_body={"no_such_field": 1}), code="unknown_parameter",
                    param="no_such_field")
        self.raised(openai.BadRequestError, lambda: self.client.completions.create(model="engram-pocket", prompt="a", suffix="b"),
                    code="unsupported_parameter", param="suffix")
        long = [{"role": "user", "content": "word " * 5000}]
        self.raised(openai.BadRequestError, lambda: self.chat(messages=long), code="context_length_exceeded", param="messages")

    def test_401(self):
        with sdk.client_of(self.server, api_key="wrong") as client:
            self.raised(openai.AuthenticationError, lambda: self.chat(client), status_code=401, code="invalid_api_key")
            self.raised(openai.AuthenticationError, client.models.list)

    def test_403(self):
        with sdk.client_of(self.server, api_key="key-of-alice", default_headers={"Host": "evil.example"}) as client:
            self.raised(openai.PermissionDeniedError, lambda: self.chat(client), status_code=403, code="host_not_allowed")

    def test_404(self):
        self.raised(openai.NotFoundError, lambda: self.chat(model="gpt-nope"), code="model_not_found", param="model")
        self.raised(openai.NotFoundError, lambda: self.client.models.retrieve("gpt-nope"), code="model_not_found")
        self.raised(openai.NotFoundError, lambda: self.client.embeddings.create(model="engram-pocket", input="a"), code="not_found")
        self.raised(openai.NotFoundError, lambda: self.client.responses.create(model="engram-pocket", input="a"), code="not_found")

    def test_413(self):
        self.raised(openai.APIStatusError, lambda: self.chat(messages=[{"role": "user", "content": "a" * 70000}]),
                    status_code=413, code="body_too_large")

    def test_504(self):
        """Its own limit, in a whole answer and amid a stream."""
        slow = {"max_tokens": 3000, "extra_body": {"ignore_eos": True, "timeout": 0.05}}
        self.raised(openai.InternalServerError, lambda: self.chat(**slow), status_code=504, code="timeout", param="timeout")
        with self.assertRaises(openai.APIError) as e:
            list(self.chat(**slow, stream=True))
        self.assertEqual(("timeout", "timeout"), (e.exception.code, e.exception.param))
        self.assertIn("its own timeout of 0.05 seconds", e.exception.message)


class Retries(Case):
    def test_loading(self):
        """503 with Retry-After: the client waits and has its answer."""
        with Stubbed("load_ms=1500,step_us=100", wait=False) as server:
            server.wait_port()
            with sdk.client_of(server) as client:
                with self.assertRaises(openai.InternalServerError) as e:
                    client.completions.create(model="stub", prompt=[300], max_tokens=1)
                self.assertEqual((503, "loading", "5"), (e.exception.status_code, e.exception.code,
                                                         e.exception.response.headers["retry-after"]))
            with sdk.client_of(server, max_retries=2) as client:
                start = time.monotonic()
                c = client.completions.create(model=None, prompt=[300], max_tokens=1)
                self.assertEqual("t300 ", c.choices[0].text)
                self.assertGreater(time.monotonic() - start, 4.5)  # it did as it was told

    def test_a_full_queue(self):
        """429 with Retry-After; what is retried later finds room."""
        with Stubbed("step_us=1000", "--max-num-seqs", "1", "--max-queue", "1") as server:
            stalled = {"model": None, "prompt": [STALLS], "max_tokens": 5, "stream": True}
            with sdk.client_of(server) as client:
                first, second = client.completions.create(**stalled), client.completions.create(**stalled)
                with self.assertRaises(openai.RateLimitError) as e:
                    client.completions.create(model=None, prompt=[300], max_tokens=1)
                self.assertEqual((429, "queue_full", "rate_limit_error"),
                                 (e.exception.status_code, e.exception.code, e.exception.type))
                self.assertGreaterEqual(int(e.exception.response.headers["retry-after"]), 1)
                leaves = threading.Timer(0.3, lambda: (first.close(), second.close()))
                leaves.start()
                c = client.with_options(max_retries=3).completions.create(
                    model=None, prompt=[300], max_tokens=1, extra_headers={"X-Request-Id": "tries-again"})
                leaves.join()
                self.assertEqual("t300 ", c.choices[0].text)
            self.assertGreaterEqual(served(server, "tries-again"), 2)

    def test_a_failure_is_not_tried_again(self):
        """500 says that the same request would fail again."""
        with Stubbed("step_us=100") as server, sdk.client_of(server, max_retries=3) as client:
            with self.assertRaises(openai.InternalServerError) as e:
                client.completions.create(model=None, prompt=[FAILS], max_tokens=9, extra_headers={"X-Request-Id": "fails"})
            self.assertEqual((500, "engine_failure"), (e.exception.status_code, e.exception.code))
            server.wait_line(r"\[fails\] POST \S+ 500")
            self.assertEqual(1, served(server, "fails"))

    def test_a_failure_amid_a_stream(self):
        with Stubbed("step_us=100") as server, sdk.client_of(server) as client:
            text = ""
            with self.assertRaises(openai.APIError) as e:
                for chunk in client.completions.create(model=None, prompt=[FAILS], max_tokens=9, stream=True):
                    text += chunk.choices[0].text
            self.assertEqual("t%d " % FAILS * 3, text)
            self.assertEqual(("engine_failure", "the stub failed"), (e.exception.code, e.exception.message))

    def test_a_time_limit_of_the_client(self):
        """It gives up, tries again as often as it may, and each time the server stops working at once."""
        with Stubbed("step_us=1000") as server, sdk.client_of(server, max_retries=1, timeout=0.3) as client:
            with self.assertRaises(openai.APITimeoutError):
                client.completions.create(model=None, prompt=[STALLS], max_tokens=9, extra_headers={"X-Request-Id": "waits"})
            server.wait_line(r"stub: end waits finish=3")
            deadline = time.monotonic() + 5
            while served(server, "waits") < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            self.assertEqual(2, served(server, "waits"))

    def test_nobody_there(self):
        with Stubbed("step_us=1000") as server:
            client = sdk.client_of(server, max_retries=1)
        with client, self.assertRaises(openai.APIConnectionError):
            client.models.list()


if __name__ == "__main__":
    stub = os.path.abspath(sys.argv.pop(2))
    main()
