"""The report as one HTML page: tables, no scripts, nothing from elsewhere. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
th,td{border:1px solid #cbd2d9;padding:.25rem .6rem;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.no{color:#a40000;font-weight:600}.yes{color:#116329}
@media(prefers-color-scheme:dark){body{color:#e6e9ec;background:#15181c}th,td{border-color:#454d55}.no{color:#ff8a80}
.yes{color:#7ddb8c}}
"""
_VERDICTS = {
    True: '<span class="yes">held</span>',
    False: '<span class="no">did not hold</span>',
    None: "not applicable",
}


def html_page(report: Mapping[str, Any]) -> str:
    """The page of a report as ``report.selfcheck_report`` builds it."""
    model = report["model"]
    failure = f'<p class="no">{escape(report["failure"])}</p>' if report["failure"] else ""
    sections = [
        ("Expectations", _expectations(report["expectations"])),
        ("Engine", _batches(report["batches"]) + _memory(report)),
        ("Service, end to end", _load(report["service"])),
        ("What runs the model", _facts(report["engine"], without=("layer_names",))),
        ("Machine", _facts(report["machine"])),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections)
    title = f"{model['name']} {model['version']}: self-check"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(report['created'])}, {escape(report['command'])}</p>{failure}{body}"
        "<p>selfcheck.json beside this page has all values.</p></body></html>\n"
    )


def _expectations(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = [f"<td>{escape(row['text'])}</td><td>{escape(row['found'])}</td><td>{_VERDICTS[row['held']]}</td>"
             for row in rows]  # fmt: skip
    return _table(("expected", "found", ""), cells)


def _batches(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("batch", "ms with copies", "ms without", "images/s with copies", "equal labels", "largest logit error")
    cells = [
        _numbers(
            str(row["batch_size"]),
            f"{row['ms']:.2f}",
            "" if row["device_ms"] is None else f"{row['device_ms']:.2f}",
            f"{row['images_per_s']:.1f}",
            f"{row['equal_labels']:.3%}",
            "" if row["max_logit_error"] is None else f"{row['max_logit_error']:.1e}",
        )
        for row in rows
    ]
    return _table(heads, cells)


def _memory(report: Mapping[str, Any]) -> str:
    gpu = report["gpu_memory_bytes"]
    parts = [f"{report['images_per_s']:.1f} images/s at saturation"]
    parts += [f"{gpu / 1e6:.0f} MB of GPU memory"] if gpu is not None else []
    parts += [f"{report['peak_memory_bytes'] / 1e6:.0f} MB of memory at most"]
    return f"<p>{'; '.join(parts)}.</p>"


def _load(service: Mapping[str, Any]) -> str:
    if service["failure"]:
        return f'<p class="no">{escape(service["failure"])}</p>'
    cells = [
        _numbers(
            str(row["clients"]),
            f"{row['images_per_s']:.1f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            ", ".join(f"{count} x {status}" for status, count in row["answers"].items()),
        )
        for row in service["load"]
    ]
    note = "<p>JPEG of the model's input size in, PNG label map out; the clients run on the same machine.</p>"
    return _table(("clients", "images/s", "p50 ms", "p99 ms", "answers"), cells) + note


def _facts(facts: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    shown = [(name, value) for name, value in facts.items() if name not in without]
    return _table((), [f"<td>{escape(name)}</td><td>{escape(_plain(value))}</td>" for name, value in shown])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)


def _numbers(*values: str) -> str:
    return "".join(f'<td class="n">{escape(value)}</td>' for value in values)


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in heads)}</tr>" if heads else ""
    return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
