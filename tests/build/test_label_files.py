"""Class names as other tools write them."""

import json

import pytest
from torchvision.models import ResNet50_Weights

from camserve.build.label_files import label_names, read_class_names
from camserve.errors import ConfigError

CAT_DOG = ["cat", "dog"]
FORMS = {
    "TorchServe": {"0": "cat", "1": "dog"},
    "TorchServe, in another order": {"1": "dog", "0": "cat"},
    "Keras and TorchServe": {"0": ["n01", "cat"], "1": ["n02", "dog"]},
    "an old TorchServe": {"object_type_names": CAT_DOG},
    "a list": CAT_DOG,
    "transformers": {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}},
    "timm": {"architecture": "vit", "label_names": CAT_DOG, "pretrained_cfg": {}},
    "timm, inside": {"architecture": "vit", "pretrained_cfg": {"label_names": CAT_DOG}},
    "ImageFolder": {"cat": 0, "dog": 1},
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_of_every_known_form_is_read(tmp_path, name, mark):
    (tmp_path / "names.json").write_text(mark + json.dumps(FORMS[name]), encoding="utf-8")
    assert read_class_names(str(tmp_path / "names.json")) == CAT_DOG


def test_the_names_of_imagenet_are_those_of_torchvision():
    assert read_class_names("imagenet") == ResNet50_Weights.DEFAULT.meta["categories"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_class_names(str(tmp_path / "names.txt")) == CAT_DOG


def test_eleven_classes_stand_in_the_order_of_their_numbers(tmp_path):
    names = {str(index): f"class {index}" for index in range(11)}
    (tmp_path / "names.json").write_text(json.dumps(names, sort_keys=True))
    assert read_class_names(str(tmp_path / "names.json")) == list(names.values())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("n.json", b"{", "n.json is not JSON"),
        ("n.json", b'"cat"', "names must be a list of names"),
        ("n.json", b'{"1": "cat", "2": "dog"}', "class 0 has no name"),
        ("n.json", b'{"0": {"name": "cat"}}', "that of '0' is"),
        ("n.json", b'["cat", "\\n"]', "class 1 has no name"),
        ("n.json", b'["cat", "dog\\u2028house"]', "the name of class 1 has a line break"),
        ("n.txt", b"caf\xe9", "is not UTF-8"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_class_names(str(tmp_path / file))


def test_the_builder_says_which_names_are_words_or_numbers(tmp_path):
    (tmp_path / "names.txt").write_text("none\n7\ncat\n")
    lines = []
    assert label_names(str(tmp_path / "names.txt"), 3, lines.append) == ["none", "7", "cat"]
    assert lines == [
        "labels: 'none' is also a word of an option: ask for the class as label:none",
        "labels: some names are numbers: a number is a name, and index:N asks by index",
    ]


def test_without_names_classes_have_numbers():
    assert label_names(None, 2, print) == ["class 0", "class 1"]
    assert label_names("index", 2, print) == ["0", "1"]
