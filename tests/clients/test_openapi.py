#!/usr/bin/env python3
"""docs/openapi.yaml against the program: it names the same routes and fields with the same ranges, and schemathesis finds
no answer that it does not describe: no other status, no other field, no other header, nothing accepted that it forbids,
no server error. `test_openapi.py ENGRAMD API_DOC`.

Needs the package `schemathesis`; ENGRAMD_CLIENT_PYTHON names an interpreter that has it. Exit code 77 (skipped) without one."""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

try:
    import schemathesis
    import yaml
except ImportError:
    other = os.environ.get("ENGRAMD_CLIENT_PYTHON")
    if not other or os.environ.get("ENGRAMD_CLIENT_TRIED"):
        print("the package schemathesis is not installed; ENGRAMD_CLIENT_PYTHON may name a Python that has it")
        sys.exit(77)
    os.environ["ENGRAMD_CLIENT_TRIED"] = "1"
    os.execv(other, [other, *sys.argv])

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "server"))
from harness import Case, Server, main  # noqa: E402

DOCUMENT = os.path.join(HERE, "..", "..", "docs", "openapi.yaml")
BODIES = {"/v1/completions": ["CompletionRequest"], "/v1/chat/completions": ["ChatRequest"],
          "/tokenize": ["TokenizeText"], "/detokenize": ["DetokenizeRequest"]}
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "negative_data_rejection", "unsupported_method", "stream_conformance"]
SEED = 1
MAX_EXAMPLES = 20  # of the fuzzing phase for each route; what a schema's own edges give comes on top


class Document(Case):
    tool = None  # prints the program's tables

    @staticmethod
    def read():
        with open(DOCUMENT, encoding="utf-8") as f:
            return yaml.safe_load(f)

    @classmethod
    def setUpClass(cls):
        cls.document = cls.read()
        cls.schemas = cls.document["components"]["schemas"]
        cls.tables = json.loads(subprocess.run([cls.tool], capture_output=True, check=True, timeout=30).stdout)

    def resolve(self, schema):
        while "$ref" in schema:
            schema = self.schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def test_routes(self):
        documented = {(path.split("{")[0], method.upper()) for path, ops in self.document["paths"].items() for method in ops}
        served = {(r["path"], r["allow"].split(",")[0]) for r in self.tables["routes"]}
        self.assertEqual(served, documented)
        for r in self.tables["routes"]:
            self.assertIn(r["allow"], ("GET, HEAD, OPTIONS", "POST, OPTIONS"))  # as the text at the top says

    def test_fields(self):
        for path, rules in self.tables["bodies"].items():
            for name in BODIES[path]:
                properties = self.schemas[name]["properties"]
                self.assertEqual({r["name"] for r in rules}, set(properties), path)
                for rule in rules:
                    with self.subTest(path=path, field=rule["name"]):
                        self.check_rule(rule, self.resolve(properties[rule["name"]]))

    def test_a_tokenized_chat_has_the_fields_of_a_chat(self):
        self.assertEqual(set(self.schemas["ChatRequest"]["properties"]), set(self.schemas["TokenizeChat"]["properties"]))

    def check_rule(self, rule, schema):
        if rule["use"] == "bool":
            self.assertEqual(["boolean", "null"], schema["type"])
        elif rule["use"] in ("int", "real"):
            self.assertEqual(["integer" if rule["use"] == "int" else "number", "null"], schema["type"])
            self.assertEqual((rule["min"], rule["max"]), (schema["minimum"], schema["maximum"]))
        elif rule["use"] == "unsupported" and rule["neutral"] in ([], {}):
            self.assertEqual(0, schema["maxItems" if rule["neutral"] == [] else "maxProperties"])
        elif rule["use"] == "unsupported" and rule["neutral"] is None:
            self.assertEqual("null", schema["type"])
        elif rule["use"] == "unsupported":
            self.assertEqual([rule["neutral"], None], schema["enum"])
        else:
            self.assertNotIn("Not supported", schema.get("description", ""))

    def test_every_schema_is_used(self):
        with open(DOCUMENT, encoding="utf-8") as f:
            text = f.read()
        for kind in "schemas", "responses", "headers":
            for name in self.document["components"][kind]:
                if name not in ("CompletionChunk", "ChatCompletionChunk"):  # of events, which 3.1 cannot describe
                    self.assertIn("#/components/%s/%s'" % (kind, name), text)

    def test_objects_of_answers_are_closed(self):
        """Else a field that is not described could not be found."""
        def walk(schema, path, seen):
            if "$ref" in schema:
                name = schema["$ref"].rsplit("/", 1)[1]
                if name in seen:
                    return
                seen.add(name)
                schema = self.resolve(schema)
            if schema.get("type") == "object":
                self.assertIn("additionalProperties", schema, path)
            for name, inner in schema.get("properties", {}).items():
                walk(inner, path + "." + name, seen)
            for inner in [schema["items"]] if "items" in schema else schema.get("oneOf", []):
                walk(inner, path + "[]", seen)
        for path, ops in self.document["paths"].items():
            for op in ops.values():
                for status, response in op["responses"].items():
                    if "$ref" in response:
                        response = self.document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
                    for media in response.get("content", {}).values():
                        walk(media["schema"], "%s %s" % (path, status), set())
        for name in "CompletionChunk", "ChatCompletionChunk":
            walk({"$ref": "#/components/schemas/" + name}, name, set())


class Generated(Case):
    def test_answers_are_what_the_document_says(self):
        print("schemathesis", schemathesis.__version__, "seed", SEED)
        with tempfile.TemporaryDirectory(prefix="engramd-openapi-") as folder, Server() as server:
            with open(os.path.join(folder, "schemathesis.toml"), "w", encoding="utf-8") as f:
                f.write("max-stream-events = 1000000\n")
            env = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": HERE, "ENGRAMD_OPENAPI": DOCUMENT}
            run = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "--config-file", f.name, "run", DOCUMENT,
                 "--url", "http://127.0.0.1:%d" % server.port, "--seed", str(SEED), "--max-examples", str(MAX_EXAMPLES),
                 "--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--no-color", "--warnings", "off",
                 "--continue-on-failure", "--request-timeout", "60"],
                env=env, cwd=folder, capture_output=True, text=True, timeout=500)
            print(run.stdout[-8000:], run.stderr[-2000:])
            self.assertEqual(0, run.returncode)
            n_operations = sum(len(ops) for ops in Document.read()["paths"].values())
            self.assertIn("Tested: %d\n" % n_operations, run.stdout)
            self.assertEqual(0, server.stop(), server.text()[-3000:])
        statuses = collections.Counter(re.findall(r"\] (POST \S+ \d+) ", server.text()))
        print("\n".join("%s: %d" % s for s in sorted(statuses.items())))
        for path in BODIES:  # an answer that was never given proves nothing
            self.assertGreater(statuses["POST %s 200" % path], 5)
            self.assertGreater(statuses["POST %s 400" % path], 20)


if __name__ == "__main__":
    Document.tool = sys.argv.pop(2)
    main()
