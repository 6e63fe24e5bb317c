"""A strict reader of Prometheus' text format: what a scraper would pass over is an error here."""
import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(r"(%s)(?:\{(.*)\})? (\S+)" % NAME)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


class Family:
    def __init__(self, name, help_text):
        self.name, self.help, self.type = name, help_text, None
        self.samples = {}  # (sample name, sorted labels) -> number


def read_labels(text):
    labels, at = {}, 0
    while at < len(text):
        m = LABEL.match(text, at)
        assert m, "labels: %r" % text
        assert m.group(1) not in labels, "label twice: %r" % text
        labels[m.group(1)] = m.group(2).replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        at = m.end()
        assert not (m.group(3) == "," and at == len(text)), "comma at the end: %r" % text
    return labels


def read_number(text):
    assert re.fullmatch(r"[+-]?(Inf|\d+(\.\d+)?(e[+-]\d+)?)|NaN", text), "number: %r" % text
    return float(text)


def parse(text):
    """{name: Family}; each family's lines stand together, HELP and TYPE first."""
    assert text.endswith("\n") and "\r" not in text and "\n\n" not in text
    families, current = {}, None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, help_text = line[7:].partition(" ")
            assert re.fullmatch(NAME, name) and help_text and name not in families, line
            current = families[name] = Family(name, help_text)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert current and name == current.name and not current.type and not current.samples, line
            assert kind in SUFFIXES, line
            current.type = kind
        else:
            read_sample(current, line)
    for f in families.values():
        check_family(f)
    return families


def read_sample(family, line):
    m = SAMPLE.fullmatch(line)
    assert m and family and family.type, "line: %r" % line
    assert m.group(1) in [family.name + s for s in SUFFIXES[family.type]], "%r in %s" % (line, family.name)
    labels = read_labels(m.group(2)) if m.group(2) is not None else {}
    key = (m.group(1), tuple(sorted(labels.items())))
    assert key not in family.samples, "twice: %r" % line
    family.samples[key] = read_number(m.group(3))


def check_family(f):
    assert f.type, f.name
    for (name, _), v in f.samples.items():
        assert f.type == "gauge" or v >= 0, name
    if f.type == "counter":
        assert f.name.endswith("_total"), f.name
    if f.type == "histogram":
        check_histogram(f)


def check_histogram(f):
    series = {}
    for (name, labels), v in f.samples.items():
        rest = tuple(p for p in labels if p[0] != "le")
        series.setdefault(rest, {"bucket": []})
        if name.endswith("_bucket"):
            series[rest]["bucket"].append((read_number(dict(labels)["le"]), v))
        else:
            series[rest][name[len(f.name) + 1:]] = v
    for s in series.values():
        bounds, counts = [b for b, _ in s["bucket"]], [c for _, c in s["bucket"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == math.inf, f.name
        assert counts == sorted(counts) and counts[-1] == s["count"], f.name
        assert math.isfinite(s["sum"]) and (s["count"] or s["sum"] == 0), f.name


def value(families, name, **labels):
    """The one sample of that name whose labels hold the given ones."""
    for f in families.values():
        found = [v for (n, have), v in f.samples.items() if n == name and labels.items() <= dict(have).items()]
        if found:
            assert len(found) == 1, "%d samples of %s" % (len(found), name)
            return found[0]
    return 0.0


def bounds(families, name):
    return [dict(labels)["le"] for (n, labels) in families[name].samples if n.endswith("_bucket")]
