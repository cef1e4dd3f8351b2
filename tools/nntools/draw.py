"""The rows as an SVG: one box a row, from the top down; what jumps over rows runs beside them."""

from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP, LANE, MARGIN = 300, 40, 24, 16, 20
COLORS = {"input": "#e8e8e8", "dense": "#cfe3ff", "conv2d": "#cfe3ff", "embedding": "#cfe3ff",
          "lstm": "#d9f2d9", "gru": "#d9f2d9", "rnn": "#d9f2d9", "add": "#ffe3c2",
          "batchnorm": "#fff3bf"}
STYLE = ("text{font:13px sans-serif;fill:#222}.small{font-size:11px;fill:#555}"
         "rect{stroke:#888;rx:5}path{fill:none;stroke:#555;marker-end:url(#a)}")
ARROW = ('<marker id="a" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="7" markerHeight="7" '
         'orient="auto"><path d="M0,0L6,3L0,6z" style="fill:#555;stroke:none;marker-end:none"/>'
         '</marker>')


def details(row):
    """What the second line says of a row."""
    words = []
    for key, value in row.fields.items():
        values = value if isinstance(value, (tuple, list)) else (value,)
        if key not in ("shape", "units", "vocab"):
            words.append(f"{key} " + "x".join(f"{v:g}" if isinstance(v, float) else str(v)
                                              for v in values))
    if row.share:
        words.append(f"shares {row.share}")
    return ", ".join(words)


def shortened(text, most):
    return text if len(text) <= most else text[:most - 3] + "..."


def box(row, shape, x, y):
    right = x + WIDTH - 8
    title = shortened(f"{row.op} {row.name}", 30)
    return (f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" '
            f'fill="{COLORS.get(row.op, "#ffffff")}"/>'
            f'<text x="{x + 8}" y="{y + 17}">{escape(title)}</text>'
            f'<text x="{right}" y="{y + 17}" text-anchor="end">'
            f'{"x".join(map(str, shape))}</text>'
            f'<text x="{x + 8}" y="{y + 33}" class="small">'
            f'{escape(shortened(details(row), 48))}</text>')


def arrows(rows):
    """(from, to, lane) of every connection by index; lane 0 is straight down."""
    index, result, ends = {row.name: i for i, row in enumerate(rows)}, [], []
    for to, row in enumerate(rows):
        for name in dict.fromkeys(row.inputs):
            start = index[name]
            lane = 0
            if to > start + 1:
                free = [k for k, end in enumerate(ends) if end <= start]
                lane = (free[0] if free else len(ends)) + 1
                ends[lane - 1:lane] = [to]
            result.append((start, to, lane))
    return result, len(ends)


def svg(rows, shapes):
    """The drawing's text; shapes by row name."""
    lines, lanes = arrows(rows)
    x, step = MARGIN, HEIGHT + GAP
    height = 2 * MARGIN + len(rows) * step - GAP
    width = 2 * MARGIN + WIDTH + lanes * LANE + (LANE if lanes else 0)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}"><style>{STYLE}</style><defs>{ARROW}</defs>']
    for start, to, lane in lines:
        y0, y1 = MARGIN + start * step + HEIGHT, MARGIN + to * step
        if not lane:
            out.append(f'<path d="M{x + WIDTH // 2},{y0}V{y1}"/>')
            continue
        side = x + WIDTH + lane * LANE
        out.append(f'<path d="M{x + WIDTH},{y0 - HEIGHT // 2}H{side}V{y1 + HEIGHT // 2}'
                   f'H{x + WIDTH}"/>')
    out += [box(row, shapes[row.name], x, MARGIN + i * step) for i, row in enumerate(rows)]
    return "\n".join([*out, "</svg>"]) + "\n"
