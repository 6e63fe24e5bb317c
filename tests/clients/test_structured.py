#!/usr/bin/env python3
"""Bound answers through the official OpenAI client: pydantic models, tool calls streamed, an agent loop; then random
schemas and regular expressions at temperature 1.5 against a random model, judged by jsonschema and re.

    test_structured.py ENGRAMD MAKE_MODEL

ENGRAMD_STRUCTURED_FULL=1 makes it 300 schemas and 300 expressions with 20 samples each. Needs what sdk.py says."""
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import tempfile
from typing import List, Literal, Optional

import sdk
import jsonschema
import pydantic
import openai
from harness import Case, Server, main
from test_grammar import Maker, MIN_ENDED, make_regex, matches

FULL = bool(os.environ.get("ENGRAMD_STRUCTURED_FULL"))
N_SOURCES, N_SAMPLES = (300, 20) if FULL else (24, 4)
MAX_TOKENS = 512
MODEL = "engram-pocket"
make_model = None


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    count: int = pydantic.Field(ge=1, le=9)
    unit: Literal["kg", "m", "größe"]


class Order(pydantic.BaseModel):
    customer: str = pydantic.Field(max_length=20)
    items: List[Item] = pydantic.Field(max_length=3)
    note: Optional[str] = pydantic.Field(max_length=10)


def function(name, parameters, **more):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters, **more}}


def object_of(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


CITY = object_of(city={"type": "string", "enum": ["Oslo", "Lima"]})
SUM = object_of(a={"type": "integer", "minimum": 0, "maximum": 99}, b={"type": "integer", "minimum": 0, "maximum": 99})
FORECAST = object_of(city={"type": "string"}, days={"type": "integer", "minimum": 1, "maximum": 7},
                     unit={"type": "string", "enum": ["c", "f"]}, code={"type": "string", "pattern": "^[A-Z]{3}$"},
                     mark={"const": "</\uff5cDSML\uff5c parameter>"},
                     note={"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]})
TOOLS = [function("forecast", FORECAST), function("anything", {}), function("nothing", {"type": "object", "properties": {}})]
SCHEMAS = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}
HELLO = [{"role": "user", "content": "Hello!"}]


class Bound(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.client = sdk.client_of(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0, cls.server.text()

    def create(self, **fields):
        return self.client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 300, **fields})

    def test_pydantic(self):
        for seed in range(4):
            c = self.client.chat.completions.parse(model=MODEL, messages=HELLO, max_tokens=200, temperature=1.5, seed=seed,
                                                   n=2, response_format=Order)
            for choice in c.choices:
                self.assertIsInstance(choice.message.parsed, Order)
                self.assertEqual("stop", choice.finish_reason)

    def test_pydantic_with_reasoning_and_a_tight_budget(self):
        for budget in range(60, 100, 13):
            c = self.client.chat.completions.parse(model=MODEL, messages=HELLO, max_tokens=budget, temperature=1.5,
                                                   seed=budget, response_format=Order,
                                                   extra_body={"thinking": {"type": "enabled"}})
            self.assertIsInstance(c.choices[0].message.parsed, Order)
            self.assertTrue(c.choices[0].message.reasoning_content)
            self.assertLessEqual(c.usage.completion_tokens, budget)

    def test_pydantic_streamed(self):
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=200, seed=3,
                                                 response_format=Order) as stream:
            self.assertIsInstance(stream.get_final_completion().choices[0].message.parsed, Order)

    def check_calls(self, message, schemas):
        self.assertTrue(message.tool_calls)
        for call in message.tool_calls:
            jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])

    def test_required_calls(self):
        for seed in range(5):
            c = self.create(tools=TOOLS, tool_choice="required", temperature=1.5, seed=seed, n=2)
            for choice in c.choices:
                self.assertEqual("tool_calls", choice.finish_reason)
                self.check_calls(choice.message, SCHEMAS)

    def test_one_named_call(self):
        named = {"type": "function", "function": {"name": "forecast"}}
        for seed in range(3):
            c = self.create(tools=TOOLS, tool_choice=named, parallel_tool_calls=False, temperature=1.5, seed=seed)
            self.assertEqual(["forecast"], [t.function.name for t in c.choices[0].message.tool_calls])
            self.check_calls(c.choices[0].message, SCHEMAS)

    def test_streamed_calls(self):
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=300, temperature=1.5, seed=9,
                                                 tools=TOOLS, tool_choice="required") as stream:
            names = [e.name for e in stream if e.type == "tool_calls.function.arguments.done"]
            message = stream.get_final_completion().choices[0].message
        self.check_calls(message, SCHEMAS)
        self.assertEqual([t.function.name for t in message.tool_calls], names)

    def test_agent(self):
        """Two local functions, then an answer that is bound, too."""
        functions = {"weather": lambda city: {"Oslo": "snow", "Lima": "fog"}[city], "add": lambda a, b: str(a + b)}
        tools = [function("weather", CITY), function("add", SUM)]
        messages = [{"role": "user", "content": "What is the weather in Oslo, and what is 2 + 3?"}]
        for name in "weather", "add":
            c = self.create(messages=messages, tools=tools, parallel_tool_calls=False,
                            tool_choice={"type": "function", "function": {"name": name}})
            call = c.choices[0].message.tool_calls[0]
            self.assertEqual(name, call.function.name)
            messages.append(c.choices[0].message.model_dump(exclude_none=True))
            messages.append({"role": "tool", "tool_call_id": call.id,
                             "content": functions[name](**json.loads(call.function.arguments))})
        final = self.client.chat.completions.parse(model=MODEL, messages=messages, max_tokens=200, response_format=Order)
        self.assertIsInstance(final.choices[0].message.parsed, Order)

    def token(self, text):
        r = self.server.request("POST", "/tokenize", {"prompt": text, "add_special_tokens": False}).json()
        self.assertEqual(1, r["count"])
        return str(r["tokens"][0])

    def test_strict_tools_are_kept_to_when_called(self):
        """A bias makes the model open a block, sooner or later."""
        strict = [function("weather", CITY, strict=True), function("anything", {})]
        bias = {self.token("<"): 40, self.token("\uff5cDSML\uff5c"): 40}
        calls = 0
        for seed in range(6):
            c = self.create(tools=strict, seed=seed, max_tokens=120, logit_bias=bias)
            for call in c.choices[0].message.tool_calls or []:
                calls += 1
                jsonschema.validate(json.loads(call.function.arguments), CITY if call.function.name == "weather" else {})
        self.assertGreater(calls, 0)

    def test_beside_other_fields(self):
        def text(**more):
            c = self.create(max_tokens=24, seed=1, extra_body={"structured_outputs": {"regex": "[ab]{4,8}!"}, **more})
            return c.choices[0].message.content
        self.assertRegex(text(), r"^[ab]{4,8}!$")
        self.assertRegex(text(ignore_eos=True), r"^[ab]{4,8}!$")
        self.assertRegex(text(min_tokens=20), r"^[ab]{4,8}!$")
        self.assertRegex(text(presence_penalty=2, frequency_penalty=-2, repetition_penalty=1.5), r"^[ab]{4,8}!$")
        self.assertRegex(text(logit_bias={str(i): -100 for i in range(300)}), r"^[ab]{4,8}!$")
        self.assertRegex(text(stop=["!"]), r"^[ab]{4,8}$")

    def test_logprobs_are_those_of_the_raw_logits(self):
        c = self.create(max_tokens=20, logprobs=True, top_logprobs=2, extra_body={"structured_outputs": {"choice": ["zzz"]}})
        self.assertEqual("zzz", c.choices[0].message.content)
        first = c.choices[0].logprobs.content[0]
        self.assertLess(first.logprob, first.top_logprobs[0].logprob)

    def test_refusals(self):
        def refused(param, **fields):
            with self.assertRaises(openai.BadRequestError) as e:
                self.create(**fields)
            self.assertEqual(param, e.exception.body["param"])
            return e.exception.body["message"]
        self.assertIn("pattern", refused("response_format", stream=True, response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "("}}}))
        self.assertIn("max_tokens", refused("structured_outputs", max_tokens=2,
                                            extra_body={"structured_outputs": {"regex": "[0-9]{100}"}}))
        self.assertIn("exactly one", refused("structured_outputs",
                                             extra_body={"structured_outputs": {"regex": "a", "choice": ["a"]}}))
        self.assertIn("minProperties", refused("tool_choice", tool_choice="required",
                                               tools=[function("f", {"type": "object", "minProperties": 1})]))


class Random(Case):
    """Whatever the model says: its weights are noise."""

    @classmethod
    def setUpClass(cls):
        cls.seed = int(os.environ.get("ENGRAMD_TEST_SEED", "0"), 0) or 1
        print("seed", cls.seed, flush=True)
        cls.dir = tempfile.TemporaryDirectory()
        subprocess.run([make_model, "--preset", "tiny", "--max-len", "1024", cls.dir.name], check=True,
                       stdout=subprocess.DEVNULL)
        cls.server = Server("--served-model-name", MODEL, cls.dir.name)
        cls.client = sdk.client_of(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.stop() == 0, cls.server.text()
        cls.dir.cleanup()

    def answers(self, constraint, seed):
        """None: the grammar passes a limit of the compiler."""
        try:
            return self.client.completions.create(
                model=MODEL, prompt=[5], n=N_SAMPLES, max_tokens=MAX_TOKENS, temperature=1.5, seed=seed,
                extra_body={"structured_outputs": constraint, "return_token_ids": True}).choices
        except openai.BadRequestError as e:
            if "more than" not in e.body["message"]:
                raise
            return None

    def many(self, constraints):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.answers, constraints, range(len(constraints))))

    def test_schemas(self):
        rng = random.Random(self.seed)
        makers = [Maker(rng) for _ in range(N_SOURCES)]
        schemas = [m.make() for m in makers]
        bounded = ended = 0
        for schema, maker, choices in zip(schemas, makers, self.many([{"json": s} for s in schemas])):
            validator = jsonschema.Draft202012Validator(schema)
            for c in choices:
                self.assertEqual("stop", c.finish_reason)
                validator.validate(json.loads(c.text))
                bounded += maker.bounded
                ended += maker.bounded and len(c.token_ids) < MAX_TOKENS
        print("%d schemas, %d texts valid; of %d of bounded length %d ended below %d tokens" %
              (N_SOURCES, N_SOURCES * N_SAMPLES, bounded, ended, MAX_TOKENS))
        self.assertGreaterEqual(ended, MIN_ENDED * bounded)

    def test_regexes(self):
        rng = random.Random(self.seed)
        regexes = [make_regex(rng) for _ in range(N_SOURCES)]
        refused = texts = 0
        for regex, choices in zip(regexes, self.many([{"regex": r} for r in regexes])):
            refused += choices is None
            for c in choices or []:
                texts += 1
                self.assertIsNot(matches(regex, c.text), False, (regex, c.text))
        print("%d regular expressions, %d too large; %d texts match" % (N_SOURCES, refused, texts))
        self.assertLessEqual(refused, N_SOURCES // 20 + 1)


if __name__ == "__main__":
    make_model = sys.argv.pop(2)
    main()
