#!/usr/bin/env python3
"""Completions through the official OpenAI client against the program and the model that comes with it.
`test_openai.py ENGRAMD`; needs what sdk.py says."""
import asyncio
import time

import sdk
import openai
from harness import Case, Server, main

PARIS = {"model": "engram-pocket", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
LONG = {"model": "engram-pocket", "prompt": [300], "max_tokens": 4000, "extra_body": {"ignore_eos": True}}


class OpenAI(Case):
    @classmethod
    def setUpClass(cls):
        print("openai", openai.__version__)
        cls.server = Server()
        cls.client = sdk.client_of(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0, cls.server.text()

    def test_models(self):
        self.assertEqual(["engram-pocket"], [m.id for m in self.client.models.list()])
        self.assertEqual("engram-pocket", self.client.models.retrieve("engram-pocket").id)

    def test_completion(self):
        c = self.client.completions.create(**PARIS)
        self.assertEqual((" Paris.", "stop", 0), (c.choices[0].text, c.choices[0].finish_reason, c.choices[0].index))
        self.assertEqual("text_completion", c.object)
        self.assertTrue(c.id.startswith("cmpl-"))
        self.assertEqual(c.usage.prompt_tokens + c.usage.completion_tokens, c.usage.total_tokens)
        self.assertTrue(c._request_id)

    def test_several(self):
        c = self.client.completions.create(**{**PARIS, "prompt": [PARIS["prompt"], "The capital of Japan is"], "n": 2})
        self.assertEqual([" Paris.", " Paris.", " Tokyo.", " Tokyo."],
                         [x.text for x in sorted(c.choices, key=lambda x: x.index)])

    def test_stream(self):
        chunks = list(self.client.completions.create(**PARIS, stream=True))
        self.assertEqual(" Paris.", "".join(c.choices[0].text for c in chunks))
        self.assertGreaterEqual(len(chunks), 3)
        self.assertEqual({chunks[0].id}, {c.id for c in chunks})
        self.assertEqual("stop", chunks[-1].choices[0].finish_reason)
        self.assertTrue(all(c.usage is None for c in chunks))

    def test_stream_usage(self):
        chunks = list(self.client.completions.create(**PARIS, stream=True, stream_options={"include_usage": True}))
        self.assertEqual([], chunks[-1].choices)
        self.assertEqual(6, chunks[-1].usage.prompt_tokens)
        self.assertGreaterEqual(chunks[-1].usage.completion_tokens, 3)

    def test_logprobs(self):
        c = self.client.completions.create(**{**PARIS, "logprobs": 2, "echo": True, "max_tokens": 1})
        lp = c.choices[0].logprobs
        self.assertEqual({7}, {len(lp.tokens), len(lp.token_logprobs), len(lp.top_logprobs), len(lp.text_offset)})
        self.assertIsNone(lp.token_logprobs[0])
        self.assertTrue(c.choices[0].text.startswith(PARIS["prompt"]))

    def test_extensions(self):
        c = self.client.completions.create(**PARIS, extra_body={"return_token_ids": True, "top_k": 1})
        self.assertEqual([4805, 263, 16], c.choices[0].token_ids[:3])

    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.completions.create(**{**PARIS, "model": "gpt-nope"})
        self.assertEqual(("model_not_found", "model"), (e.exception.code, e.exception.param))
        self.assertTrue(e.exception.request_id)

    def test_bad_requests(self):
        for field, value in [("temperature", 9), ("max_tokens", -1), ("n", 0), ("best_of", 21), ("stop", [""]),
                             ("logprobs", 50), ("prompt", [])]:
            with self.assertRaises(openai.BadRequestError) as e:
                self.client.completions.create(**{**PARIS, field: value})
            self.assertEqual((field, "invalid_request_error"), (e.exception.param.split("[")[0], e.exception.type))
            self.assertIn(field, e.exception.message)

    def test_context_length(self):
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.completions.create(**{**PARIS, "prompt": "word " * 5000})
        self.assertEqual("context_length_exceeded", e.exception.code)

    def test_leaving_a_stream(self):
        stream = self.client.completions.create(**LONG, stream=True, extra_headers={"X-Request-Id": "sdk-leaves"})
        for _ in range(3):
            next(iter(stream))
        stream.close()
        _, m = self.server.wait_line(r"\[sdk-leaves\] .*completion_tokens=(\d+) end=client_left", 10)
        self.assertLess(int(m.group(1)), 3000)

    def test_client_timeout_cancels(self):
        with self.assertRaises(openai.APITimeoutError):
            self.client.completions.create(**LONG, timeout=0.15, extra_headers={"X-Request-Id": "sdk-timeout"})
        self.server.wait_line(r"\[sdk-timeout\] POST \S+ 499 .*end=client_left", 10)

    def test_async(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=str(self.client.base_url), api_key="unused", max_retries=0) as client:
                async def one(name):
                    text = ""
                    async for chunk in await client.completions.create(
                            **{**PARIS, "prompt": "The capital of %s is" % name}, stream=True):
                        text += chunk.choices[0].text
                    return text
                return await asyncio.gather(*[one(n) for n in ["France", "Japan", "France", "Japan"] * 4])
        self.assertEqual([" Paris.", " Tokyo."] * 8, asyncio.run(ask()))


class Retries(Case):
    def test_loading_and_draining_are_told_as_such(self):
        """503 with Retry-After is what the client retries by itself."""
        with Server("--served-model-name", "m") as s:
            client = sdk.client_of(s)
            stream = client.completions.create(**{**LONG, "model": "m"}, stream=True)
            next(iter(stream))
            s.proc.terminate()
            s.wait_line("draining")
            with self.assertRaises(openai.InternalServerError) as e:
                client.completions.create(model="m", prompt="x")
            self.assertEqual((503, "draining"), (e.exception.status_code, e.exception.code))
            self.assertIn("retry-after", e.exception.response.headers)
            stream.close()
            client.close()
            start = time.monotonic()
            self.assertEqual(0, s.wait(20))
            self.assertLess(time.monotonic() - start, 10)


if __name__ == "__main__":
    main()
