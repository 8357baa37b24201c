import pytest

from camserve.errors import ConfigError, UnknownClass
from camserve.labels import Labels, load_labels

LABELS = Labels(["tench, Tinca tinca", "crane", "crane", "Tabby", "0x1", "espresso"])


@pytest.mark.parametrize(
    ("text", "index"),
    [("0", 0), ("5", 5), ("Tabby", 3), ("tabby", 3), ("TINCA TINCA", 0), ("tench", 0), ("tench, Tinca tinca", 0)],
)
def test_a_class_is_found_by_index_label_any_case_or_synonym(text, index):
    assert LABELS.find(text) == index


def test_an_ambiguous_label_is_answered_with_its_indices():
    with pytest.raises(UnknownClass, match=r"ambiguous.*\[1, 2\]"):
        LABELS.find("crane")


def test_an_unknown_label_is_answered_with_the_nearest():
    with pytest.raises(UnknownClass, match="did you mean 'espresso'"):
        LABELS.find("expresso")


@pytest.mark.parametrize("text", ["6", "-1", "99999999999999999999"])
def test_an_index_outside_is_answered_with_the_range(text):
    with pytest.raises(UnknownClass, match=r"0\.\.5"):
        LABELS.find(text)


def test_a_label_file_has_one_name_a_line(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert load_labels(tmp_path / "labels.txt").find("dog") == 1
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ConfigError, match="class 1 has no name"):
        load_labels(tmp_path / "labels.txt")
