"""The four GLUE tasks beyond the first five: labels, both dev sets of MNLI, QQP's broken rows, dev sets alone."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from smpcli.errors import UserError
from smpcli.tasks.data import dry_run_sizes, load_data, load_dev
from smpcli.tasks.task import find_task

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "glue"

# The columns of the original files (MNLI's parses and single votes left empty).
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tlabel1\tgold_label\n"
)
FILES = {
    "MNLI/train.tsv": MNLI
    + "".join(f"{i}\t1\t1e\tfiction\t(\t(\t(\t(\tA {i}.\tB {i}.\t{label}\t{label}\n" for i, label in enumerate("nec"))
    .replace("\tn\tn", "\tneutral\tneutral")
    .replace("\te\te", "\tentailment\tentailment")
    .replace("\tc\tc", "\tcontradiction\tcontradiction"),
    "MNLI/dev_matched.tsv": MNLI + "0\t1\t1e\tfiction\t(\t(\t(\t(\tC\tD\tneutral\tentailment\n",
    "MNLI/dev_mismatched.tsv": MNLI + "0\t1\t1n\tverbatim\t(\t(\t(\t(\tE\tF\tneutral\tneutral\n" * 2,
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tI.\tentailment\n1\tWhen?\tHere.\tnot_entailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhat?\tIt.\tnot_entailment\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t1\t2\tA?\tB?\t0\n2\t1\t2\tC?\tD?\t1\n"
    "3\t1\t2\tcut off\n4\t1\t2\t\tno first?\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tE?\tF?\t1\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA he.\tA B.\t1\n1\tC it.\tC D.\t0\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tE\tF\t0\n",
}
#: Names of the hub's classes, in the order of their ids there.
HUB = {
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "qqp": ["not_duplicate", "duplicate"],
    "wnli": ["not_entailment", "entailment"],
}
COLUMNS = {
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "wnli": ("sentence1", "sentence2"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_rows_and_labels(folder: Path) -> None:
    def rows(name: str) -> tuple[Any, ...]:
        data = load_data(find_task(name), folder)
        return data.train.texts, data.train.pairs, [data.labels[int(i)] for i in data.train.labels]

    assert rows("mnli") == (
        ["A 0.", "A 1.", "A 2."],
        ["B 0.", "B 1.", "B 2."],
        ["neutral", "entailment", "contradiction"],
    )
    assert rows("qnli") == (["Who?", "When?"], ["I.", "Here."], ["entailment", "not_entailment"])
    assert rows("wnli") == (["A he.", "C it."], ["A B.", "C D."], ["entailment", "not_entailment"])
    # Rows that lack a column or a text are left out, as they are on the hub.
    assert rows("qqp") == (["A?", "C?"], ["B?", "D?"], ["not_duplicate", "duplicate"])


@pytest.mark.parametrize("name", HUB)
def test_the_hub_gives_the_same(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load_data(find_task(name), folder)
    first, second = COLUMNS[name]
    text, label = datasets.Value("string"), datasets.ClassLabel(names=HUB[name])
    features = datasets.Features({first: text, second: text, "label": label})

    def split(rows: Any) -> datasets.Dataset:
        columns = {first: rows.texts, second: rows.pairs, "label": [here.labels[i] for i in rows.labels]}
        return datasets.Dataset.from_dict(columns, features=features)

    names = {"dev": "validation", "matched": "validation_matched", "mismatched": "validation_mismatched"}
    hub = datasets.DatasetDict(train=split(here.train), **{names[key]: split(rows) for key, rows in here.dev.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: {("nyu-mll/glue", name): hub}[args])
    assert load_data(find_task(name), None).digest == here.digest


def test_mnli_has_two_dev_sets_under_their_own_names(folder: Path) -> None:
    task = find_task("mnli")
    assert {name: len(rows) for name, rows in load_data(task, folder).dev.items()} == {"matched": 1, "mismatched": 2}
    assert (task.metric, find_task("qqp").metric) == ("accuracy_matched", "accuracy")
    assert dry_run_sizes(task, folder) == (3, 3)


def test_dev_sets_alone_are_measured_on_and_not_trained_on(folder: Path) -> None:
    whole = load_dev(find_task("mnli"), folder)
    assert whole.digest == load_data(find_task("mnli"), folder).digest
    (folder / "MNLI" / "train.tsv").unlink()
    (folder / "MNLI" / "dev_mismatched.tsv").unlink()
    calls: list[Callable[..., object]] = [load_data, dry_run_sizes]
    for call in calls:
        with pytest.raises(UserError) as error:
            call(find_task("mnli"), folder)
        assert "MNLI has no train.tsv but 'dev_matched.tsv'" in str(error.value)
        assert "(`smp eval`), not trained" in str(error.value) and "to use the hub" in str(error.value)
    alone = load_dev(find_task("mnli"), folder)
    assert (alone.dev["matched"].texts, {*alone.dev}, alone.digest) == (["C"], {"matched"}, None)
    # Each dev set has a digest of its own, by which it is known again.
    assert alone.digests == {"matched": whole.digests["matched"]}
    assert whole.digests["matched"] != whole.digests["mismatched"]
    (folder / "MNLI" / "dev_matched.tsv").unlink()
    for call in (load_data, load_dev):
        with pytest.raises(UserError, match=r"MNLI has no train\.tsv; it holds nothing; --data-dir must name"):
            call(find_task("mnli"), folder)


def test_a_dev_set_that_is_missing_beside_the_training_rows_is_refused(folder: Path) -> None:
    (folder / "MNLI" / "dev_mismatched.tsv").unlink()
    for call in (load_data, load_dev):
        with pytest.raises(UserError, match=r"MNLI has no dev_mismatched\.tsv"):
            call(find_task("mnli"), folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not beside this checkout")
def test_the_real_files() -> None:
    wnli = load_data(find_task("wnli"), REAL)
    assert (len(wnli.train), len(wnli.dev["dev"])) == (635, 71)
    assert (find_task("wnli").train_rows, find_task("wnli").dev_rows) == (635, 71)
    # 56 % are the majority class.
    assert Counter(wnli.dev["dev"].labels)[0] == 40
    for name, split, rows in (("qnli", "dev", 5463), ("mnli", "matched", 9815)):
        with pytest.raises(UserError, match=r"has no train\.tsv but"):
            load_data(find_task(name), REAL)
        found = load_dev(find_task(name), REAL)
        assert {key: len(part) for key, part in found.dev.items()} == {split: rows}
        assert len(set(found.dev[split].labels)) == len(found.labels)
