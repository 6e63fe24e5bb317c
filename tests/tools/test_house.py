#!/usr/bin/env python3
"""The house checks find what they are for: each gets a small tree with planted faults, and one without."""
import os
import subprocess
import sys
import tempfile
import unittest

import check_headers
import check_layers
import check_size
import check_symbols
import check_text
import summary

COMPILER = sys.argv[1:] or ["cc"]


class Tree(unittest.TestCase):
    """A temporary source tree."""

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.root = self.temporary.name

    def tearDown(self):
        self.temporary.cleanup()

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def plant_headers(self):
        for path in ("engram/engram.h", "engram/hash.h", "engine/engine.h", "engine/model.h", "engine/base/buf.h",
                     "engine/cpu/kernels.h", "api/error.h", "server/http.h", "tests/support/fixtures.h"):
            self.write(path, "int x;\n")


class Layers(Tree):
    def findings(self, path, *includes):
        self.plant_headers()
        self.write(path, "".join(f"#include {i}\n" for i in includes))
        return check_layers.check(self.root)[0]

    def test_allowed(self):
        for path, include in (("server/main.c", '"api/error.h"'), ("server/main.c", '"engine/engine.h"'),
                              ("server/main.c", "<microhttpd.h>"), ("api/json.c", "<cjson/cJSON.h>"),
                              ("api/x.c", '"engine/base/buf.h"'), ("engine/model.c", '"engine/cpu/kernels.h"'),
                              ("engine/model.c", '"engram/engram.h"'), ("engine/cpu/moe.c", '"engine/model.h"'),
                              ("engine/cpu/x.c", "<immintrin.h>"), ("engram/hash.c", '"engram/hash.h"'),
                              ("engram/hash.c", "<pthread.h>"), ("tests/unit/test_x.c", '"engine/model.h"')):
            self.assertEqual(self.findings(path, include), [], (path, include))

    def test_forbidden(self):
        for path, include in (("engram/hash.c", '"engine/base/buf.h"'), ("engine/base/x.c", '"engine/engine.h"'),
                              ("engine/x.c", '"api/error.h"'), ("engine/x.c", '"engram/hash.h"'),
                              ("engine/cpu/x.c", '"server/http.h"'), ("api/x.c", '"engine/model.h"'),
                              ("api/x.c", '"engine/cpu/kernels.h"'), ("server/x.c", '"engine/model.h"'),
                              ("server/x.c", '"engram/engram.h"'), ("server/x.c", '"tests/support/fixtures.h"'),
                              ("server/x.c", "<cjson/cJSON.h>"), ("api/x.c", "<microhttpd.h>"),
                              ("engine/x.c", "<immintrin.h>"), ("engine/cpu/x.c", "<cuda_runtime.h>"),
                              ("engram/x.c", "<utf8proc.h>"), ("server/x.c", '"http.h"'),
                              ("tests/unit/x.c", '"engine/model.c"')):
            self.assertEqual(len(self.findings(path, include)), 1, (path, include))
            os.remove(os.path.join(self.root, path))

    def test_ring(self):
        self.plant_headers()
        self.write("engine/engine.h", '#include "engine/model.h"\n')
        self.write("engine/model.h", '#include "engine/engine.h"\n')
        self.assertIn("ring", check_layers.check(self.root)[0][0])


class Symbols(Tree):
    def library(self, name, code):
        source = self.write("x.c", code)
        subprocess.run(COMPILER + ["-c", source, "-o", source + ".o"], check=True)
        path = os.path.join(self.root, name)
        subprocess.run(["ar", "rc", path, source + ".o"], check=True)
        return check_symbols.check_library("nm", path)[0]

    def test_prefix(self):
        self.assertEqual(self.library("libapi.a", "static int f(void){return 1;} int em_f(void){return f();}"), [])
        self.assertEqual(len(self.library("libapi.a", "int helper(void){return 1;} int em_g(void){return 2;}")), 1)
        self.assertEqual(len(self.library("libapi.a", "int counter; int em_g(void){return 2;}")), 1)

    def test_alone(self):
        code = "int em_other(void); int em_f(void){return em_other();}"
        self.assertEqual(len(self.library("libengram.a", code)), 1)
        self.assertEqual(self.library("libengine.a", code), [])


class Headers(Tree):
    def findings(self, text):
        self.write("engram/engram.h", text)
        return check_headers.check(self.root, COMPILER, None)[0]

    def test_alone(self):
        guard = "#ifndef EM_X_H\n#define EM_X_H\n%s\n#endif\n"
        self.assertEqual(self.findings(guard % "#include <stdint.h>\nstruct em_x { uint64_t n; };"), [])
        self.assertEqual(len(self.findings(guard % "struct em_x { uint64_t n; };")), 1)
        self.assertEqual(len(self.findings("struct em_x { int n; };\n")), 1, "no guard")


class Size(Tree):
    def findings(self, body_lines, file_lines=0, head=""):
        self.write("engine/x.c", head + "int em_f(int a,\n         int b)\n{\n" + "    ;\n" * body_lines + "}\n"
                   + "\n" * file_lines)
        return check_size.check(self.root)[0]

    def test_function(self):
        self.assertEqual(self.findings(check_size.MAX_FUNCTION - 2), [])
        self.assertIn("em_f", self.findings(check_size.MAX_FUNCTION - 1)[0])

    def test_file(self):
        self.assertEqual(len(self.findings(1, check_size.MAX_FILE)), 1)
        self.assertEqual(self.findings(1, check_size.MAX_FILE, "/* Generated by tests/tools/x.py. */\n"), [])


class Text(Tree):
    def findings(self, text, path="engine/x.c"):
        path = self.write(path, text)
        found = len(check_text.check(self.root)[0])
        os.remove(path)
        return found

    def test_manners(self):
        self.assertEqual(self.findings("int x;\n"), 0)
        for text in ("\tint x;\n", "int x; \n", "int x;", "/* FIX" "ME */\n", "/* a st" "ub */\n",
                     "/* see /ro" "ot/notes */\n"):
            self.assertEqual(self.findings(text), 1, text)
        self.assertEqual(self.findings("a/wo" "rk/b and build/ro" "ot/x\n", "docs/x.md"), 0)
        self.assertEqual(self.findings("\t\n", "build-x/x.c"), 0, "build trees do not count")


class Summary(Tree):
    def counts(self, results, *options):
        log = self.write("testlog.json", "".join('{"name": "t", "result": "%s"}\n' % r for r in results))
        run = subprocess.run([sys.executable, summary.__file__, "--counts", *options, log], capture_output=True,
                             text=True)
        return run.returncode, run.stdout.split()

    def test_sums(self):
        self.assertEqual(self.counts(["OK", "OK", "SKIP"]), (0, ["2", "0", "1"]))
        self.assertEqual(self.counts(["OK", "FAIL", "TIMEOUT", "ERROR"]), (1, ["1", "3", "0"]))
        self.assertEqual(self.counts(["OK", "SKIP"], "--no-skips"), (1, ["1", "1", "0"]))
        self.assertEqual(self.counts([]), (1, ["0", "0", "0"]), "nothing ran")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
