#!/usr/bin/env python3
"""Plain manners of text files: no tabs, no blanks at line ends, a final newline; no words of things left undone; no
paths of somebody's machine."""
import re

import house

TEXT = (".c", ".h", ".cu", ".cuh", ".py", ".sh", ".md", ".build", ".txt", "run", "quickstart", ".clang-format",
        ".clang-tidy", ".editorconfig", ".gitignore", "NOTICE")
# The words are spelled in two pieces, so that this file passes its own check.
UNDONE = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK|WI" r"P|TB" r"D)\b")
UNDONE_PRODUCT = re.compile(r"\b(not imple" r"mented|stub(bed)?|place" r"holder|for n" r"ow)\b", re.I)
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|ho" r"me|farm)/")


def faults(path, line):
    if "\t" in line:
        yield "a tab"
    if line != line.rstrip():
        yield "blanks at the end of the line"
    if UNDONE.search(line) or (path.startswith(house.PRODUCT) and UNDONE_PRODUCT.search(line)):
        yield "a word of something left undone"
    if MACHINE_PATH.search(line):
        yield "a path of somebody's machine"


def check(root):
    findings, count = [], 0
    for path in house.walk(root):
        if not path.endswith(TEXT):
            continue
        count += 1
        text = house.read(root, path)
        if text and not text.endswith("\n"):
            findings.append(f"{path}: no newline at the end")
        for i, line in enumerate(text.split("\n")):
            findings += [f"{path}:{i + 1}: {fault}" for fault in faults(path, line)]
    return findings, count


if __name__ == "__main__":
    house.main("texts", check)
