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
    with pytest.raises(UnknownClass, match=r"ambiguous: ask for one of index:1, index:2"):
        LABELS.find("crane")


def test_an_unknown_label_is_answered_with_the_nearest():
    with pytest.raises(UnknownClass, match="did you mean 'espresso'"):
        LABELS.find("expresso")


@pytest.mark.parametrize("text", ["6", "-1", "99999999999999999999"])
def test_an_index_outside_is_answered_with_the_range(text):
    with pytest.raises(UnknownClass, match=r"0\.\.5"):
        LABELS.find(text)


NUMBERS = Labels(sorted(map(str, range(1, 13))))  # ImageFolder's order: 1, 10, 11, 12, 2, ...
WORDS = Labels(["none", "scratch", "next", "top:5", "label:x", "index:0"])


@pytest.mark.parametrize(
    ("labels", "text", "index"),
    [
        (NUMBERS, "10", 1),
        (NUMBERS, "2", 4),
        (NUMBERS, " 12 ", 3),
        (NUMBERS, "index:10", 10),
        (NUMBERS, "index: 0", 0),
        (NUMBERS, "label:1", 0),
        (LABELS, "index:5", 5),
        (LABELS, "label:tabby", 3),
        (WORDS, "label:none", 0),
        (WORDS, "label:top:5", 3),
        (WORDS, "label:label:x", 4),
        (WORDS, "label:index:0", 5),
        (WORDS, "index:1", 1),
        (WORDS, "1", 1),
    ],
)
def test_a_name_wins_where_it_is_one_and_a_prefix_says_what_is_meant(labels, text, index):
    assert labels.find(text) == index


def test_among_names_that_are_numbers_a_number_is_never_an_index():
    with pytest.raises(UnknownClass, match="no class is called '0'; index:N asks for a class by its index"):
        NUMBERS.find("0")


@pytest.mark.parametrize("text", ["index:6", "index:-1", "index:", "index:x", "index:99999999999999999999999"])
def test_an_index_that_is_none_is_answered_with_the_range(text):
    with pytest.raises(UnknownClass, match=r"is not in 0\.\.5"):
        LABELS.find(text)


def test_a_label_is_not_an_index_where_it_says_so():
    with pytest.raises(UnknownClass, match="no class is called '5'"):
        LABELS.find("label:5")


def test_a_label_file_has_one_name_a_line(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert load_labels(tmp_path / "labels.txt").find("dog") == 1
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ConfigError, match="class 1 has no name"):
        load_labels(tmp_path / "labels.txt")
