#!/usr/bin/env python3
"""Every sentence that docs/TROUBLESHOOTING.md quotes stands in the sources, so that who sees it finds it.
`test_messages.py SOURCE`. In the page `...` stands for what the program fills in, and what Linux says (`strerror`)."""
import pathlib
import re
import sys
import unittest

source = None
CONVERSION = re.compile(r"%[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t|L)?[a-zA-Z]")
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
FOLDERS = ("engram", "engine", "api", "server")


def texts_of(code):
    """The string literals of C code, pieces put together, with `...` where something is filled in."""
    code = re.sub(r'"\s*(PRI[a-zA-Z0-9]+)\s*"', "d", code)
    code = re.sub(r'"\s*(PRI[a-zA-Z0-9]+)', 'd"', code)
    code = re.sub(r'"\s*ENGRAMD_VERSION\s*"', "...", code)
    code = re.sub(r'"\s*"', "", code)
    for literal in LITERAL.findall(code):
        literal = literal.replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")
        yield CONVERSION.sub("...", literal).replace("%%", "%")


def quoted(page):
    """The sentences in the first column of the page's tables."""
    for line in page.split("\n"):
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


def found(sentence, texts):
    """Whether a text of the program has it: its words in order, nothing between them but what is filled in."""
    return any(sentence in t for t in texts)


class Messages(unittest.TestCase):
    def test_every_sentence_is_the_programs(self):
        texts = set()
        for folder in FOLDERS:
            for path in sorted((source / folder).rglob("*.c")):
                texts.update(texts_of(path.read_text()))
        sentences = list(quoted((source / "docs" / "TROUBLESHOOTING.md").read_text()))
        self.assertGreater(len(sentences), 30)
        for sentence in sentences:
            with self.subTest(sentence):
                self.assertGreater(len(sentence.replace("...", "")), 12, "too short to be found")
                self.assertTrue(found(sentence, texts), "no source says so")

    def test_the_judge(self):
        texts = list(texts_of('f("port %d on %s is "\n  "in \\"use\\"; %" PRId64 " of %zu, %.200s 5 %%", x, "%" PRIu64);'))
        self.assertEqual(['port ... on ... is in "use"; ... of ..., ... 5 %', "..."], texts)
        self.assertTrue(found('port ... on ... is in "use"', texts))
        self.assertFalse(found("port ... is in", texts))


if __name__ == "__main__":
    source = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
