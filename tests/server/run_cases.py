#!/usr/bin/env python3
"""Runs http/cases.jsonl of the golden data against a server: requests with the answer that the contract asks for.

    run_cases.py ENGRAMD [--needs main,core] [--only NAME] [SERVER OPTIONS]

The README beside the cases says what each field means.
"""
import argparse
import json
import os
import re
import sys
import time
import urllib.parse

import harness

FIXTURES = os.environ.get("ENGRAMD_FIXTURES") or os.environ.get("ENGRAMD_GOLDEN_DEFAULT") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "golden")


class Wrong(Exception):
    pass


# --- the request --------------------------------------------------------------------------------------------------

def set_path(body, path, value):
    at = body
    parts = path.split(".")
    for part, after in zip(parts, parts[1:]):
        fresh = [] if after.isdigit() else {}
        if isinstance(at, list):
            while len(at) <= int(part):
                at.append(fresh)
            at = at[int(part)]
        else:
            at = at.setdefault(part, fresh)
    if isinstance(at, list):
        while len(at) <= int(parts[-1]):
            at.append(None)
        at[int(parts[-1])] = value
    else:
        at[parts[-1]] = value


def nested_text(body, field, depth):
    """A list nested deeper than Python's writer goes."""
    mark = "@@nest@@"
    body = dict(body)
    body[field] = mark
    return json.dumps(body).replace('"%s"' % mark, "[" * depth + "]" * depth)


def make_body(case):
    """Bytes of the body, and the object where there is one."""
    if "generate" in case:
        g, body = case["generate"], json.loads(json.dumps(case.get("body") or {}))
        if g["kind"] == "nest":
            return nested_text(body, g.get("field", "prompt"), g["depth"]).encode(), None
        if g["kind"] == "ids":
            body["prompt"] = [300 + i % 1000 for i in range(g["count"])]
        elif g["kind"] == "repeat":
            set_path(body, g["field"], g["char"] * g["count"])
        else:
            raise Wrong("unknown kind %r" % g["kind"])
        return json.dumps(body).encode(), body
    if "body" in case:
        return json.dumps(case["body"], ensure_ascii=False).encode(), case["body"]
    if "raw" in case:
        return case["raw"].encode(), None
    if "raw_hex" in case:
        return bytes.fromhex(case["raw_hex"]), None
    return (b"" if case["method"] == "POST" else None), None


def send(port, case, body):
    given = {k.lower(): v for k, v in case.get("headers", {}).items()}
    headers = {"Connection": "close"}
    chunked = (given.get("transfer-encoding") or "").lower() == "chunked"
    if chunked:
        headers["Content-Length"] = None
    if body is None or (body == b"" and "content-type" not in given and case["method"] != "POST"):
        headers["Content-Type"] = None
    headers.update(case.get("headers", {}))
    conn = harness.Conn(port, case.get("timeout", 10))
    with conn:
        conn.send_request(case["method"], case["path"], None if chunked or "expect" in given else body,
                          {**({"Content-Length": str(len(body))} if "expect" in given and body is not None else {}),
                           **headers})
        if "expect" in given:
            wait_interim(conn)
        if chunked:
            send_chunks(conn, body or b"")
        elif "expect" in given and body:
            try_send(conn, body)
        return conn.read_answer(head=case["method"] == "HEAD")


def try_send(conn, data):
    try:
        conn.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def wait_interim(conn):
    """Until the interim answer, or two seconds."""
    whole = conn.sock.gettimeout()
    conn.sock.settimeout(2)
    try:
        while b"\r\n" not in conn.buf:
            conn._more()
    except TimeoutError:
        pass
    conn.sock.settimeout(whole)


def send_chunks(conn, body):
    for i in range(0, len(body), 7):
        piece = body[i:i + 7]
        try_send(conn, b"%x\r\n%s\r\n" % (len(piece), piece))
    try_send(conn, b"0\r\n\r\n")


# --- streams ------------------------------------------------------------------------------------------------------

def parse_stream(text):
    """Events of a stream, in the one form that is allowed."""
    if "\r" in text:
        raise Wrong("a stream has CR in its line endings")
    if not text.endswith("\n\n"):
        raise Wrong("a stream does not end with an empty line")
    events = []
    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        if len(lines) != 1 or not lines[0].startswith("data: "):
            raise Wrong("an event is not one data line: %r" % block)
        data = lines[0][6:]
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def add_delta(message, delta):
    for key, value in delta.items():
        if key == "tool_calls":
            for call in value:
                calls = message.setdefault("tool_calls", [])
                while len(calls) <= call["index"]:
                    calls.append({"function": {"name": "", "arguments": ""}})
                mine = calls[call["index"]]
                for k, v in call.items():
                    if k == "function":
                        for f, piece in v.items():
                            mine["function"][f] = mine["function"].get(f, "") + piece
                    else:
                        mine[k] = v
        elif isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        elif value is not None or key not in message:
            message[key] = value


def add_logprobs(mine, more):
    for key, value in more.items():
        if isinstance(value, list):
            mine[key] = (mine.get(key) or []) + value


def fold_choice(choices, piece):
    mine = choices.setdefault(piece["index"], {"index": piece["index"], "finish_reason": None, "logprobs": None})
    if "text" in piece:
        mine["text"] = mine.get("text", "") + piece["text"]
    if "delta" in piece:
        add_delta(mine.setdefault("message", {}), piece["delta"])
    if piece.get("logprobs"):
        mine["logprobs"] = mine["logprobs"] or {}
        add_logprobs(mine["logprobs"], piece["logprobs"])
    for key, value in piece.items():
        if key not in ("text", "delta", "logprobs", "index"):
            if isinstance(value, list):
                mine[key] = (mine.get(key) or []) + value
            elif value is not None:
                mine[key] = value


def fold(events):
    """The answer that the events add up to."""
    whole, choices = {}, {}
    for event in events:
        if event == "[DONE]":
            continue
        for key, value in event.items():
            if key == "choices":
                for piece in value:
                    fold_choice(choices, piece)
            elif key == "object":
                whole[key] = value.replace(".chunk", "")
            elif value is not None or key not in whole:
                whole[key] = value
    whole["choices"] = [choices[i] for i in sorted(choices)]
    return whole


def sse_format(events, check, run):
    objects = [e for e in events if e != "[DONE]"]
    if len({e.get("id") for e in objects}) != 1 or not objects[0].get("id"):
        raise Wrong("the events have not one id")
    for e in objects:
        if e.get("object") != check["object"]:
            raise Wrong("object is %r" % e.get("object"))
    if check["object"].startswith("chat") and len({e.get("created") for e in objects}) != 1:
        raise Wrong("created changes")


def sse_done(events, check, run):
    if events.count("[DONE]") != 1 or events[-1] != "[DONE]":
        raise Wrong("[DONE] is not once and last")


def pieces_by_choice(events):
    by = {}
    for e in events:
        if e != "[DONE]":
            for piece in e.get("choices", []):
                by.setdefault(piece["index"], []).append(piece)
    return by


def sse_finish_once(events, check, run):
    by = pieces_by_choice(events)
    if not by:
        raise Wrong("no choices in the stream")
    for index, pieces in by.items():
        reasons = [p.get("finish_reason") for p in pieces]
        if reasons[-1] is None or any(r is not None for r in reasons[:-1]):
            raise Wrong("choice %d has finish reasons %r" % (index, reasons))


def sse_choices(events, check, run):
    if set(pieces_by_choice(events)) != set(range(check["count"])):
        raise Wrong("choices are %r" % sorted(pieces_by_choice(events)))


def sse_no_usage(events, check, run):
    for e in events:
        if e != "[DONE]" and (e.get("usage") is not None or e.get("choices") == []):
            raise Wrong("usage without being asked: %r" % e)


def sse_usage_last(events, check, run):
    last = events[-2] if len(events) > 1 else {}
    if not isinstance(last, dict) or last.get("choices") != [] or not isinstance(last.get("usage"), dict):
        raise Wrong("the event before [DONE] is %r" % last)
    for e in events[:-2]:
        if "usage" not in e or e["usage"] is not None:
            raise Wrong("usage is not null in %r" % e)


def sse_usage_each(events, check, run):
    for e in events:
        if e != "[DONE]" and e.get("choices") and not isinstance(e.get("usage"), dict):
            raise Wrong("no usage in %r" % e)


def sse_roles(events, check, run):
    for index, pieces in pieces_by_choice(events).items():
        first = pieces[0]["delta"]
        if first.get("role") != "assistant" or first.get("content"):
            raise Wrong("choice %d begins with %r" % (index, first))
        for p in pieces:
            if p.get("finish_reason") is not None and any(v for v in p["delta"].values()):
                raise Wrong("the last delta of choice %d is %r" % (index, p["delta"]))


def comparable(choice):
    m = choice.get("message", {})
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in m.get("tool_calls") or []]
    return (choice.get("text"), m.get("content") or "", m.get("reasoning_content") or "", calls,
            choice.get("finish_reason"))


def sse_concat(events, check, run):
    body = {k: v for k, v in run.body.items() if k not in ("stream", "stream_options")}
    a = send(run.port, run.case, json.dumps(body, ensure_ascii=False).encode())
    if a.status != 200:
        raise Wrong("without stream the answer is %r" % a)
    whole = sorted(a.json()["choices"], key=lambda c: c["index"])
    mine = fold(events)["choices"]
    if [comparable(c) for c in whole] != [comparable(c) for c in mine]:
        raise Wrong("streamed %r, whole %r" % (mine, whole))


SSE = {"format": sse_format, "ends_with_done": sse_done, "finish_once": sse_finish_once, "choices": sse_choices,
       "no_usage": sse_no_usage, "usage_last": sse_usage_last, "usage_each": sse_usage_each, "roles": sse_roles,
       "concat_equals_nonstream": sse_concat}


# --- conditions ---------------------------------------------------------------------------------------------------

ABSENT = object()


def look_up(root, path):
    at, parent = root, None
    for part in path.split("."):
        if isinstance(at, list):
            if not part.isdigit():
                return ABSENT
            if parent == "choices":  # told apart by index, whatever their order
                at = next((c for c in at if c.get("index") == int(part)), ABSENT)
            else:
                at = at[int(part)] if int(part) < len(at) else ABSENT
        elif isinstance(at, dict):
            at = at.get(part, ABSENT)
        else:
            return ABSENT
        if at is ABSENT:
            return ABSENT
        parent = part
    return at


def is_number(v):
    return isinstance(v, (int, float)) and not isinstance(v, bool)


TYPES = {"string": lambda v: isinstance(v, str), "number": is_number, "boolean": lambda v: isinstance(v, bool),
         "null": lambda v: v is None, "array": lambda v: isinstance(v, list), "object": lambda v: isinstance(v, dict)}


def same(a, b):
    """JSON equality: true is not 1."""
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def holds_json(v, want):
    try:
        return same(json.loads(v), want)
    except (TypeError, ValueError):
        return False


def listed(w):
    return w if isinstance(w, list) else [w]


CONDITIONS = {
    "equals": same,
    "one_of": lambda v, w: any(same(v, x) for x in w),
    "type": lambda v, w: any(TYPES[t](v) for t in w.split("|")),
    "length": lambda v, w: hasattr(v, "__len__") and len(v) == w,
    "min_length": lambda v, w: hasattr(v, "__len__") and len(v) >= w,
    "max_length": lambda v, w: hasattr(v, "__len__") and len(v) <= w,
    "min": lambda v, w: is_number(v) and v >= w,
    "max": lambda v, w: is_number(v) and v <= w,
    "starts": lambda v, w: isinstance(v, str) and v.startswith(tuple(listed(w))),
    "contains": lambda v, w: isinstance(v, str) and w in v,
    "excludes": lambda v, w: isinstance(v, str) and not any(x in v for x in listed(w)),
    "matches": lambda v, w: isinstance(v, str) and re.search(w, v) is not None,
    "json": holds_json,
}


def check_conditions(value, check, what):
    for name, want in check.items():
        if name in ("path", "header"):
            continue
        if name == "absent":
            ok = value is ABSENT
        elif name == "differs":
            ok = value is ABSENT or not same(value, want)
        elif name in CONDITIONS:
            ok = value is not ABSENT and CONDITIONS[name](value, want)
        else:
            raise Wrong("unknown condition %r" % name)
        if not ok:
            raise Wrong("%s: %s %r does not hold for %r" % (what, name, want,
                                                            "(absent)" if value is ABSENT else value))


def check_error(answer, want):
    if not answer.headers.get("content-type", "").startswith("application/json"):
        raise Wrong("the error is not JSON: %r" % answer)
    error = answer.json().get("error")
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        raise Wrong("error is %r" % error)
    for key in "message", "type":
        if not error[key] or not isinstance(error[key], str):
            raise Wrong("error.%s is %r" % (key, error[key]))
    for key in "param", "code":
        if error[key] is not None and not isinstance(error[key], str):
            raise Wrong("error.%s is %r" % (key, error[key]))
    for key, value in want.items():
        got = error[key]
        if key == "param" and isinstance(value, str):
            ok = got is not None and re.match(re.escape(value) + r"($|[\[.])", got)
        else:
            ok = got in value if isinstance(value, list) else got == value
        if not ok:
            raise Wrong("error.%s is %r, not %r" % (key, got, value))


# --- one case -----------------------------------------------------------------------------------------------------

class Run:
    def __init__(self, port, case):
        self.port, self.case = port, case
        self.bytes, self.body = make_body(case)

    def answer(self):
        try:
            return send(self.port, self.case, self.bytes)
        except (harness.Closed, ConnectionError):
            return None

    def check(self):
        case, a = self.case, self.answer()
        status = a.status if a else 0
        if status not in listed(case["status"]):
            raise Wrong("status %d, not %r: %r" % (status, case["status"], a))
        if not a:
            return
        if "error" in case and status >= 400 and case["method"] != "HEAD":
            check_error(a, case["error"])
        only_errors = all(s >= 400 or s == 0 for s in listed(case["status"]))
        events = None
        text = a.body.decode("utf-8")
        if a.headers.get("content-type", "").startswith("text/event-stream"):
            events = parse_stream(text)
        for check in case.get("checks", []):
            if "header" in check:
                check_conditions(a.headers.get(check["header"].lower(), ABSENT), check, check["header"])
            elif status < 400 or only_errors:
                self.check_body(a, text, events, check)

    def check_body(self, a, text, events, check):
        if "sse" in check:
            if events is None:
                raise Wrong("the answer is no stream: %r" % a)
            SSE[check["sse"]](events, check, self)
        elif "body_contains" in check:
            if check["body_contains"] not in text:
                raise Wrong("the body does not contain %r: %r" % (check["body_contains"], text[:500]))
        elif "path" in check:
            root = fold(events) if events is not None else json.loads(text)
            check_conditions(look_up(root, check["path"]), check, check["path"])
        else:
            raise Wrong("unknown check %r" % check)


def substitute(value, model, port, in_path=False):
    if isinstance(value, str):
        name = urllib.parse.quote(model, safe="") if in_path else model
        return value.replace("$MODEL", name).replace("$PORT", str(port))
    if isinstance(value, list):
        return [substitute(v, model, port) for v in value]
    if isinstance(value, dict):
        return {k: substitute(v, model, port, k == "path" and "method" in value) for k, v in value.items()}
    return value


def load_cases(needs, only):
    with open(os.path.join(FIXTURES, "http", "cases.jsonl"), encoding="utf-8") as f:
        cases = [json.loads(line) for line in f if line.strip()]
    return [c for c in cases if c["needs"] in needs and (not only or c["name"] in only)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("exe")
    p.add_argument("--needs", default="main")
    p.add_argument("--only", action="append")
    args, more = p.parse_known_args()
    harness.exe = args.exe
    print("seed 0 (nothing here is drawn)")
    cases = load_cases(args.needs.split(","), args.only)
    failed = 0
    with harness.Server(*more) as server:
        model = server.request("GET", "/v1/models").json()["data"][0]["id"]
        for case in cases:
            start = time.monotonic()
            try:
                Run(server.port, substitute(case, model, server.port)).check()
            except (Wrong, ValueError, KeyError, AssertionError, TimeoutError, UnicodeDecodeError) as e:
                failed += 1
                print("FAIL %s: %s: %s" % (case["name"], type(e).__name__, str(e)[:1500]))
            if time.monotonic() - start > 5:
                print("slow %s: %.1f s" % (case["name"], time.monotonic() - start))
            if server.proc.poll() is not None:
                print("the server died in %s:\n%s" % (case["name"], server.text()[-3000:]))
                return 1
        rc = server.stop()
        if rc != 0:
            print("the server ended with %d:\n%s" % (rc, server.text()[-3000:]))
            failed += 1
    print("%d cases, %d failed" % (len(cases), failed))
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
