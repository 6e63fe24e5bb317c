#!/usr/bin/env python3
"""Constrained decoding judged by others: 300 random JSON Schemas, 20 random walks through each, every text parsed and
validated by jsonschema; 300 random regular expressions likewise by re. The walks are made by grammar-walk, which draws
evenly from the tokens allowed and keeps within 512 tokens.

usage: test_grammar.py GRAMMAR_WALK MODEL_DIR TOKENIZER_DIR   (a small vocabulary and a large one)

Set ENGRAMD_CLIENT_PYTHON to an interpreter that has jsonschema; without it the one that runs this is tried.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys

N_SCHEMAS, N_REGEXES, N_WALKS, MAX_TOKENS = 300, 300, 20, 512
N_LARGE = 60 # of either, once more with the large vocabulary
MAX_REFUSED = 0.05 # of the regular expressions: those that pass a limit of the compiler
MAX_COSTLY = 0.02 # of the texts: those that end early because a mask passed its limit
MAX_SLOW = 0.02 # of the texts: those that re cannot judge in half a second
MIN_ENDED = 0.95 # of the walks through schemas of bounded length: those that end by themselves

try:
    import jsonschema
except ImportError:
    python = os.environ.get("ENGRAMD_CLIENT_PYTHON")
    if python and os.path.realpath(python) != os.path.realpath(sys.executable) and "ENGRAMD_GRAMMAR_AGAIN" not in os.environ:
        os.execve(python, [python] + sys.argv, dict(os.environ, ENGRAMD_GRAMMAR_AGAIN="1"))
    print("jsonschema is not installed")
    sys.exit(77)

WORDS = ["a", "id", "name", "größe", "ключ", "名前", "with space", "quote\"d", "back\\slash", "tab\t", "emoji😀", "", "x/y",
         "~", "$ref", "a b c", "A", "null", "0", "é"]
PATTERNS = ["^[a-z]{2,6}$", "^\\d{3}-\\d{4}$", "^(foo|bar|baz)+$", "^[A-Z][a-z]*( [A-Z][a-z]*){0,2}$", "\\d", "^x",
            "y$", "^[^\"\\\\]{1,5}$", "^\\s?\\S{1,4}$", "^.{1,6}$", "^[\\u00e4-\\u00fc]{2}$", "^(\\w|-)+@\\w+$", "a|b",
            "^\\\\[nt]\"$", "^[\\x00-\\x1f]$", "(ab){2,3}"]
UNBOUNDED_PATTERNS = {"^(foo|bar|baz)+$", "\\d", "^x", "y$", "^(\\w|-)+@\\w+$", "a|b", "(ab){2,3}",
                      "^[A-Z][a-z]*( [A-Z][a-z]*){0,2}$"}
FORMATS = {"date": r"\d{4}-\d\d-\d\d", "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
           "ipv4": r"\d{1,3}(\.\d{1,3}){3}"}


class Maker:
    """A random schema; `bounded` tells whether its longest value is."""

    def __init__(self, rng):
        self.rng = rng
        self.bounded = True
        self.defs = {}

    def make(self):
        rng = self.rng
        if rng.random() < 0.15:
            self.recursive()
        schema = self.value(rng.choice([1, 2, 2, 3]))
        if self.defs:
            schema = dict(schema, **{"$defs": self.defs})
        if rng.random() < 0.3:
            schema.update(title="T", description="d", default=None, examples=[1])
        return schema

    def recursive(self):
        """A definition that refers to itself: a list, a tree or a chain."""
        own = {"$ref": "#/$defs/r"}
        inner = self.scalar()
        self.defs["r"] = self.rng.choice([
            {"type": "object", "properties": {"v": inner, "next": {"anyOf": [own, {"type": "null"}]}},
             "required": ["v", "next"], "additionalProperties": False},
            {"type": "object", "properties": {"v": inner, "kids": {"type": "array", "items": own, "maxItems": 2}},
             "required": ["kids"], "additionalProperties": False},
            {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "array", "items": own}]},
        ])

    def value(self, depth):
        rng = self.rng
        if depth <= 0 or rng.random() < 0.25:
            return self.scalar()
        kind = rng.choice(["object", "object", "object", "array", "array", "union", "ref"])
        if kind == "ref" and self.defs:
            self.bounded = False
            return {"$ref": "#/$defs/r"}
        if kind == "array":
            return self.array(depth)
        if kind == "union":
            return self.union(depth)
        return self.object(depth)

    def scalar(self):
        rng = self.rng
        kind = rng.choice(["string", "string", "integer", "number", "boolean", "null", "enum", "const", "several"])
        if kind == "string":
            return self.string()
        if kind in ("integer", "number"):
            return self.number(kind)
        if kind == "enum":
            return {"enum": rng.sample(WORDS + [1, 2.5, -3e2, True, None, [1, "x"], {"k": []}], rng.randint(1, 6))}
        if kind == "const":
            return {"const": rng.choice(WORDS + [0, [], {}, {"a": [None, "é"]}])}
        if kind == "several":
            return {"type": rng.sample(["string", "null", "boolean", "integer"], 2), "maxLength": 5}
        return {"type": kind}

    def string(self):
        rng = self.rng
        choice = rng.random()
        if choice < 0.3:
            pattern = rng.choice(PATTERNS)
            schema = {"type": "string", "pattern": pattern}
            if pattern in UNBOUNDED_PATTERNS:
                schema["maxLength"] = rng.randint(8, 16)
            return schema
        if choice < 0.4:
            return {"type": "string", "format": rng.choice(list(FORMATS))}
        schema = {"type": "string", "maxLength": rng.randint(0, 12)}
        if rng.random() < 0.4:
            schema["minLength"] = rng.randint(0, schema["maxLength"])
        if rng.random() < 0.04:
            del schema["maxLength"]
            self.bounded = False
        return schema

    def number(self, kind):
        rng = self.rng
        scale = rng.choice([1, 10, 1000, 10**9, 2**63])
        low = rng.randint(-scale, scale)
        high = low + rng.randint(1, scale)
        if kind == "number" and scale < 10**9:
            low = low / rng.choice([1, 4, 10])
            high = max(low, high) + 0.125
        schema = {"type": kind}
        if rng.random() < 0.7:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.7:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = high + 2
        return schema

    def array(self, depth):
        rng = self.rng
        schema = {"type": "array", "items": self.value(depth - 1), "maxItems": rng.randint(0, 3)}
        if rng.random() < 0.4:
            schema["minItems"] = rng.randint(0, schema["maxItems"])
        if rng.random() < 0.3:
            schema["prefixItems"] = [self.value(depth - 2) for _ in range(rng.randint(1, 3))]
            schema["items"] = rng.choice([False, schema["items"]])
            schema.pop("minItems", None)
        if rng.random() < 0.05 and schema["items"]:
            del schema["maxItems"]
            self.bounded = False
        return schema

    def object(self, depth):
        rng = self.rng
        names = rng.sample(WORDS, rng.randint(0, 4))
        schema = {"type": "object", "properties": {n: self.value(depth - 1) for n in names},
                  "additionalProperties": False}
        if rng.random() < 0.7:
            schema["required"] = [n for n in names if rng.random() < 0.6]
        if rng.random() < 0.15:
            schema["additionalProperties"] = self.scalar()
            self.bounded = False
        return schema

    def union(self, depth):
        kinds = self.rng.sample([self.string, lambda: self.number("integer"), lambda: {"type": "null"},
                                 lambda: self.object(depth - 1), lambda: self.array(depth - 1)], 2)
        # of different types, so that oneOf means the same as anyOf
        return {self.rng.choice(["anyOf", "oneOf"]): [k() for k in kinds]}


def make_regex(rng):
    """A regular expression that re and the engine read alike, with something that matches it. Endless repeats are of
    single characters only: re would take for ever over others."""
    single = ["a", "b", "é", "猫", "\\.", "\\\\", "\\n", "\\x41", "\\u00e9", "-", "😀", " ", "\\/", "\\{", "[abc]",
              "[a-f0-9]", "[^a-z]", "[^\\d\\s]", "[\\w.-]", "[é-ü]", "[^\\]]", "[\\u4e00-\\u4e10]", "[-a]", "[a-]",
              "[^\\W]", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "."]
    repeats = ["", "", "", "?", "{2}", "{1,3}", "{0,2}?", "{3,3}"]
    endless = ["*", "+", "{2,}", "*?", "+?"]

    def piece(depth):
        if depth > 0 and rng.random() < 0.3:
            form = rng.choice(["(%s)", "(?:%s)", "(?P<g%d>%%s)" % rng.randint(0, 10**9)])
            return form % alternatives(depth - 1) + rng.choice(repeats)
        if rng.random() < 0.2:
            return rng.choice(["xyz", "foo", "Straße"])
        return rng.choice(single) + rng.choice(repeats + endless)

    def sequence(depth):
        return "".join(piece(depth) for _ in range(rng.randint(1, 4)))

    def alternatives(depth):
        return "|".join(sequence(depth) for _ in range(rng.choice([1, 1, 1, 2, 3])))

    return rng.choice(["%s", "%s", "^(?:%s)$", "(?:%s)$"]) % alternatives(2)


def matches(regex, text):
    """Does re say so? None: it takes too long (re tries one way after the other)."""
    def ring(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        return re.fullmatch(regex, text) is not None
    except TimeoutError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def walks(program, vocabulary, seed, orders):
    """The answers of grammar-walk, one for each order."""
    lines = "".join(json.dumps(dict(o, walks=N_WALKS)) + "\n" for o in orders)
    run = subprocess.run([program, vocabulary, "--seed", str(seed), "--tokens", str(MAX_TOKENS)], input=lines, text=True,
                         capture_output=True, encoding="utf-8")
    answers = [json.loads(line) for line in run.stdout.split("\n") if line]
    if run.returncode or len(answers) != len(orders):
        at = orders[len(answers)]["source"] if len(answers) < len(orders) else "?"
        sys.exit(f"grammar-walk failed: {run.stderr.strip()}\nat {at}")
    return answers


def check_schemas(program, vocabulary, seed, n):
    rng = random.Random(seed)
    makers = [Maker(rng) for _ in range(n)]
    schemas = [m.make() for m in makers]
    answers = walks(program, vocabulary, seed, [{"kind": "schema", "source": json.dumps(s, ensure_ascii=rng.random() < 0.5)}
                                                for s in schemas])
    ended = bounded = texts = 0
    for schema, maker, answer in zip(schemas, makers, answers):
        if "error" in answer:
            sys.exit(f"refused: {answer['error']}\n{json.dumps(schema)}")
        validator = jsonschema.Draft202012Validator(schema)
        for text, forced in zip(answer["texts"], answer["forced"]):
            texts += 1
            bounded += maker.bounded
            ended += maker.bounded and not forced
            try:
                value = json.loads(text)
                text.encode("utf-8")
                validator.validate(value)
            except (ValueError, jsonschema.ValidationError) as e:
                sys.exit(f"not valid: {text}\nfor {json.dumps(schema)}\n{e}")
    print(f"{n} schemas, {texts} texts valid; of {bounded} of bounded length {ended} ended by themselves")
    if ended < MIN_ENDED * bounded:
        sys.exit("too few ended by themselves")


def check_regexes(program, vocabulary, seed, n):
    rng = random.Random(seed)
    regexes = [make_regex(rng) for _ in range(n)]
    answers = walks(program, vocabulary, seed, [{"kind": "regex", "source": r} for r in regexes])
    texts = refused = slow = costly = 0
    for regex, answer in zip(regexes, answers):
        if "error" in answer:
            refused += 1
            if " more than " not in answer["error"] or refused > n * MAX_REFUSED:
                sys.exit(f"refused: {answer['error']}\n{regex}")
            continue
        costly += answer["costly"]
        for text in answer["texts"]:
            texts += 1
            matched = matches(regex, text)
            slow += matched is None
            if matched is False:
                sys.exit(f"no match: {text!r}\nfor {regex!r}")
    print(f"{n} regular expressions, {refused} too large, {texts} texts of which {slow} took re too long, the others match")
    if costly > texts * MAX_COSTLY:
        sys.exit(f"{costly} of {texts} texts met a mask beyond its limit")
    if slow > texts * MAX_SLOW:
        sys.exit("too few could be judged")


def main(argv):
    if len(argv) != 4:
        sys.exit(__doc__)
    seed = int(os.environ.get("ENGRAMD_TEST_SEED", "0"), 0) or 1
    print(f"seed {seed}", flush=True)
    program, small, large = argv[1:]
    check_schemas(program, small, seed, N_SCHEMAS)
    check_schemas(program, large, seed, N_LARGE)
    check_regexes(program, small, seed, N_REGEXES)
    check_regexes(program, large, seed, N_LARGE)


if __name__ == "__main__":
    main(sys.argv)
