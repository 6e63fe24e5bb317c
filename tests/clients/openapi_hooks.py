"""Hooks for schemathesis: requests stay small enough for a quick run, and the events of streams are held against the
document as well. Nothing here makes an invalid request valid or the other way round."""
import json
import os

import jsonschema_rs
import schemathesis
import yaml

with open(os.environ["ENGRAMD_OPENAPI"], encoding="utf-8") as f:
    DOCUMENT = yaml.safe_load(f)
CHUNKS = {"/v1/completions": "CompletionChunk", "/v1/chat/completions": "ChatCompletionChunk"}
MOST = {"max_tokens": 6, "max_completion_tokens": 6, "min_tokens": 6}
MOST_IN_RANGE = {"n": (3, 128), "best_of": (3, 20)}
seen = {"json": 0, "events": 0}


def is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def validator(name):
    schema = {"$ref": "#/components/schemas/" + name, "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(schema)


VALIDATORS = {name: validator(name) for name in [*CHUNKS.values(), "Error"]}


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    for name, most in MOST.items():
        if is_int(body.get(name)) and body[name] > most:
            body[name] = most
    for name, (most, limit) in MOST_IN_RANGE.items():
        if is_int(body.get(name)) and most < body[name] <= limit:
            body[name] = most
    if isinstance(body.get("timeout"), (int, float)) and 0 < body["timeout"] < 60:
        body["timeout"] = 60
    if case.path == "/v1/chat/completions" and body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = 6


def events_of(text):
    assert text.endswith("\n\n"), "a stream ends without an empty line"
    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            assert len(lines) == 1 and lines[0].startswith("data: "), "an event is not one data line: %r" % block
            yield lines[0][6:]


@schemathesis.check
def stream_conformance(context, response, case):
    """Each event of a stream is what the document says, and [DONE] is the last."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    events = list(events_of(response.content.decode("utf-8")))
    assert events and events[-1] == "[DONE]" and events.count("[DONE]") == 1, "[DONE] is not once and last"
    for event in events[:-1]:
        event = json.loads(event)
        name = "Error" if "error" in event else CHUNKS[case.operation.path]
        fault = next(VALIDATORS[name].iter_errors(event), None)
        assert fault is None, "an event is no %s: %s at %s in %r" % (name, fault.message, fault.instance_path, event)
