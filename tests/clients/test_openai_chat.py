#!/usr/bin/env python3
"""Chats through the official OpenAI client: whole, streamed, helpers, logprobs, tools, reasoning, several answers, leaving.
`test_openai_chat.py ENGRAMD`; needs what sdk.py says."""
import asyncio
import json
import time

import sdk
import openai
import promtext
from harness import Case, Server, main

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
GREEDY = {"model": "engram-pocket", "messages": FRANCE, "max_completion_tokens": 24, "temperature": 0}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time.", "strict": True,
                                          "parameters": {"type": "object", "properties": {"zone": {"type": "string"}},
                                                         "required": ["zone"], "additionalProperties": False}}}


class Chat(Case):
    @classmethod
    def setUpClass(cls):
        print("openai", openai.__version__)
        cls.server = Server("--log-level", "info")
        cls.client = sdk.client_of(cls.server)
        cls.create = cls.client.chat.completions.create

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0, cls.server.text()

    def metric(self, name, **labels):
        page = promtext.parse(self.server.request("GET", "/metrics").body.decode())
        return promtext.value(page, name, **labels)

    def test_whole(self):
        c = self.create(**GREEDY)
        message = c.choices[0].message
        self.assertEqual(("chat.completion", "stop", 0), (c.object, c.choices[0].finish_reason, c.choices[0].index))
        self.assertEqual(("assistant", PARIS, None, None), (message.role, message.content, message.refusal, message.tool_calls))
        self.assertEqual(c.usage.total_tokens, c.usage.prompt_tokens + c.usage.completion_tokens)
        self.assertEqual(0, c.usage.completion_tokens_details.reasoning_tokens)
        self.assertTrue(c.id.startswith("chatcmpl-") and c.system_fingerprint)

    def test_streamed(self):
        chunks = list(self.create(**GREEDY, stream=True))
        self.assertEqual({("chat.completion.chunk", chunks[0].id, chunks[0].created)},
                         {(c.object, c.id, c.created) for c in chunks})
        self.assertEqual("assistant", chunks[0].choices[0].delta.role)
        self.assertEqual(PARIS, "".join(c.choices[0].delta.content or "" for c in chunks))
        self.assertEqual([None] * (len(chunks) - 1) + ["stop"], [c.choices[0].finish_reason for c in chunks])
        self.assertTrue(all(c.usage is None for c in chunks))
        self.assertGreater(len(chunks), 5)

    def test_stream_usage(self):
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = list(self.create(**GREEDY, stream=True, stream_options=options))
        self.assertEqual([], chunks[-1].choices)
        counts = [c.usage.completion_tokens for c in chunks]
        self.assertEqual(sorted(counts), counts)
        self.assertEqual(self.create(**GREEDY).usage.completion_tokens, counts[-1])

    def test_stream_helper(self):
        """The client's own accumulator takes the events."""
        with self.client.chat.completions.stream(**GREEDY) as stream:
            kinds = [event.type for event in stream]
            self.assertEqual(PARIS, stream.get_final_completion().choices[0].message.content)
        self.assertIn("content.delta", kinds)
        self.assertEqual("content.done", kinds[-1])

    def test_raw_response(self):
        raw = self.client.chat.completions.with_raw_response.create(**GREEDY, extra_headers={"X-Request-Id": "raw-1"})
        self.assertEqual(("raw-1", "application/json"), (raw.headers["x-request-id"], raw.headers["content-type"]))
        self.assertEqual(PARIS, raw.parse().choices[0].message.content)

    def test_roles_and_parts(self):
        parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": "of France?"}]
        for system in "system", "developer":
            c = self.create(model="engram-pocket", max_tokens=4, messages=[
                {"role": system, "content": "Be short."}, {"role": "user", "content": parts},
                {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Thanks."}])
            self.assertEqual("assistant", c.choices[0].message.role)

    def test_several_and_stop(self):
        c = self.create(**{**GREEDY, "n": 3, "temperature": 1.3, "seed": 4})
        self.assertEqual([0, 1, 2], [x.index for x in c.choices])
        self.assertEqual(c.choices, self.create(**{**GREEDY, "n": 3, "temperature": 1.3, "seed": 4}).choices)
        for stop in " is", [" of", "Paris"]:
            c = self.create(**GREEDY, stop=stop)
            first = min(PARIS.index(s) for s in ([stop] if isinstance(stop, str) else stop))
            self.assertEqual((PARIS[:first], "stop"), (c.choices[0].message.content, c.choices[0].finish_reason))
        self.assertEqual("length", self.create(**{**GREEDY, "max_completion_tokens": 2}).choices[0].finish_reason)

    def test_logprobs(self):
        whole = self.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0]
        entries = whole.logprobs.content
        self.assertEqual(PARIS.encode(), b"".join(bytes(e.bytes) for e in entries)[:len(PARIS)])
        for e in entries:
            self.assertEqual(3, len(e.top_logprobs))
            self.assertEqual((e.token, e.logprob), (e.top_logprobs[0].token, e.top_logprobs[0].logprob))
        streamed = [e for c in self.create(**GREEDY, logprobs=True, top_logprobs=3, stream=True)
                    for e in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
        self.assertEqual(entries, streamed)

    def test_reasoning(self):
        """A field of ours that the client passes through, whole and streamed."""
        body = {**GREEDY, "max_completion_tokens": 40, "extra_body": {"thinking": {"type": "enabled"}}}
        whole = self.create(**body)
        self.assertTrue(whole.choices[0].message.reasoning_content)
        self.assertGreater(whole.usage.completion_tokens_details.reasoning_tokens, 0)
        pieces = [getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in self.create(**body, stream=True)]
        self.assertEqual(whole.choices[0].message.reasoning_content, "".join(pieces))
        by_effort = self.create(**{**GREEDY, "max_completion_tokens": 40}, reasoning_effort="low")
        self.assertTrue(by_effort.choices[0].message.reasoning_content)
        back = self.create(**{**GREEDY, "messages": [
            *FRANCE, {"role": "assistant", "content": "Paris.", "reasoning_content": "Easy."}, *FRANCE]})
        self.assertEqual("assistant", back.choices[0].message.role)

    def test_tools(self):
        """The model may call or not; whichever it does, the client understands, and takes the whole turn back."""
        plain = self.create(**GREEDY)
        offered = self.create(**GREEDY, tools=[CLOCK], tool_choice="auto", parallel_tool_calls=False)
        self.assertGreater(offered.usage.prompt_tokens, plain.usage.prompt_tokens + 50)
        self.assertIn(offered.choices[0].finish_reason, ("stop", "tool_calls"))
        none = self.create(**GREEDY, tools=[CLOCK], tool_choice="none")
        self.assertEqual(PARIS, none.choices[0].message.content)
        call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}
        turn = [*FRANCE, {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "12:00"}]
        done = self.create(**{**GREEDY, "messages": turn}, tools=[CLOCK])
        self.assertEqual("assistant", done.choices[0].message.role)
        with self.assertRaises(openai.BadRequestError) as e:
            self.create(**{**GREEDY, "messages": turn[:2]}, tools=[CLOCK])
        self.assertEqual("messages", e.exception.param)

    def test_required_call(self):
        """Whole, in pieces, and through the client's accumulator: one call with an id, a name, arguments that fit."""
        body = {**GREEDY, "max_completion_tokens": 200, "tools": [CLOCK], "tool_choice": "required", "parallel_tool_calls": False}
        whole = self.create(**body).choices[0]
        call = whole.message.tool_calls[0]
        self.assertEqual(("tool_calls", None, "function", "now"),
                         (whole.finish_reason, whole.message.content, call.type, call.function.name))
        self.assertEqual(["zone"], list(json.loads(call.function.arguments)))
        pieces = [p for c in self.create(**body, stream=True) for p in c.choices[0].delta.tool_calls or []]
        self.assertEqual(("function", "now", 0), (pieces[0].type, pieces[0].function.name, pieces[0].index))
        self.assertTrue(pieces[0].id.startswith("call_") and all(p.id is None and p.function.name is None for p in pieces[1:]))
        self.assertEqual(call.function.arguments, "".join(p.function.arguments for p in pieces))
        with self.client.chat.completions.stream(**body) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion().choices[0]
        self.assertIn("tool_calls.function.arguments.done", kinds)
        self.assertEqual(call.function.arguments, final.message.tool_calls[0].function.arguments)

    def test_extensions(self):
        c = self.create(**GREEDY, logprobs=True, extra_body={"return_token_ids": True, "return_tokens_as_token_ids": True})
        ids = c.choices[0].token_ids
        self.assertEqual(c.usage.prompt_tokens, len(c.prompt_token_ids))
        self.assertEqual(["token_id:%d" % i for i in ids][:len(c.choices[0].logprobs.content)],
                         [e.token for e in c.choices[0].logprobs.content])

    def test_leaving_gives_the_blocks_back(self):
        body = {**GREEDY, "max_completion_tokens": 3500, "n": 2, "temperature": 1, "extra_body": {"ignore_eos": True}}
        stream = self.create(**body, stream=True, extra_headers={"X-Request-Id": "chat-leaves"})
        for _ in range(6):
            next(stream)
        self.assertGreater(self.metric("engramd_kv_blocks", state="used"), 0)
        stream.close()
        _, m = self.server.wait_line(r"\[chat-leaves\] .*completion_tokens=(\d+) end=client_left", 10)
        self.assertLess(int(m.group(1)), 2 * 3000)
        deadline = time.monotonic() + 5
        while self.metric("engramd_kv_blocks", state="used") and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual((0, 0), (self.metric("engramd_kv_blocks", state="used"), self.metric("vllm:num_requests_running")))

    def test_many_at_once(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=str(self.client.base_url), api_key="unused", max_retries=0) as client:
                async def one():
                    stream = await client.chat.completions.create(**GREEDY, stream=True)
                    return "".join([c.choices[0].delta.content or "" async for c in stream])
                return await asyncio.gather(*[one() for _ in range(24)])
        self.assertEqual([PARIS] * 24, asyncio.run(ask()))


if __name__ == "__main__":
    main()
