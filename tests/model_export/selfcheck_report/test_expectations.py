"""Expectations: what held, what did not, and what does not apply; and the page that shows them."""

from __future__ import annotations

from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

from model_export.selfcheck_report.expectations import expectations
from model_export.selfcheck_report.machine import parse_gpus, processor_name
from model_export.selfcheck_report.page import html_page


def gpu_report() -> dict[str, Any]:
    """A made-up report of a GPU on which all expectations hold."""
    batches = [
        {
            "batch_size": size,
            "equal_labels": 1.0,
            "max_logit_error": 0.01,
            "ms": ms,
            "images_per_s": 1,
            "device_ms": 1.0,
        }
        for size, ms in ((1, 3.0), (8, 8.0))
    ]
    load = [{"clients": 8, "seconds": 1.0, "answers": {"200": 400}, "images_per_s": 400.0, "p50_ms": 9.0, "p99_ms": 20}]
    return {
        "created": "2026-01-01",
        "command": "ecenet-export selfcheck",
        "failure": "",
        "model": {"name": "ecenet-lite0-camvid", "version": "1"},
        "machine": {"gpus": [{"name": "<b>GPU</b>"}], "cuda": {}},
        "engine": {
            "runtime": "tensorrt",
            "precision": "fp16",
            "attentions": 3,
            "fused_attentions_of_the_build": 3,
            "layers": 181,
            "repeated_inputs": 0,
            "layer_names": ["a_mha_b"],
        },
        "batches": batches,
        "images_per_s": 600.0,
        "gpu_bytes_per_s": 544e9,
        "gpu_memory_bytes": 1e9,
        "peak_memory_bytes": 2e9,
        "service": {"failure": "", "load": load},
    }


def verdicts(report: dict[str, Any]) -> list[bool | None]:
    return [row.held for row in expectations(report)]


def test_all_expectations_of_a_good_gpu_hold() -> None:
    assert verdicts(gpu_report()) == [True] * 7


def test_each_expectation_can_fail() -> None:
    report = gpu_report()
    report["failure"] = "batch 4 differs"
    report["engine"]["fused_attentions_of_the_build"] = 2
    report["engine"]["repeated_inputs"] = 38
    report["batches"][1]["ms"] = 24.0
    report["gpu_bytes_per_s"] = 1088e9
    report["service"]["load"] += [report["service"]["load"][0] | {"answers": {"200": 1, "503": 5}}] * 2
    report["images_per_s"] = 900.0
    found = expectations(report)
    assert [row.held for row in found] == [False] * 7
    assert [row.found for row in found] == [
        "batch 4 differs",
        "2 of 3 by the kernels' names",
        "38 of 181 layers do, by their names",
        "3.00 ms against 3.00 ms",
        "900 of 2000",
        "10 x 503",
        "400 of 900",
    ]


def test_what_a_cpu_cannot_tell_is_not_applicable() -> None:
    report = gpu_report()
    report["engine"] = {"runtime": "onnxruntime", "precision": "fp32"}
    report["gpu_bytes_per_s"] = None
    assert verdicts(report) == [True, None, None, None, None, True, True]
    report["service"] = {"failure": "", "load": []}
    assert verdicts(report)[5:] == [None, None]
    report["service"]["failure"] = "it did not start"
    assert expectations(report)[5].held is False


class Rows(HTMLParser):
    """The cells of a page's tables, row by row, and the names of all its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1].append(data)


def test_the_page_shows_times_and_verdicts_and_escapes_all_text() -> None:
    report = gpu_report()
    report["expectations"] = [asdict(row) for row in expectations(report)]
    page = Rows()
    page.feed(html_page(report))
    assert page.rows[10][:6] == ["8", "8.00", "1.00", "1.0", "100.000%", "1.0e-02"]
    assert sum("held" in row for row in page.rows) == 7
    assert not page.tags & {"b", "script", "img", "link"}
    assert any("name <b>GPU</b>" in "".join(row) for row in page.rows)
    assert not any("a_mha_b" in "".join(row) for row in page.rows)


def test_rows_of_nvidia_smi_are_read_by_name() -> None:
    line = "NVIDIA L4, 580.65.06, 8.9, 23034 MiB, 72.00 W, 2040 MHz, 6251 MHz, 4, 16, [N/A], Enabled\n"
    (gpu,) = parse_gpus(line)
    assert (gpu["name"], gpu["driver_version"], gpu["compute_cap"]) == ("NVIDIA L4", "580.65.06", "8.9")
    assert parse_gpus("Field is not valid\n") == []


def test_the_processor_is_named_as_the_kernel_does() -> None:
    assert processor_name(["vendor_id\t: AMD", "model name\t: AMD EPYC 9B14", "model name\t: other"]) == "AMD EPYC 9B14"
    assert processor_name([]) != ""
