#!/usr/bin/env python3
"""Functions of the product have at most 90 lines, its files at most 800."""
import re

import house

MAX_FUNCTION = 90
MAX_FILE = 800


def functions(text):
    """(first line, name, lines) of every function: a brace in column 0 that opens after a parenthesis, to the next
    brace in column 0."""
    lines = text.split("\n")
    start = None
    for i, line in enumerate(lines):
        if line.startswith("{") and i and lines[i - 1].rstrip().endswith(")"):
            start = i
        elif line.startswith("}") and start is not None:
            yield start + 1, function_name(lines, start), i - start + 1
            start = None


def function_name(lines, brace):
    """The identifier before the first parenthesis of the lines in front of the brace."""
    head = []
    for line in reversed(lines[:brace]):
        if not line.strip() or line.startswith(("}", "#")):
            break
        head.insert(0, line)
    match = re.search(r"(\w+)\s*\((?!\()", re.sub(r"__attribute__\s*\(\(.*?\)\)", "", " ".join(head)))
    return match.group(1) if match else "?"


def check(root):
    findings, count = [], 0
    for path in house.sources(root, house.PRODUCT):
        text = house.read(root, path)
        n = text.count("\n")
        if n > MAX_FILE and not house.generated(text):
            findings.append(f"{path}: {n} lines; at most {MAX_FILE}, so split it by what its parts do")
        for line, name, length in functions(text):
            count += 1
            if length > MAX_FUNCTION:
                findings.append(f"{path}:{line}: {name} has {length} lines, at most {MAX_FUNCTION}")
    return findings, count


if __name__ == "__main__":
    house.main("sizes", check)
