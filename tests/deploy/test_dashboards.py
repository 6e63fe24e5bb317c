#!/usr/bin/env python3
"""Dashboards and alerts: promtool takes them, and a Prometheus that scrapes a live server finds data for every panel.

    test_dashboards.py ENGRAMD SOURCE"""
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
import harness  # noqa: E402
import promtext  # noqa: E402

engramd, source = sys.argv[1:3]
harness.exe = engramd
deploy = os.path.join(source, "deploy")
WORDS = {"sum", "by", "rate", "increase", "changes", "histogram_quantile", "le", "vector", "or", "and", "unless", "avg",
         "max", "min", "count", "on", "ignoring", "without", "group_left", "label_values", "instance", "clamp_max"}


def dashboards():
    for path in sorted(glob.glob(os.path.join(deploy, "grafana", "*.json"))):
        with open(path, encoding="utf-8") as f:
            yield os.path.basename(path), json.load(f)


def plain(expr):
    """With Grafana's variables filled in."""
    return expr.replace("$__rate_interval", "10s").replace("$instance", ".*")


def expressions():
    """(where, expression) of every panel."""
    for name, board in dashboards():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield "%s: %s" % (name, panel["title"]), plain(target["expr"])


def alert_expressions():
    with open(os.path.join(deploy, "prometheus", "alerts.yml"), encoding="utf-8") as f:
        text = f.read()
    for m in re.finditer(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", text, re.M):
        yield "alerts.yml", " ".join((m.group(1) or m.group(2)).split())


def names(expr):
    """The metrics an expression reads."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|without) ?\([^)]*\)", " ", expr)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][a-zA-Z0-9_:]*", text)) - WORDS


def promtool(*args, text=None):
    return subprocess.run(["promtool", *args], input=text, capture_output=True, text=True, timeout=60)


class Form(unittest.TestCase):
    def test_boards(self):
        uids = set()
        for name, board in dashboards():
            ids = [p["id"] for p in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            self.assertEqual({"datasource", "instance"}, {v["name"] for v in board["templating"]["list"]})
            uids.add(board["uid"])
            taken = set()
            for p in board["panels"]:
                g = p["gridPos"]
                cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
                self.assertLessEqual(g["x"] + g["w"], 24, p["title"])
                self.assertEqual(set(), cells & taken, "%s: %s lies on another panel" % (name, p["title"]))
                taken |= cells
                self.assertTrue(p["title"])
        self.assertEqual({"engramd-serving", "engramd-engram"}, uids)

    def test_names_are_found(self):
        """The reader of expressions itself."""
        self.assertEqual({"a_b", "vllm:c_total"}, names('sum by (le) (rate(a_b{x="y"}[5m])) / 2 + vllm:c_total > 1e3'))


@unittest.skipUnless(shutil.which("promtool"), "promtool is not installed")
class Rules(unittest.TestCase):
    def test_files(self):
        for what, name in ("rules", "alerts.yml"), ("config", "prometheus.yml"):
            r = promtool("check", what, os.path.join(deploy, "prometheus", name))
            self.assertEqual(0, r.returncode, r.stdout + r.stderr)

    def test_every_expression_is_promql(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
            rules = [{"record": "panel_%d" % i, "expr": e} for i, (_, e) in enumerate(expressions())]
            json.dump({"groups": [{"name": "panels", "rules": rules}]}, f)  # JSON is YAML
            f.flush()
            r = promtool("check", "rules", f.name)
            self.assertEqual(0, r.returncode, r.stdout + r.stderr)
            self.assertIn("%d rules found" % len(rules), r.stdout)

    def test_alerts_fire(self):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "alerts_test.yml"), encoding="utf-8") as f:
            text = f.read().replace("RULES", os.path.join(deploy, "prometheus", "alerts.yml"))
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
            f.write(text)
            f.flush()
            r = promtool("test", "rules", f.name)
            self.assertEqual(0, r.returncode, r.stdout + r.stderr)


class Prometheus:
    """A server of its own that scrapes one address every half second."""

    def __init__(self, case, port):
        folder = tempfile.TemporaryDirectory()
        case.addClassCleanup(folder.cleanup)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        config = os.path.join(folder.name, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as f:
            json.dump({"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
                       "rule_files": [os.path.join(deploy, "prometheus", "alerts.yml")],
                       "scrape_configs": [{"job_name": "engramd",
                                           "static_configs": [{"targets": ["127.0.0.1:%d" % port]}]}]}, f)
        self.proc = subprocess.Popen(
            ["prometheus", "--config.file=" + config, "--storage.tsdb.path=" + os.path.join(folder.name, "data"),
             "--web.listen-address=127.0.0.1:%d" % self.port, "--log.level=error"])
        case.addClassCleanup(self.proc.wait)
        case.addClassCleanup(self.proc.terminate)

    def get(self, path, **params):
        url = "http://127.0.0.1:%d/api/v1/%s?%s" % (self.port, path, urllib.parse.urlencode(params))
        with urllib.request.urlopen(url, timeout=10) as f:
            return json.load(f)["data"]

    def query(self, expr):
        return self.get("query", query=expr)["result"]

    def wait(self, expr, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.query(expr):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError("no data for " + expr)


@unittest.skipUnless(shutil.which("prometheus"), "prometheus is not installed")
class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server()
        cls.addClassCleanup(cls.server.__exit__)
        cls.prometheus = Prometheus(cls, cls.server.port)
        cls.prometheus.wait("engramd_ready == 1")
        for i in range(12):  # load that a rate can see
            a = cls.server.complete({"prompt": "The capital of France is", "max_tokens": 8, "n": 2, "ignore_eos": True,
                                     "seed": i}, timeout=30)
            assert a.status == 200, a
            time.sleep(0.1)
        time.sleep(1)  # the last of it is scraped

    def test_every_panel_has_data(self):
        empty = [(where, e) for where, e in expressions() if not self.prometheus.query(e)]
        self.assertEqual([], empty)

    def test_every_name_exists(self):
        m = promtext.parse(self.server.request("GET", "/metrics").body.decode())
        have = {name for family in m.values() for name, _ in family.samples} | {"up"}
        for where, e in list(expressions()) + list(alert_expressions()):
            self.assertTrue(names(e), e)
            self.assertEqual(set(), names(e) - have, where)

    def test_rules_are_loaded_and_quiet(self):
        rules = [r for g in self.prometheus.get("rules")["groups"] for r in g["rules"]]
        self.assertEqual(len(list(alert_expressions())), len(rules))
        self.assertEqual([], [r["name"] for r in rules if r["health"] == "err"])
        self.assertEqual([], [r["name"] for r in rules if r["state"] == "firing"])


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
