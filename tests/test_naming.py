"""Class names as people write them down."""

import time

import pytest

from helpers.data.naming import flat, parse

WANTED = (("tabby cat", "cat"), ("dog",), ("Füchsin, rot",))


@pytest.mark.parametrize(
    "given",
    [
        ["tabby cat | cat", "dog", "Füchsin, rot"],
        [["tabby cat", "cat"], ("dog",), " Fu\u0308chsin,  rot "],
        WANTED,
    ],
)
def test_lists_hold_names_or_lists_of_names(given):
    assert parse(given) == WANTED


@pytest.mark.parametrize("given", ["cat, dog | hound,fox", "cat\ndog|hound\n\nfox,\n"])
def test_a_text_has_commas_or_lines_between_classes(given):
    assert parse(given) == (("cat",), ("dog", "hound"), ("fox",))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "# mine\ntabby cat | cat\n\n  dog \nFüchsin, rot"),
        ("NAMES.TXT", "tabby cat|cat|\r\ndog\r\n# no bird\r\nFüchsin, rot\r\n"),
        ("a, b.csv", 'name\ntabby cat | cat\ndog\n"Füchsin, rot"\n'),
        (
            "x.csv",
            "sep=;\nN;Name;Other_names\n1;tabby cat;cat\n2;dog;\n3;Füchsin, rot;\n;;",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_have_a_class_per_line_or_row(tmp_path, file, content, encoding):
    (tmp_path / file).write_bytes(content.encode(encoding))
    assert parse(str(tmp_path / file)) == WANTED
    assert parse(file, tmp_path) == WANTED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "no class names"),
        ([], "no class names"),
        ("cat", "'cat' is one class, .* at least two"),
        ("cat | dog", "between names of one class"),
        (["cat, dog"], "each class as an entry"),
        ("cat, dog, Cat", "as 'cat' and 'Cat' is given twice"),
        ("cat, dog | cat", "'cat' is given twice"),
        ("sea_lion, sea lion", "as 'sea_lion' and 'sea lion'"),
        (["cat", ""], "a class has no name: ''"),
        (["cat", []], "a class has no name"),
        (["cat", 3], r"3 is no text \(put numbers"),
        (["cat", None], "None is no text"),
        (["cat", {"dog": "hound"}], "is no text"),
        (["cat", ["dog", True]], "is no text"),
        (3, "a text or a list, not 3"),
        ("cat, -", "'-' is no text that a prompt could hold"),
        ("cat, d\0g", "is no text that a prompt"),
        ("cat, \udcff", r"'\\udcff' is no text"),
    ],
)
def test_wrong_names_are_refused_with_the_cure(given, message):
    with pytest.raises(ValueError, match=message):
        parse(given)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "n.txt",
            b"cat, dog, fox\n",
            "n.txt: 'cat, dog, fox' is one .* line of its own",
        ),
        ("n.txt", b"# nothing\n\n", "n.txt: no class names"),
        ("n.txt", b"caf\xe9\ndog\n", "n.txt is not UTF-8: save it as UTF-8"),
        ("n.txt", b"cat\ndog\nCAT\n", "n.txt: as 'cat' and 'CAT' is given twice"),
        ("n.csv", b"cat\ndog\n", "n.csv must .* header 'name'; its header is .'cat'"),
        ("n.csv", b"name\ncat\ndog, big\n", "row of name 'dog' has more cells"),
        ("n.csv", b"name\ncaf\xe9\n", "save it as CSV UTF-8"),
        ("n.json", b"[]", r"read from .txt or .csv"),
    ],
)
def test_wrong_files_are_named_with_the_cure(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse(str(tmp_path / file))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.csv: name the file"):
        parse("gone.csv", tmp_path)
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(ValueError, match=r"x\.txt is no file"):
        parse("x.txt", tmp_path)


def test_thirty_thousand_names_take_no_quadratic_time():
    many = [f"creature {i} | animal {i}" for i in range(30_000)]
    start = time.process_time()  # other processes do not count
    classes = parse(many)
    assert time.process_time() - start < 5
    names, owner = flat(classes)
    assert len(names) == 60_000
    assert [names[k] for k in (0, 1, -2)] == [
        "creature 0",
        "animal 0",
        "creature 29999",
    ]
    assert owner[:4].tolist() == [0, 0, 1, 1]
    assert owner[-1] == 29_999
