"""Labels that look alike, labels that stand for none, and what a run says that it took them for."""

import json
from pathlib import Path
from typing import Any

import pytest

from smpcli.errors import UserError, visible
from smpcli.tasks.data import TaskData, load_data, load_dev
from smpcli.tasks.describe import describe, lines
from smpcli.tasks.task import find_task


def write(folder: Path, labels: list[Any], name: str = "my.jsonl", first: int = 0) -> Path:
    """A file of one row a label, with texts "text 0", "text 1", … from `first` on."""
    path = folder / name
    rows = [{"text": f"text {first + i}", "label": label} for i, label in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        table = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]
        path.write_text("\n".join(table) + "\n", encoding="utf-8")
    return path


def load(path: Path, dev: Path | None = None) -> TaskData:
    return load_data(find_task(str(path)), None, dev_file=dev)


@pytest.mark.parametrize(
    "one, other, said",
    [
        ("pos", "pos\u200b", r"labels 'pos' and 'pos\u200b' differ in invisible characters only"),
        ("pos", "po\u00ads", r"'pos' and 'po\xads' differ in invisible characters only"),
        ("pos", "\ufeffpos", r"'pos' and '\ufeffpos' differ in invisible characters only"),
        ("pos", "\u200epos\u2069", r"'pos' and '\u200epos\u2069' differ in invisible characters only"),
        ("pos", "p\x07os", r"'pos' and 'p\x07os' differ in invisible characters only"),
        ("\u2764", "\u2764\ufe0f", "'\u2764' and '\u2764\\ufe0f' differ in invisible characters only"),
        ("so\u3164", "so", r"'so\u3164' and 'so' differ in invisible characters only"),
        ("caf\u00e9", "cafe\u0301", r"'caf\xe9' and 'cafe\u0301' differ in Unicode form only"),
        ("\ufb01ne", "fine", r"'\ufb01ne' and 'fine' differ in Unicode form only"),
        ("so so", "so  so", r"'so so' and 'so\x20\x20so' differ in white space only"),
        ("so so", "so\u00a0so", r"'so so' and 'so\xa0so' differ in white space only"),
        ("so so", "so\tso", r"'so so' and 'so\tso' differ in white space only"),
        ("Stra\u00dfe", "STRASSE", "differ in case only"),
        ("semi-good", "semi\u2010good", "differ in the kind of dash only"),
        ("-2", "\u22122", "differ in the kind of dash only"),
        ("pos", "\uff30os\u200b", r"'pos' and 'Ｐos\u200b' look alike"),
        ("1", "1.", "'1' and '1.' are the same number"),
        ("1", "01", "'1' and '01' are the same number"),
        ("+1", "1", "'+1' and '1' are the same number"),
        ("1e0", "1", "'1e0' and '1' are the same number"),
        ("0", "-0", "'0' and '-0' are the same number"),
        ("1", "\u0661", "'1' and '\u0661' are the same number"),
        ("-2", "-02.0", "'-2' and '-02' are the same number"),
        (True, 1, "'true' and '1' are the same number"),
        (0, False, "'0' and 'false' are the same number"),
    ],
)
def test_twins_are_refused(tmp_path: Path, one: Any, other: Any, said: str) -> None:
    path = write(tmp_path, [one, other, "third"] * 5)
    with pytest.raises(UserError) as error:
        load(path)
    assert said in str(error.value)
    assert str(error.value).endswith("; write them alike")
    # In a dev file the same spelling is no label of the task, and the message names the one that is.
    train = write(tmp_path, [one, "third", "fourth"] * 5, "train.jsonl")
    dev = write(tmp_path, [other], "dev.jsonl", first=50)
    with pytest.raises(UserError, match=r"dev\.jsonl, line 1: the label .* and ") as error:
        load(train, dev)
    assert said.rpartition("' ")[2] in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [
        # Beyond 2^53 floats of neighbours are equal.
        ["9007199254740992", "9007199254740993", "9007199254740994"],
        ["1_0", "10", "x"],
        ["a", "á", "b"],
        ["1.5", "x", "1.50001"],
        ["c++", "c", "c#"],
    ],
)
def test_labels_that_differ_are_classes(tmp_path: Path, labels: list[str]) -> None:
    assert set(load(write(tmp_path, labels * 5)).labels) == set(labels)


def test_one_label_in_several_types_is_one(tmp_path: Path) -> None:
    assert load(write(tmp_path, [1, 1.0, "1", " 1 ", "1.00", 0, "0"] * 3)).labels == ["0", "1"]
    assert load(write(tmp_path, [True, "true", "false", False] * 3)).labels == ["false", "true"]


def test_twins_among_many_whole_numbers_do_not_make_a_regression(tmp_path: Path) -> None:
    counted = [str(i) for i in range(30)]
    with pytest.raises(UserError, match="'7' and '07' are the same number"):
        load(write(tmp_path, [*counted * 3, "07"]))


@pytest.mark.parametrize(
    "labels, classes, left_out",
    [
        ([-1, 0, 1], ["0", "1"], {"-1": 5}),
        (["-1.0", "0", "2"], ["0", "2"], {"-1": 5}),
        ([-1, "no", "yes"], ["no", "yes"], {"-1": 5}),
        (["-", "no", "yes"], ["no", "yes"], {"-": 5}),
        (["-", -1, 0, 1, 2], ["0", "1", "2"], {"-": 5, "-1": 5}),
        # Two codes, a scale, signs: there they are labels.
        ([-1, 1], ["-1", "1"], {}),
        ([-1, 0], ["-1", "0"], {}),
        ([-2, -1, 0, 1, 2], ["-2", "-1", "0", "1", "2"], {}),
        (["-", "+"], ["+", "-"], {}),
        (["-", "+", "mixed"], ["+", "-", "mixed"], {}),
        (["-", "yes"], ["-", "yes"], {}),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "tsv"])
def test_rows_without_a_label_are_left_out_and_counted(
    tmp_path: Path, labels: list[Any], classes: list[str], left_out: dict[str, int], suffix: str
) -> None:
    data = load(write(tmp_path, labels * 5, f"my.{suffix}"))
    assert data.labels == classes
    assert data.left_out == left_out
    assert len(data.train) + len(data.dev["dev"]) == 5 * len(classes)


def test_a_dev_file_has_rows_without_a_label_too(tmp_path: Path) -> None:
    train = write(tmp_path, [0, 1] * 5, "train.jsonl")
    data = load(train, write(tmp_path, [1, -1, "-", 0], "dev.jsonl", first=50))
    assert (data.dev["dev"].texts, data.dev["dev"].labels) == (["text 50", "text 53"], [1, 0])  # type: ignore[union-attr]
    assert data.left_out == {"-1": 1, "-": 1}
    with pytest.raises(UserError, match=r"test\.jsonl: no row has a label: '-1' means no label"):
        load(train, write(tmp_path, [-1, -1], "test.jsonl", first=50))
    coded = write(tmp_path, [-1, 1] * 5, "coded.jsonl")
    assert load(coded, write(tmp_path, [-1], "dev.jsonl", first=50)).dev["dev"].labels == [0]  # type: ignore[union-attr]


def test_minus_one_in_a_regression(tmp_path: Path) -> None:
    scale = write(tmp_path, [-1, *(i * 3 for i in range(40))] * 2, "scale.jsonl")
    assert load(scale).left_out == {"-1": 2}
    assert "kind: regression" in "".join(lines(find_task(str(scale)), load(scale)))
    fractions = load(write(tmp_path, [-1, 0, 0.5, 1, "-"] * 4, "fractions.jsonl"))
    assert fractions.left_out == {"-": 4}
    assert -1.0 in {*fractions.train.labels, *fractions.dev["dev"].labels}  # type: ignore[union-attr]


def test_a_task_file_decides_which_labels_stand_for_none(tmp_path: Path) -> None:
    write(tmp_path, ["-1", "0", "1", "?"] * 5, "d.jsonl")
    text = "title: T\nkind: classification\ntext: text\nlabel: label\nmetrics: [accuracy]\nsource: {file: d.jsonl}\n"
    path = tmp_path / "t.yaml"
    for more, labels, left_out in (
        ('labels: ["-1", "0", "1", "?"]\n', ["-1", "0", "1", "?"], {}),
        ('unlabelled: ["?"]\n', ["-1", "0", "1"], {"?": 5}),
        ('labels: ["0", "1"]\nunlabelled: ["?", "-1"]\n', ["0", "1"], {"?": 5, "-1": 5}),
    ):
        path.write_text(text + more)
        data = load(path)
        assert (data.labels, data.left_out) == (labels, left_out)
    write(tmp_path, ["-1", "0", "1"] * 5, "d.jsonl")
    path.write_text(text)
    assert (load(path).labels, load(path).left_out) == (["0", "1"], {"-1": 5})
    path.write_text(text + 'labels: ["0", "1"]\nunlabelled: ["0"]\n')
    with pytest.raises(UserError, match="unlabelled: '0' is a label"):
        find_task(str(path))


@pytest.mark.parametrize("gap", ["nan", "NaN", "null", "NULL", "<NA>", "#N/A"])
def test_missing_values_are_no_class(tmp_path: Path, gap: str) -> None:
    with pytest.raises(UserError, match=r"my\.jsonl, line 2: the label '.*' in 'label' is how missing values"):
        load(write(tmp_path, ["pos", gap, "neg"] * 3))


@pytest.mark.parametrize("gap", ["NA", "n/a", "None", "?"])
def test_what_may_be_a_class_among_words_is_a_missing_number(tmp_path: Path, gap: str) -> None:
    assert load(write(tmp_path, ["EU", gap, "US"] * 5)).labels == sorted(["EU", gap, "US"])
    for numbers in (["0", "1"], ["0.5", "1.5"]):
        with pytest.raises(UserError, match=r"line 3: the label '.*' in 'label' is how missing values"):
            load(write(tmp_path, [*numbers, gap] * 3))


def test_a_label_of_invisible_characters_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: no label in 'label' but invisible characters \('\\u200b'\)"):
        load(write(tmp_path, ["a", "\u200b", "b"] * 3))


def test_visible() -> None:
    assert visible("plain ü 漢 👍") == "plain ü 漢 👍"
    assert visible("a\u200b\u00a0\n") == r"a\u200b\xa0\n"
    assert visible(" a  b ") == r"\x20a\x20\x20b\x20"
    assert visible("x" * 70) == "x" * 59 + "…"


# --- columns


@pytest.mark.parametrize(
    "header, said",
    [
        ("text,Text,label", "'text', 'Text', which differ in case only; name the one to take with --set text_"),
        ("text,text\u200b,label", r"'text', 'text\u200b', which differ in invisible characters only"),
        ("text,label,LABEL", "differ in case only; name the one to take with --set label_column="),
        ("premise,hypothesis,Hypothesis,label", "--set pair_column="),
        ("review,\uff32eview,label", "'review', 'Ｒeview', which look alike"),
    ],
)
def test_a_column_with_a_twin_is_not_guessed(tmp_path: Path, header: str, said: str) -> None:
    path = tmp_path / "my.csv"
    width = header.count(",") + 1
    rows = [",".join(f"{'ab'[row % 2]}{column}" for column in range(width)) for row in range(8)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        find_task(str(path))
    assert said in str(error.value)


def test_a_column_that_is_named_may_have_a_twin_and_so_may_one_that_is_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,Text,label,id,ID\n" + "".join(f"a{i},b{i},{i % 2},x,y\n" for i in range(9)))
    assert find_task(str(path), text="Text").text == "Text"
    path.write_text("\ufeffTe\u00adxt,label,id,ID\n" + "".join(f"a{i},{i % 2},x,y\n" for i in range(9)), "utf-8")
    task = find_task(str(path))
    assert task.text == "Te\u00adxt"
    assert r"text 'Te\xadxt' -> label 'label'" in lines(task, load(path))[0]


# --- dev rows that were trained on


def test_a_dev_file_that_holds_the_training_texts_is_refused(tmp_path: Path) -> None:
    train = tmp_path / "train.csv"
    train.write_text("text,label\nA fine film,1\nso dull,0\nso so,0\n")
    copy = tmp_path / "copy.tsv"
    # Another name, format, order, spacing and case; other labels; fewer rows.
    for rows in ("so  DULL\t0\na fine FILM\t1\nSo so\t0\n", "so dull\t1\n"):
        copy.write_text("text\tlabel\n" + rows)
        with pytest.raises(UserError, match=r"train\.csv, dev copy\.tsv: each of the \d dev examples is trained on"):
            load(train, copy)
    # A run that was made so before can still be opened.
    assert load_dev(find_task(str(train)), None, dev_file=copy).overlap == {"dev": 1}
    copy.write_text("text\tlabel\nso  DULL\t0\nSo so\t1\nnew\t1\n")
    data = load(train, copy)
    assert data.overlap == {"dev": 2}
    assert lines(find_task(str(train)), data)[-1] == "2 of 3 dev texts are trained on, too"


def test_a_text_with_what_nobody_sees_is_the_same_text(tmp_path: Path) -> None:
    texts = ["a caf\u00e9 film", "so good", "dull \u2013 very"]
    train = tmp_path / "train.csv"
    train.write_text("text,label\n" + "".join(f"{text},{n % 2}\n" for n, text in enumerate([*texts, "bad"])))
    dev = tmp_path / "dev.csv"
    dev.write_text("text,label\na cafe\u0301 film,0\nso\u200b good,1\ndull - very,0\nnew,1\n", encoding="utf-8")
    assert load(train, dev).overlap == {"dev": 3}


def test_pairs_overlap_as_pairs(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("premise,hypothesis,label\na,b,1\nc,d,0\n")
    dev.write_text("premise,hypothesis,label\na,d,1\nC,D,0\nb,a,1\n")
    assert load(train, dev).overlap == {"dev": 1}


def test_overlap_in_a_built_in_task(glue: Path) -> None:
    assert load_data(find_task("sst2"), glue).overlap == {"dev": 0}
    dev = glue / "SST-2" / "dev.tsv"
    dev.write_text("sentence\tlabel\nlovely\t1\nDULL \t0\n")
    data = load_data(find_task("sst2"), glue)
    assert data.overlap == {"dev": 1}
    dev.write_text("sentence\tlabel\nDULL \t0\n")
    with pytest.raises(UserError, match=r"folder SST-2: each of the 1 dev examples is trained on, too"):
        load_data(find_task("sst2"), glue)


def test_a_held_out_tenth_overlaps_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\n" + "".join(f"text {i % 60},{i % 2}\n" for i in range(300)))
    assert load(path).overlap == {"dev": 0}


# --- what is said


def test_what_was_taken_is_said_and_recorded(tmp_path: Path) -> None:
    train, dev = tmp_path / "reviews.csv", tmp_path / "held.csv"
    numbers = [1] * 1200 + [2] * 80 + [3] * 7 + [4] * 6 + [5] * 5 + [6] * 4 + [7] * 3 + [8] * 2 + [-1] * 9
    train.write_text("id,Review,stars\n" + "".join(f"{i},text {i},{n}\n" for i, n in enumerate(numbers)))
    dev.write_text("Review,stars\nnew,2\nother,2\nthird,1\n")
    task = find_task(str(train))
    data = load(train, dev)
    assert lines(task, data) == [
        "reviews.csv: text 'Review' -> label 'stars', 8 classes: "
        "1 (1,200), 2 (80), 3 (7), 4 (6), 5 (5), 6 (4), 2 others (5)",
        "dev: 2 (2), 1 (1)",
        "left out: 9 of 1,319 rows, as their label '-1' means no label; if it is one, write a task file with all "
        "labels (docs/tasks.md)",
    ]
    assert describe(task, data) == {
        "columns": {"text": "Review", "pair": None, "label": "stars"},
        "kind": "classification",
        "labels": {
            "train": {"1": 1200, "2": 80, "3": 7, "4": 6, "5": 5, "6": 4, "7": 3, "8": 2},
            "dev": {"dev": {"1": 1, "2": 2} | {str(i): 0 for i in range(3, 9)}},
        },
        "left_out": {"-1": 9},
        "overlap": {"dev": 0},
    }


def test_numbers_and_pairs_are_said_and_recorded(glue: Path) -> None:
    task = find_task("stsb")
    data = load_data(task, glue)
    assert lines(task, data) == [
        "stsb: text 'sentence1' + 'sentence2' -> label 'label', regression: 2 numbers from 3.8 to 5",
        "dev: 1 numbers from 0 to 0",
    ]
    described = describe(task, data)
    assert described["range"] == {"train": (3.8, 5.0), "dev": {"dev": (0.0, 0.0)}}
    assert "labels" not in described
