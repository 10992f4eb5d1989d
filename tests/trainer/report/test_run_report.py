"""The report: what stands in it, that it needs nothing beside it, and what is said of runs that lack something."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.model_directory.manifest import ClassInfo
from trainer.checkpoint import save_checkpoint
from trainer.config import TrainConfig
from trainer.datasets import CAMVID_CLASSES, IGNORE_INDEX, Sample, open_dataset
from trainer.metrics import Counts
from trainer.model.ecenet import ECENet
from trainer.report.command import main
from trainer.report.examples import Example, ExampleCollector, FixedExamples, image_miou, spread_indices
from trainer.report.images import MAX_SIDE, WRONG_COLOR, errors_uri, full_palette, label_uri, photo_uri
from trainer.report.run_report import ReportError, read_log, report_run, write_report

CLASSES = (
    ClassInfo(0, "road & <kerb>", (128, 64, 128)),
    ClassInfo(1, "sky", (0, 0, 0)),
    ClassInfo(2, "pole", (250, 170, 30)),
    ClassInfo(3, "never", (1, 2, 3)),
)
CONFUSION = np.array([[60, 20, 0, 0], [5, 95, 0, 0], [3, 0, 1, 0], [0, 0, 0, 0]], np.int64)
LOG = [
    {"epoch": 1, "loss_cross_entropy": 1.5, "loss_auxiliary": 2.0, "lr": 1e-3, "seconds": 60.0},
    {"epoch": 2, "loss_cross_entropy": 0.5, "loss_auxiliary": 1.0, "lr": 5e-4, "seconds": 60.0, "val_miou": 0.4},
    {"epoch": 3, "loss_cross_entropy": float("nan"), "loss_auxiliary": None, "lr": 1e-4, "val_miou": 0.5},
]


def example(index: int, miou: float, name: str = "") -> Example:
    labels = np.array([[0, 1], [2, IGNORE_INDEX]], np.uint8)
    prediction = np.array([[0, 0], [2, 1]], np.uint8)
    return Example(index, miou, np.full((2, 2, 3), 90, np.uint8), labels, prediction, name)


def write(path: Path, **changes: Any) -> str:
    content: dict[str, Any] = {
        "title": "a <run>",
        "config": TrainConfig().as_dict(),
        "log": LOG,
        "classes": CLASSES,
        "counts": Counts(CONFUSION),
        "best": [example(0, 0.9, "good.png"), example(1, 0.8, "fair.png")],
        "worst": [example(2, 0.1, "bad.png"), example(3, 0.2, "poor.png")],
        "facts": {"parameters": "3.65 M"},
    }
    write_report(path, **{**content, **changes})
    return path.read_text(encoding="utf-8")


def decode(uri: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", uri).groups()  # type: ignore[union-attr]
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    return image


def rgba(uri: str) -> NDArray[np.uint8]:
    return np.asarray(decode(uri).convert("RGBA"))


class Balance(HTMLParser):
    """Fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_figures_and_bars_show_the_scores_in_percent_and_in_the_classes_colours(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    class_iou = {"sky": 95 / 120, "road &amp; &lt;kerb&gt;": 60 / 88, "pole": 1 / 4}
    rows = re.findall(r'title="([^"]*)"><i.*?width:([\d.]+)%;background:(#\w+)"></div></div><b>([^<]*)</b>', page)
    assert [(name, value) for name, _, _, value in rows] == [
        *((name, f"{100 * iou:.2f}") for name, iou in class_iou.items()),
        ("never", "–"),  # noqa: RUF001
    ]
    assert [width for _, width, _, _ in rows] == ["79.17", "68.18", "25.00", "0.00"]
    assert [color for _, _, color, _ in rows] == ["#000000", "#804080", "#faaa1e", "#010203"]
    miou = 100 * np.mean(list(class_iou.values()))
    assert f"<b>{miou:.2f}</b>" in page
    assert f"<b>{100 * 156 / 184:.2f}</b>" in page
    assert "<b>3.65 M</b>" in page


def test_rows_of_the_confusion_matrix_are_shares_of_the_label(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert body is not None
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in body[1].split("</tr>")[:-1]]
    dash = "–"  # noqa: RUF001
    assert rows == [["75", "25", "", ""], ["5", "95", "", ""], ["75", "", "25", ""], [dash] * 4]
    listed = re.findall(r'<td class="number">([\d.]+) %</td><td class="number">(\d+)</td>', page)
    assert listed == [("75.00", "3"), ("25.00", "20"), ("5.00", "5")]


def test_many_classes_are_one_picture_and_the_most_confused_pairs(tmp_path: Path) -> None:
    count = 150
    classes = [ClassInfo(index, f"class {index}", (index, 0, 0)) for index in range(count)]
    confusion = np.diag(np.full(count, 100, np.int64))
    confusion[7, 9] = 300
    page = write(tmp_path / "report.html", classes=classes, counts=Counts(confusion), best=[], worst=[])
    assert "<tbody>" not in page
    picture = re.search(r'class="large" src="([^"]+)"', page)
    assert picture is not None
    alpha = rgba(picture[1])[..., 3]
    assert alpha.shape == (count, count)
    assert (alpha[0, 0], alpha[7, 7], alpha[7, 9], alpha[9, 7]) == (255, 64, 191, 0)
    assert re.findall(r"</i>class (\d+)</td><td><i[^>]*></i>class (\d+)</td>", page) == [("7", "9")]


def test_images_stand_in_the_given_order_with_name_and_miou(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    captions = re.findall(r"<figcaption><b>([^<]*)</b> · mIoU ([\d.]+) %", page)
    assert captions == [("good.png", "90.00"), ("fair.png", "80.00"), ("bad.png", "10.00"), ("poor.png", "20.00")]
    assert page.index("<h3>Best</h3>") < page.index("good.png") < page.index("<h3>Worst</h3>") < page.index("bad.png")
    assert len(re.findall(r'<img class="map"', page)) == 8


def test_the_page_is_whole_and_needs_nothing_beside_it(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    assert "http" not in page
    assert "<script" not in page
    assert not re.search(r"@import|<link|url\((?!#|data:)", page)
    assert "prefers-color-scheme: dark" in page
    assert "<title>a &lt;run&gt;</title>" in page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for section, keys in TrainConfig().as_dict().items():
        assert f"<h3>{section}</h3>" in page
        assert all(f"<td>{key}</td>" in page for key in keys)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.html") == write(tmp_path / "b.html")


@pytest.mark.parametrize(("log", "panels"), [(LOG, 3), (LOG[:1], 2), ([{"epoch": 1}], 0)])
def test_curves_are_drawn_of_what_the_log_holds(log: list[dict[str, Any]], panels: int, tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", log=log)
    assert page.count("<svg") == panels
    assert ("The log holds no evaluation." in page) == (log is not LOG)
    assert ("cross_entropy</text>" in page) == (panels > 0)


def test_no_pixel_at_all_is_no_error(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", counts=Counts.zeros(4), best=[], worst=[])
    assert "No image has a labelled pixel." in page
    assert "No pixel is confused." in page


def test_label_pictures_have_the_classes_colours_and_a_clear_void() -> None:
    labels = np.array([[0, 1, 2], [3, IGNORE_INDEX, 0]], np.uint8)
    picture = rgba(label_uri(labels, full_palette(CLASSES)))
    for info in CLASSES:
        assert (picture[labels == info.id] == (*info.color, 255)).all()
    assert (picture[labels == IGNORE_INDEX][:, 3] == 0).all()


def test_error_pictures_mark_what_is_wrong_and_not_void() -> None:
    labels = np.array([[0, 1, IGNORE_INDEX]], np.uint8)
    picture = rgba(errors_uri(labels, np.array([[0, 2, 2]], np.uint8)))
    assert picture[0, 1].tolist() == [*WRONG_COLOR, 255]
    assert picture[0, [0, 2], 3].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((960, 720), (480, 360)), ((481, 7), (480, 6)), ((7, 4800), (1, 480)), ((480, 480), (480, 480)), ((9, 5), (9, 5))],
)
def test_pictures_are_bounded_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    width, height = size
    image = np.full((height, width, 3), (200, 100, 50), np.uint8)
    photo = decode(photo_uri(image))
    assert photo.size == expected
    assert max(photo.size) <= MAX_SIDE
    assert np.abs(np.asarray(photo).astype(int) - (200, 100, 50)).max() <= 3
    assert decode(label_uri(image[..., 0], full_palette(CLASSES))).size == expected


def test_miou_of_an_image_is_over_the_classes_of_its_label() -> None:
    labels = np.array([[0, 0, 1, 1, IGNORE_INDEX]], np.uint8)
    prediction = np.array([[0, 2, 1, 1, 0]], np.uint8)
    assert image_miou(labels, prediction, 3) == pytest.approx((1 / 2 + 1) / 2)
    assert np.isnan(image_miou(np.full((1, 5), IGNORE_INDEX, np.uint8), prediction, 3))


@pytest.mark.parametrize("order", [1, -1])
def test_the_collector_keeps_the_best_and_the_worst_whatever_their_order(order: int) -> None:
    collector = ExampleCollector(2, keep=2)
    right = {0: 5, 1: 9, 2: 1, 3: 9, 4: 0, 5: 3, 6: None}
    for index in list(right)[::order]:
        labels = np.zeros((1, 10), np.uint8) if right[index] is not None else np.full((1, 10), IGNORE_INDEX, np.uint8)
        prediction = (np.arange(10)[None] >= (right[index] or 0)).astype(np.uint8)
        collector(index, Sample(np.zeros((1, 10, 3), np.uint8), labels), prediction)
    assert [(one.index, one.miou) for one in collector.best] == [(1, 0.9), (3, 0.9)]
    assert [(one.index, one.miou) for one in collector.worst] == [(4, 0.0), (2, 0.1)]


@pytest.mark.parametrize(("count", "best", "worst"), [(0, 0, 0), (1, 1, 0), (5, 3, 2), (8, 4, 4), (20, 4, 4)])
def test_no_image_is_both_among_the_best_and_the_worst(count: int, best: int, worst: int) -> None:
    collector = ExampleCollector(4, keep=4)
    for index in range(count):
        collector.add(example(index, index / 20))
    assert (len(collector.best), len(collector.worst)) == (best, worst)
    assert len({one.index for one in [*collector.best, *collector.worst]}) == best + worst


def test_fixed_examples_are_the_asked_ones() -> None:
    fixed = FixedExamples(4, spread_indices(20, 4))
    one = example(0, 0.5)
    for index in reversed(range(20)):
        fixed(index, Sample(one.image, one.labels), one.prediction)
    assert [found.index for found in fixed.examples] == [2, 7, 12, 17]
    assert [spread_indices(total) for total in (0, 1, 3, 4)] == [[], [0], [0, 1, 2], [0, 1, 2, 3]]


@pytest.fixture
def run(tmp_path: Path, tiny_model: ECENet) -> Path:
    """A run of two epochs of the tiny network."""
    folder = tmp_path / "run"
    save_checkpoint(
        folder / "best.pt",
        tiny_model.config,
        tiny_model.state_dict(),
        architecture="tiny",
        dataset="camvid",
        input_size=[48, 64],
        train_config={"schedule": {"epochs": 2}},
        epochs_done=2,
        steps_done=4000,
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG[:2]))
    return folder


def test_the_command_evaluates_the_best_checkpoint(run: Path, tiny_camvid: Path) -> None:
    assert main([str(run), "--data", str(tiny_camvid)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h1>tiny on camvid, val</h1>" in page
    assert "<b>4,000</b>" in page
    assert "<b>2.0 min</b>" in page
    captions = re.findall(r"<b>(\d\d\.png)</b> · mIoU ([\d.]+)", page)
    assert sorted(name for name, _ in captions) == ["00.png", "01.png"]
    assert float(captions[0][1]) >= float(captions[1][1])

    before = (run / "report.html").read_bytes()
    assert report_run(run, open_dataset("camvid", tiny_camvid, "val")) == run / "report.html"
    assert (run / "report.html").read_bytes() == before


def test_the_command_takes_the_data_that_the_run_names(
    run: Path, tiny_camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run)]) == 1
    assert "does not state the folder of its data; name it with --data" in capsys.readouterr().err
    (run / "data.txt").write_text(f"{tiny_camvid}\n")
    assert main([str(run)]) == 0
    assert "tiny on camvid, val" in (run / "report.html").read_text(encoding="utf-8")


def test_the_command_takes_another_split_and_file(run: Path, tiny_camvid: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.html"
    assert main([str(run), "--data", str(tiny_camvid), "--split", "train", "--output", str(target)]) == 0
    page = target.read_text(encoding="utf-8")
    assert "tiny on camvid, train" in page
    assert page.count("<figcaption>") == 8
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "log.jsonl is empty"),
        ("\n\n", "log.jsonl is empty"),
        ('{"epoch": 1}\n{"epoch": 2, "lo', "line 2 is not JSON"),
        ("[1, 2]\n", "line 1 is '[1, 2]', expected an object"),
        ('{"loss": 1}\n', "expected an object with a whole number 'epoch'"),
        ('{"epoch": 1, "val_miou": "high"}\n', "line 1 has val_miou 'high', expected a number"),
        ('{"epoch": 1, "loss_a": [1]}\n', "line 1 has loss_a [1]"),
    ],
)
def test_a_log_that_cannot_be_read_is_told_with_its_line(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(lines)
    with pytest.raises(ReportError, match=re.escape(message)):
        read_log(tmp_path / "log.jsonl")


def test_of_an_epoch_done_twice_the_last_counts(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 2, "lr": 1}\n{"epoch": 1}\n{"epoch": 2, "lr": 3}\n')
    assert read_log(tmp_path / "log.jsonl") == [{"epoch": 1}, {"epoch": 2, "lr": 3}]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("log.jsonl", "log.jsonl does not exist"),
        ("best.pt", "best.pt does not exist: the run has not been evaluated yet"),
        ("", "is not a folder of a training run"),
    ],
)
def test_a_run_that_lacks_something_ends_with_a_sentence(
    gone: str, message: str, run: Path, tiny_camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if gone:
        (run / gone).unlink()
    assert main([str(run if gone else run / "nowhere"), "--data", str(tiny_camvid)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ecenet-train report: ")
    assert message in error


def test_a_checkpoint_of_another_dataset_ends_with_a_sentence(run: Path, tiny_camvid: Path) -> None:
    dataset = open_dataset("camvid", tiny_camvid, "val")
    dataset.classes = CAMVID_CLASSES[:10]
    with pytest.raises(ReportError, match=r"best\.pt: the model has 11 classes, camvid has 10"):
        report_run(run, dataset)


def test_a_checkpoint_that_does_not_tell_its_dataset_ends_with_a_sentence(
    run: Path, tiny_model: ECENet, tiny_camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(run / "best.pt", tiny_model.config, tiny_model.state_dict())
    assert main([str(run), "--data", str(tiny_camvid)]) == 1
    assert "best.pt does not state its dataset and input_size" in capsys.readouterr().err
