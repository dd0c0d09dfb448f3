"""Folders of GLUE's original files: quirks, what is missing or wrong, and the real ones where they are at hand."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smpcli.errors import UserError
from smpcli.tasks.data import dry_run_sizes, load_data
from smpcli.tasks.task import find_task

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "glue"


def test_every_quirk_of_the_files(glue: Path) -> None:
    def rows(name: str) -> tuple[Any, ...]:
        train = load_data(find_task(name), glue).train
        return train.texts, train.pairs, train.labels

    assert rows("sst2") == (['a "fine film', "dull", "so so"], None, [1, 0, 0])
    assert rows("rte") == (["A b.", "C."], ["B.", "D."], [0, 1])
    assert rows("mrpc") == (['He said " no .', "Up ."], ['"No," he said .', "Down ."], [1, 0])
    assert rows("cola") == (["It rains.", "Rains it it."], None, [1, 0])
    assert rows("stsb") == (["A", "C"], ["B", "D"], [5.0, 3.8])
    data = load_data(find_task("cola"), glue)
    assert (data.labels, data.origin) == (["unacceptable", "acceptable"], "folder CoLA")
    assert data.dev["dev"].texts == ["Went the."]


def test_the_folder_comes_from_the_environment_too(glue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMP_DATA_DIR", str(glue))
    assert len(load_data(find_task("sst2"), None).train) == 3
    assert dry_run_sizes(find_task("sst2"), None) == (3, 1)


def test_the_digest_sees_every_change_and_nothing_else(glue: Path) -> None:
    def digest(file: str, old: str, new: str) -> str:
        copy = glue.parent / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(glue, copy)
        path = copy / "SST-2" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return load_data(find_task("sst2"), copy).digest

    same = digest("train.tsv", "dull", "dull")
    assert len(same) == 64 and same == load_data(find_task("sst2"), glue).digest
    changed = [
        digest("train.tsv", "dull", "Dull"),
        digest("train.tsv", "dull\t0", "dull\t1"),
        digest("train.tsv", "dull\t0\nso so\t0", "so so\t0\ndull\t0"),
        digest("dev.tsv", "lovely", "lovely!"),
        digest("dev.tsv", "lovely\t1", "lovely\t0"),
    ]
    assert len({same, *changed}) == 6


@pytest.mark.parametrize(
    "task, file, content, said",
    [
        ("sst2", "SST-2/train.tsv", None, "has no train.tsv"),
        ("sst2", "SST-2/dev.tsv", None, "it holds 'train.tsv'"),
        ("sst2", "SST-2/train.tsv", "", "is empty"),
        (
            "sst2",
            "SST-2/train.tsv",
            "sentence\nx\n",
            "SST-2/train.tsv has no column 'label'; its columns: 'sentence'",
        ),
        ("sst2", "SST-2/train.tsv", "sentence\tlabel\nx\t1\ny\t2\n", "SST-2/train.tsv, line 3: unknown label '2'"),
        ("sst2", "SST-2/dev.tsv", "sentence\tlabel\nx\t-1\n", "line 2: unknown label '-1' (-1 marks rows without"),
        (
            "sst2",
            "SST-2/train.tsv",
            "sentence\tlabel\nx\t1\ny\t1\n",
            "every row to train on has the label 'positive'",
        ),
        ("sst2", "SST-2/train.tsv", "sentence\tlabel\nx\t1\ny 1\n", "line 3: 1 column found, 2 expected"),
        ("sst2", "SST-2/dev.tsv", "sentence\tlabel\n \t1\n", "SST-2/dev.tsv, line 2: no text in 'sentence'"),
        (
            "rte",
            "RTE/train.tsv",
            "sentence1\tsentence2\tlabel\nx\ty\tentails\n",
            "known: 'entailment', 'not_entailment'",
        ),
        ("cola", "CoLA/train.tsv", "source\tlabel\tstar\tsentence\nx\t1\t\ty\n", "line 1: unknown label 'label'"),
        (
            "stsb",
            "STS-B/train.tsv",
            "sentence1\tsentence2\tscore\na\tb\t1\nx\ty\t5.2\n",
            "line 3: the label 5.2 lies outside 0 to 5",
        ),
        (
            "stsb",
            "STS-B/train.tsv",
            "sentence1\tsentence2\tscore\nx\ty\tnan\n",
            "line 2: the label 'nan' is not a finite number",
        ),
    ],
)
def test_bad_files_are_named(glue: Path, task: str, file: str, content: str | None, said: str) -> None:
    path = glue / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    for call in (load_data, dry_run_sizes):
        with pytest.raises(UserError) as error:
            call(find_task(task), glue)
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_a_class_without_a_row_to_train_on(tmp_path: Path, glue: Path) -> None:
    path = tmp_path / "three.yaml"
    path.write_text(
        "title: T\nkind: classification\ntext: sentence\nlabel: label\nlabels: ['0', '1', '2']\nmetrics: [accuracy]\n"
        "source: {folder: SST-2}\n"
    )
    with pytest.raises(UserError, match="no row to train on has the label '2'"):
        load_data(find_task(str(path)), glue)


def test_folders_that_are_not_it(glue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = find_task("sst2")
    with pytest.raises(
        UserError, match=r"there is no folder .*none; --data-dir must name a folder that holds SST-2/train\.tsv"
    ):
        load_data(task, tmp_path / "none")
    with pytest.raises(UserError, match="is a file; --data-dir must"):
        load_data(task, glue / "RTE" / "dev.tsv")
    with pytest.raises(UserError, match=r"holds 'dev\.tsv', 'train\.tsv'; .*the folder above, .*glue\?"):
        load_data(task, glue / "SST-2")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SMP_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"has no sub-folder SST-2; it holds nothing; SMP_DATA_DIR must name "):
        load_data(task, None)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not beside this checkout")
@pytest.mark.parametrize(
    "name, sizes, train",
    [
        ("sst2", (67349, 872), {0: 29780, 1: 37569}),
        ("rte", (2490, 277), None),
        ("mrpc", (3668, 408), {0: 1194, 1: 2474}),
        ("cola", (8551, 1043), {0: 2528, 1: 6023}),
        ("stsb", (5749, 1500), None),
    ],
)
def test_the_real_files(name: str, sizes: tuple[int, int], train: dict[float, int] | None) -> None:
    task = find_task(name)
    data = load_data(task, REAL)
    assert (len(data.train), len(data.dev["dev"])) == sizes == (task.train_rows, task.dev_rows)
    # As counted with awk on the columns in lower case, white space folded.
    assert data.overlap == {"dev": {"cola": 16, "stsb": 6}.get(name, 0)}
    if train:
        assert Counter(data.train.labels) == train
    if name == "stsb":
        assert (min(data.train.labels), max(data.train.labels)) == (0.0, 5.0)
    if name == "mrpc":
        assert data.train.texts[0].endswith('" the witness " , of deliberately distorting his evidence .')
