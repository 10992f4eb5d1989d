"""CVAT: the XML of images with every shape and ``z_order``, and segmentation masks with ``labelmap.txt``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]
LABELS = """<labels>
  <label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
  <label><name>tree</name><color>#24b353</color><type>any</type><attributes></attributes></label>
</labels>"""
BOX = '<box label="{}" source="manual" occluded="0" xtl="{}" ytl="{}" xbr="{}" ybr="{}" z_order="{}"></box>'


def xml(*shapes: str, name: str = "a.jpg", attributes: str = "", meta: str = f"<task>{LABELS}</task>") -> str:
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta>{meta}</meta>'
    image = f'<image id="0" name="{name}" {attributes} width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image>'
    return f"{head}{image}</annotations>"


def test_z_order_comes_before_the_order_of_the_file(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    top = '<polygon label="car" source="manual" occluded="0" points="2.00,2.00;8.0,2;8,8;2,8" z_order="10"></polygon>'
    lower = BOX.format("tree", 5, 4, 12, 6, 9)
    lowest = BOX.format("car", 11, 3, 14, 5, -1)
    workshop.text("annotations.xml", xml(top, lower, lowest))
    dataset = workshop.convert("cvat")
    assert dataset.drawn("a") == drawing(("c", 11, 3, 14, 5), ("t", 5, 4, 12, 6), ("c", 2, 2, 8, 8))
    assert dataset.classes == {"background": (0, 0, 0), "car": (250, 50, 83), "tree": (36, 179, 83)}


def test_masks_are_runs_along_the_rows_of_their_box(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    mask = (
        '<mask label="car" source="semi-auto" occluded="0" rle="0, 5, 2, 6, 2, 5" left="3" top="2" width="5" height="4"'
    )
    workshop.text("annotations.xml", xml(f'{mask} z_order="0"></mask>', meta=f"<project>{LABELS}</project>"))
    rows = ["ccccc", "..ccc", "ccc..", "ccccc"]
    expected = drawing()
    for row, text in enumerate(rows, 2):
        expected[row] = f"...{text}........"
    assert workshop.convert("cvat").drawn("a") == expected


def test_boxes_are_turned_around_their_centre(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.text("annotations.xml", xml(BOX.format("car", 4, 4, 10, 6, 0).replace("z_order", 'rotation="90" z_order')))
    assert workshop.convert("cvat").drawn("a") == drawing(("c", 6, 2, 8, 8))


def test_ellipses_have_a_centre_and_two_radii(workshop: Workshop) -> None:
    workshop.photo("a.jpg", (100, 200))
    ellipse = (
        '<ellipse label="car" source="manual" occluded="0" cx="100" cy="50" rx="40" ry="10" z_order="0"></ellipse>'
    )
    workshop.text(
        "annotations.xml", xml(ellipse).replace(f'width="{WIDTH}" height="{HEIGHT}"', 'width="200" height="100"')
    )
    y, x = np.mgrid[:100, :200] + 0.5
    expected = ((x - 100) / 40) ** 2 + ((y - 50) / 10) ** 2 < 1
    assert (workshop.convert("cvat").labels("a") != expected).mean() < 0.003


def test_lines_and_tags_are_left_out(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    line = '<polyline label="car" points="1,1;5,5" z_order="0"></polyline>'
    tag = '<tag label="car" source="manual"></tag>'
    workshop.text("annotations.xml", xml(line, tag, BOX.format("car", 2, 2, 8, 8, 0)))
    dataset = workshop.convert("cvat")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8))
    assert "1 shape left out" in dataset.output
    assert "a polyline has no area" in dataset.output


def test_frames_of_a_video_are_named_without_extension(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/frame_000000.PNG")
    workshop.text("annotations.xml", xml(BOX.format("car", 2, 2, 8, 8, 0), name="frame_000000"))
    assert workshop.convert("cvat").drawn("frame_000000") == drawing(("c", 2, 2, 8, 8))


def test_subsets_are_splits_and_folders_stay(workshop: Workshop) -> None:
    head, tail = xml().split("<image")[0], "</annotations>"
    images = ""
    for name, subset in (("day 1/ä.jpg", "Train"), ("day 2/ä.jpg", "Validation")):
        workshop.photo(f"images/{name}")
        shapes = BOX.format("car", 2, 2, 8, 8, 0) + BOX.format("tree", 2, 2, 3, 3, 1)
        one = xml(shapes, name=name, attributes=f'subset="{subset}"')
        images += one[one.index("<image") : one.index(tail)]
    workshop.text("annotations.xml", head + images + tail)
    assert workshop.convert("cvat", "--split", "0.5").splits == {"train": ["day 1/ä"], "val": ["day 2/ä"]}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('<mask label="car" rle="1, 2" left="0" top="0" width="2" height="2"/>', "runs of 3 pixels, expected 2x2 = 4"),
        (
            '<mask label="car" rle="1,a" left="0" top="0" width="2" height="2"/>',
            "'rle' is '1,a', expected whole",
        ),
        (
            '<mask label="car" rle="4" left="0" top="0" width="0" height="2"/>',
            "'width' is '0', expected a whole",
        ),
        ('<polygon label="car" points="1,1;2,2"/>', "'points' is [['1', '1'], ['2', '2']], expected 3 or more"),
        ('<polygon points="1,1;2,2;3,3"/>', "'label' is missing, expected text"),
        ('<box label="car" xtl="1" ytl="x" xbr="2" ybr="2"/>', "'ytl' is 'x', expected a number within"),
        ('<ellipse label="car" cx="1" cy="1" rx="1e300" ry="2"/>', "'rx' is '1e300', expected a number within"),
    ],
)
def test_what_is_wrong_in_a_shape_is_named(workshop: Workshop, shape: str, expected: str) -> None:
    workshop.photo("a.jpg")
    path = workshop.text("annotations.xml", xml(shape))
    error = workshop.refused("cvat")
    assert error.startswith(f"{path}, image 'a.jpg', ")
    assert expected in error


def test_video_and_broken_files_are_named(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.text("annotations.xml", '<annotations><track id="0" label="car"/></annotations>')
    assert "holds tracks, as CVAT for video; export as 'CVAT for images 1.1'" in workshop.refused("cvat")
    path = workshop.text("annotations.xml", "<annotations>")
    assert f"{path} cannot be read as XML" in workshop.refused("cvat")
    path.unlink()
    assert "has neither annotations.xml nor labelmap.txt" in workshop.refused("cvat")


def masks(workshop: Workshop, *names: str) -> None:
    colors = {".": (0, 0, 0), "c": (250, 50, 83), "t": (36, 179, 83)}
    rows = ["." * WIDTH] * 2 + ["..cccc" + "." * 10] * 4 + ["." * 8 + "tttt" + "...."] * 6
    workshop.text(
        "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\ntree:36,179,83::\n"
    )
    for name in names:
        workshop.mask(f"SegmentationClass/{name}.png", [[colors[letter] for letter in row] for row in rows])
        workshop.mask(f"SegmentationObject/{name}.png", [[colors[letter] for letter in row] for row in rows])


def test_segmentation_masks_are_colours_of_the_label_map(workshop: Workshop, drawing: Draw) -> None:
    masks(workshop, "day 1/ä")
    workshop.text("ImageSets/Segmentation/default.txt", "day 1/ä\n")
    workshop.photo("JPEGImages/day 1/ä.jpg")
    dataset = workshop.convert("cvat")
    assert dataset.drawn("day 1/ä") == drawing(("c", 2, 2, 6, 6), ("t", 8, 6, 12, 12))
    assert dataset.classes == {"background": (0, 0, 0), "car": (250, 50, 83), "tree": (36, 179, 83)}
    workshop.output = workshop.output.with_name("other")
    dataset = workshop.convert("cvat", "--unlabelled", "void", "--split", "0")
    assert dataset.drawn("day 1/ä") == drawing(("c", 2, 2, 6, 6), ("t", 8, 6, 12, 12), ground="-")
    assert list(dataset.classes) == ["car", "tree"]


def test_segmentation_masks_are_split_by_their_lists(workshop: Workshop) -> None:
    masks(workshop, "a", "b")
    workshop.photo("JPEGImages/a.jpg")
    workshop.photo("JPEGImages/b.jpg")
    workshop.text("ImageSets/Segmentation/Train.txt", "b\n")
    workshop.text("ImageSets/Segmentation/Val.txt", "a\n")
    assert workshop.convert("cvat").splits == {"train": ["b"], "val": ["a"]}


def test_segmentation_masks_take_images_from_elsewhere(workshop: Workshop) -> None:
    masks(workshop, "a")
    error = workshop.refused("cvat")
    assert "a.png has no image a in" in error
    assert "export with 'Save images', or name their folder with --images" in error
    photo = workshop.photo("../photos/a.jpg")
    assert workshop.convert("cvat", "--images", str(photo.parent)).splits == {"train": ["a"]}


def test_a_colour_that_the_label_map_lacks_is_named(workshop: Workshop) -> None:
    masks(workshop, "a")
    workshop.photo("JPEGImages/a.jpg")
    mask = workshop.mask("SegmentationClass/a.png", np.full((HEIGHT, WIDTH, 3), 9))
    assert workshop.refused("cvat").startswith(f"{mask} has colour (9, 9, 9) in 192 of 192 pixels")
