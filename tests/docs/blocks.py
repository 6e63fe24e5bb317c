"""The code blocks of a Markdown page, each with the mark that says how it is tested (docs/CONTRIBUTING.md)."""
import re

MARK = re.compile(r"<!-- test: (.+?) -->$")
KINDS = ("run", "serve", "start", "output", "usage", "grammar", "text", "not run")


class Block:
    """`mark` is None where there is none, else (kind, what follows the kind)."""

    def __init__(self, page, line, text, mark):
        self.page, self.line, self.text, self.mark = page, line, text, mark

    def __str__(self):
        return "%s:%d" % (self.page, self.line)

    @property
    def kind(self):
        return self.mark[0] if self.mark else None


def read_mark(line):
    """(kind, rest) of a mark's line; None where it is none. ValueError for a mark of no known kind."""
    found = MARK.match(line.strip())
    if not found:
        return None
    kind = re.split(r"[:,]", found.group(1))[0].strip()
    if kind not in KINDS:
        raise ValueError("unknown mark %r, known: %s" % (kind, ", ".join(KINDS)))
    return kind, found.group(1)[len(kind):].lstrip(":, ")


def end_of(lines, start):
    """(first line of the code, line behind it, line behind the block) of the block that begins at `start`."""
    at = start + 1
    if lines[start].startswith("```"):
        while not lines[at].startswith("```"):
            at += 1
        return start + 1, at, at + 1
    while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
        at += 1
    while not lines[at - 1].strip():
        at -= 1
    return start, at, at


def blocks_of(page, text):
    """All blocks of a page in order: fenced ones, and those indented by four after an empty line."""
    lines, found, at = text.split("\n"), [], 0
    above = ""  # the last line that is not empty
    while at < len(lines):
        line = lines[at]
        if line.startswith("```") or (line.startswith("    ") and line.strip() and (at == 0 or not lines[at - 1].strip())):
            first, last, behind = end_of(lines, at)
            code = lines[first:last]
            if first == at:
                code = [c[4:] for c in code]
            try:
                mark = read_mark(above)
            except ValueError as e:
                raise ValueError("%s:%d: %s" % (page, at + 1, e)) from None
            found.append(Block(page, at + 1, "\n".join(code) + "\n", mark))
            above, at = "", behind
            continue
        if line.strip():
            above = line
        at += 1
    return found


def swaps_of(rest):
    """The pairs of `512 -> 16, 300 -> 2`: what a run has in place of what the page says."""
    pairs = [part.split("->") for part in rest.split(",") if "->" in part]
    return [(old.strip(), new.strip()) for old, new in pairs]


def exit_of(rest):
    """The exit status that a mark asks for: `exit 1`, else 0."""
    found = re.search(r"\bexit (\d+)\b", rest)
    return int(found.group(1)) if found else 0


def missing_line(expected, output):
    """The first line of `expected` that `output` lacks, behind the line before it; None when all are there. `...` stands for
    anything within a line."""
    at, have = 0, output.split("\n")
    for line in expected.split("\n"):
        if not line.strip() or line.strip() == "...":
            continue
        wanted = re.compile(".*".join(re.escape(p) for p in line.strip().split("...")))
        while at < len(have) and not wanted.search(have[at]):
            at += 1
        if at == len(have):
            return line
        at += 1
    return None
