"""Labelled photos as people keep them, and what is said where they are not so."""

import json

import pytest
from PIL import Image

from camserve.errors import ConfigError
from camserve.evaluate.masks import ObjectMask
from camserve.evaluate.photos import LabelledPhoto, read_photos
from camserve.labels import Labels

LABELS = Labels(["cat", "dog", "red fox, fox"])


def save(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)


def read(data, lines=None):
    return read_photos(data, LABELS, (lines if lines is not None else []).append)


def test_a_folder_has_one_sub_folder_a_class(tmp_path):
    save(
        tmp_path / "dog" / "b.jpg", tmp_path / "cat" / "a.png", tmp_path / "fox" / "deep" / "c.jpg", tmp_path / "x.jpg"
    )
    (tmp_path / "cat" / "notes.txt").write_text("no photo")
    (tmp_path / "cat" / "folder.jpg").mkdir()
    assert read(tmp_path) == [
        LabelledPhoto(tmp_path / "cat" / "a.png", 0),
        LabelledPhoto(tmp_path / "dog" / "b.jpg", 1),
        LabelledPhoto(tmp_path / "fox" / "deep" / "c.jpg", 2),
    ]


def test_a_csv_has_a_line_for_each_box(tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "sub" / "b.jpg")
    (tmp_path / "boxes.csv").write_text(
        "path,label,x0,y0,x1,y1\na.jpg,dog,1,2,3,4\na.jpg,dog,5,6,7,8.5\na.jpg,cat,0,0,9,9\nsub/b.jpg,index:2,,,,\n"
    )
    assert read(tmp_path / "boxes.csv") == [
        LabelledPhoto(tmp_path / "a.jpg", 0, ((0, 0, 9, 9),)),
        LabelledPhoto(tmp_path / "a.jpg", 1, ((1, 2, 3, 4), (5, 6, 7, 8.5))),
        LabelledPhoto(tmp_path / "sub" / "b.jpg", 2),
    ]


def test_coco_boxes_are_corner_and_size_and_foreign_classes_are_counted(tmp_path):
    save(tmp_path / "images" / "a.jpg")
    content = {
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "kite"}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"image_id": 1, "category_id": 8, "bbox": [0, 0, 1, 1]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    lines = []
    assert read(tmp_path / "instances.json", lines) == [
        LabelledPhoto(tmp_path / "images" / "a.jpg", 1, ((1, 2, 11, 22),))
    ]
    assert lines == ["1 of 2 objects are of 1 classes that the model does not have: left out"]


def test_masks_come_with_coco_voc_and_a_csv(tmp_path):
    save(
        tmp_path / "a.jpg",
        tmp_path / "m.png",
        tmp_path / "JPEGImages" / "a.jpg",
        tmp_path / "SegmentationObject" / "a.png",
    )
    content = {
        "categories": [{"id": 7, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 11, 22]]},
            {"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "segmentation": {"counts": [3, 4]}},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (photo,) = read(tmp_path / "instances.json")
    assert photo.masks == (ObjectMask(polygons=((1, 2, 11, 2, 11, 22),)), ObjectMask(runs=(3, 4)))
    (tmp_path / "masks.csv").write_text("path,label,mask\na.jpg,dog,m.png\na.jpg,cat,\n")
    (cat, dog) = read(tmp_path / "masks.csv")
    assert (cat.masks, dog.masks) == ((), (ObjectMask(file=tmp_path / "m.png"),))
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>3</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
        for name in ("kite", "cat")
    )
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{things}</annotation>")
    (photo,) = read(tmp_path)
    assert photo.masks == (ObjectMask(file=tmp_path / "SegmentationObject" / "a.png", value=2),)
    (tmp_path / "masks.csv").write_text("path,label,mask\na.jpg,dog,none.png\n")
    with pytest.raises(ConfigError, match=r"the mask none\.png is not there"):
        read(tmp_path / "masks.csv")


def test_names_of_coco_may_be_numbers(tmp_path):
    save(tmp_path / "a.jpg")
    content = {
        "categories": [{"id": 7, "name": 1}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert read(tmp_path / "instances.json") == [LabelledPhoto(tmp_path / "a.jpg", 1, ((1, 2, 11, 22),))]


def test_pixels_of_voc_count_from_one(tmp_path):
    save(tmp_path / "JPEGImages" / "a.jpg")
    box = "<bndbox><xmin>3</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>a.jpg</filename><object><name>cat</name>{box}</object></annotation>"
    )
    assert read(tmp_path) == [LabelledPhoto(tmp_path / "JPEGImages" / "a.jpg", 0, ((2, 0, 10, 20),))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,label\na.jpg,cat\n", r"must have the columns path and label"),
        ("a.csv", "path,label\na.jpg,cat\nb.jpg\n", r"row 2 below the header lacks its path or its label"),
        ("a.csv", f"path,label\n{'a' * 200_000},cat\n", r"cannot be read: Error: field larger than field limit"),
        ("a.csv", "path,label\na.jpg,bird\n", r"'a\.jpg': no class is called 'bird'"),
        ("a.csv", "path,label\na.jpg,cat\n", r"names .*a\.jpg, which is not there: paths are relative"),
        ("a.csv", "path,label,x0,y0,x1,y1\na.jpg,cat,1,2,3,\n", r"cannot be read: ValueError"),
        ("a.csv", "path,label,x0,y0,x1,y1\na.jpg,cat,5,2,3,9\n", r"'a\.jpg': the box 5, 2, 3, 9 has no inside"),
        ("a.json", "{}", r"cannot be read: KeyError"),
        ("a.json", "[", r"cannot be read: JSONDecodeError"),
        ("a.txt", "cat", r"is not there, or none of these"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as refusal:
        read(tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (["x"], "ValueError: its annotations are no list of objects"),
        ({"segmentation": {"counts": "92`"}}, "ValueError: compressed run lengths end in the middle of a number"),
        ({"segmentation": [[1, 2, 11, 2, 11]]}, "ValueError: a polygon of 5 numbers is no list of x, y"),
        ({"segmentation": {"counts": [1e999]}}, "OverflowError: cannot convert float infinity to integer"),
    ],
)
def test_annotations_of_coco_that_are_none_are_said_with_advice(tmp_path, annotations, message):
    content = {
        "categories": [{"id": 7, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": annotations,
    }
    if isinstance(annotations, dict):
        content["annotations"] = [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], **annotations}]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"instances.json cannot be read: {message}; give a folder"):
        read(tmp_path / "instances.json")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no labelled photos of the model's classes"):
        read(tmp_path)
