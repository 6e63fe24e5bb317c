"""Line charts as SVG, with nothing but the standard library: axes that fit the data, one line or step for each series, light
and dark by the reader's setting, values as titles for who cannot see the lines."""
import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 64, 16, 40, 64
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#57606a")
STYLE = """<style>text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:14px;font-weight:600}.g{stroke:#d0d7de}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#30363d}.b{fill:#0d1117}}.b{fill:#fff}</style>"""


def ticks(low, high, n=5):
    """About n round numbers from low to high."""
    if high <= low:
        high = low + 1
    step = 10 ** math.floor(math.log10((high - low) / n))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= n)
    first = math.floor(low / step)
    return [step * i for i in range(first, math.ceil(high / step) + 1)]


def chart(title, x_name, y_name, series):
    """The SVG of {name: [(x, y), ...]}."""
    points = [p for s in series.values() for p in s] or [(0, 0)]
    xs, ys = ticks(0, max(x for x, _ in points)), ticks(0, max(y for _, y in points))

    def x_at(v):
        return LEFT + (v - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(v):
        return HEIGHT - BOTTOM - (v - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">' % (
        WIDTH, HEIGHT, html.escape(title, quote=True)), "<title>%s</title>" % html.escape(title), STYLE.replace("\n", ""),
        '<rect class="b" width="100%%" height="100%%"/><text class="t" x="%d" y="22">%s</text>' % (LEFT, html.escape(title))]
    for v in ys:
        out.append('<line class="g" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%g</text>' % (
            LEFT, WIDTH - RIGHT, y_at(v), y_at(v), LEFT - 8, y_at(v) + 4, v))
    for v in xs:
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%g</text>' % (x_at(v), HEIGHT - BOTTOM + 18, v))
    out.append('<text x="%d" y="%d" text-anchor="end">%s</text><text x="8" y="%d">%s</text>' % (
        WIDTH - RIGHT, HEIGHT - BOTTOM + 36, html.escape(x_name), TOP - 4, html.escape(y_name)))
    for i, (name, s) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        out += line(name, s, colour, x_at, y_at)
        out.append('<rect x="%d" y="%d" width="12" height="3" fill="%s"/><text x="%d" y="%d">%s</text>' % (
            LEFT + i * 150, HEIGHT - 14, colour, LEFT + 16 + i * 150, HEIGHT - 8, html.escape(name)))
    return "\n".join(out + ["</svg>", ""])


def line(name, points, colour, x_at, y_at):
    drawn = " ".join("%.1f,%.1f" % (x_at(x), y_at(y)) for x, y in points)
    yield '<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>' % (colour, drawn)
    if len(points) <= 40:
        for x, y in points:
            yield '<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %g, %g</title></circle>' % (
                x_at(x), y_at(y), colour, html.escape(name), x, y)
