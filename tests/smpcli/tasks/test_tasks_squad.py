"""SQuAD's format: what is read, what is refused, how it is split, and the real file where it is at hand."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from smpcli.errors import UserError
from smpcli.tasks.data import dry_run_sizes, load_data, load_dev
from smpcli.tasks.describe import lines
from smpcli.tasks.squad import Answer, Questions
from smpcli.tasks.task import find_task

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "squad"
CONTEXT = "The film was great, and the script was dull. It was great fun."


def asked(name: str = "q1", answers: Any = ((14, "great")), **changes: Any) -> dict[str, Any]:
    pairs = [answers] if isinstance(answers[0], int) else answers
    return {
        "id": name,
        "question": " What was it? ",
        "answers": [{"answer_start": start, "text": text} for start, text in pairs],
    } | changes


def write(path: Path, *paragraphs: tuple[str, list[dict[str, Any]]]) -> Path:
    content = [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]} for context, qas in paragraphs]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.1", "data": content}), encoding="utf-8")
    return path


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A folder as the original files are laid out, with two answers to one question."""
    write(tmp_path / "squad" / "train-v1.1.json", (CONTEXT, [asked()]), ("Up and down.", [asked("q2", (0, "Up"))]))
    marked = asked("d1", ((13, "great"), (39, "dull")), question="How?")
    write(tmp_path / "squad" / "dev-v1.1.json", (CONTEXT, [marked]))
    return tmp_path


def test_the_original_files(original: Path) -> None:
    for folder in (original, original / "squad"):
        data = load_data(find_task("squad"), folder)
        assert data.train == Questions(
            ["q1", "q2"],
            ["What was it?", "What was it?"],
            [CONTEXT, "Up and down."],
            [[Answer("great", 13)], [Answer("Up", 0)]],
        )
        assert data.dev["dev"].answers == [[Answer("great", 13), Answer("dull", 39)]]  # type: ignore[union-attr]
        assert (data.labels, data.origin) == ([], "folder squad")
        assert dry_run_sizes(find_task("squad"), folder) == (2, 1)


def test_hub_and_folder_give_the_same_rows(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def split(*rows: tuple[str, str, list[str], list[int]]) -> datasets.Dataset:
        return datasets.Dataset.from_list(
            [
                {
                    "id": name,
                    "title": "t",
                    "context": context,
                    "question": "How?" if name == "d1" else " What was it? ",
                    "answers": {"text": texts, "answer_start": starts},
                }
                for name, context, texts, starts in rows
            ]
        )

    hub = datasets.DatasetDict(
        train=split(("q1", CONTEXT, ["great"], [13]), ("q2", "Up and down.", ["Up"], [0])),
        validation=split(("d1", CONTEXT, ["great", "dull"], [13, 39])),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: {("rajpurkar/squad", None): hub}[name, config])
    here, there = load_data(find_task("squad"), original), load_data(find_task("squad"), None)
    assert (there.train, there.dev) == (here.train, here.dev)
    assert there.digest == here.digest
    assert there.origin == "hub rajpurkar/squad"


def test_an_answer_beside_its_place_is_moved_to_the_nearest(tmp_path: Path) -> None:
    assert (CONTEXT.index("great"), CONTEXT.rindex("great")) == (13, 52)
    for stated, found in ((14, 13), (30, 13), (33, 52), (60, 52), (-1, 13), (9999, 52)):
        path = write(
            tmp_path / "a.json", (CONTEXT, [asked(answers=(stated, "great"))]), ("b", [asked("b", (0, "b"))])
        )
        data = load_data(find_task(str(path)), None)
        rows = [row for part in (data.train, data.dev["dev"]) for row in part.canonical([])]
        assert [row[3] for row in rows if row[0] == "q1"] == [[Answer("great", found)]]


def test_a_tenth_of_the_contexts_is_kept_with_all_their_questions(tmp_path: Path) -> None:
    paragraphs = [
        (f"Context number {i} is here.", [asked(f"{i}-{j}", (0, "Context")) for j in range(3)]) for i in range(200)
    ]
    data = load_data(find_task(str(write(tmp_path / "my.json", *paragraphs))), None)
    dev, train = set(data.dev["dev"].contexts), set(data.train.contexts)  # type: ignore[union-attr]
    assert not dev & train and len(dev | train) == 200 and 10 <= len(dev) <= 30
    assert (len(data.train), len(data.dev["dev"])) == (3 * len(train), 3 * len(dev))
    # A context keeps its side when others are added.
    more = [*paragraphs, *((f"New {i}.", [asked(f"n{i}", (0, "New"))]) for i in range(50))]
    again = load_data(find_task(str(write(tmp_path / "more.json", *more))), None)
    assert dev <= set(again.dev["dev"].contexts)  # type: ignore[union-attr]


def test_own_files_with_a_dev_file(tmp_path: Path, original: Path) -> None:
    folder = original / "squad"
    task = find_task(str(folder / "train-v1.1.json"))
    assert (task.kind, task.metrics, task.max_length, task.stride) == ("span", ["f1", "exact_match"], 384, 128)
    assert (task.outputs, task.words) == (["start", "end"], {"start": "Yes", "end": "No"})
    data = load_data(task, None, dev_file=folder / "dev-v1.1.json")
    assert data.digest == load_data(find_task("squad"), original).digest
    with pytest.raises(UserError, match="is the training file too"):
        load_data(task, None, dev_file=folder / "train-v1.1.json")
    with pytest.raises(UserError, match="has its own columns"):
        find_task(str(folder / "train-v1.1.json"), text="question")


def test_questions_that_were_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.json", (CONTEXT, [asked(), asked("q2", (39, "dull"), question="Dull?")]))
    task = find_task(str(train))
    # Other ids, case and spacing.
    same = asked("d", (15, "GREAT"), question="what  was IT?")
    copy = write(tmp_path / "copy.json", (f" {CONTEXT.upper()}", [same]))
    with pytest.raises(UserError, match=r"dev copy\.json: each of the 1 dev examples is trained on, too"):
        load_data(task, None, dev_file=copy)
    # And with what nobody sees: a zero-width space behind the context, one in the question.
    unseen = write(tmp_path / "unseen.json", (f"{CONTEXT}\u200b", [asked("d", question="What\u200b was it?")]))
    with pytest.raises(UserError, match=r"dev unseen\.json: each of the 1 dev examples is trained on, too"):
        load_data(task, None, dev_file=unseen)
    new = ("Up and down.", [asked("d3", (0, "Up"))])
    path = write(tmp_path / "dev.json", (CONTEXT, [asked("d1", question="How?"), asked("d2")]), new)
    data = load_data(task, None, dev_file=path)
    assert data.overlap == {"dev": 2}
    assert lines(task, data) == [
        "train.json: text 'question' + 'context' -> label 'answers', span: 2 questions",
        "dev: 3 questions",
        "2 of 3 dev questions are on contexts that are trained on, too",
    ]


def test_a_task_yaml_over_a_file(tmp_path: Path, original: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (
        "title: T\nkind: span\ntext: question\npair: context\nlabel: answers\nmetrics: [exact_match]\n"
        "max_length: 64\nstride: 16\nsource: {file: squad/train-v1.1.json, dev_file: squad/dev-v1.1.json}\n"
    )
    path.write_text(text)
    assert len(load_data(find_task(str(path)), None).train) == 2
    for old, new, said in (
        ("stride: 16\n", "", "kind span needs stride"),
        ("pair: context\n", "", "needs pair"),
        ("label: answers\n", "label: answers\nlabels: [a, b]\n", "leave out labels"),
        ("[exact_match]", "[accuracy]", "'accuracy' isn't one for span; known: f1, exact_match"),
        ("kind: span", "kind: regression", "kind span needs stride, and no other kind has one"),
        ("stride: 16\n", "stride: 16\nwords: {start: a}\n", "one word for each of ['end', 'start']"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError) as error:
            find_task(str(path))
        assert said in str(error.value)


GOOD = {"paragraphs": [{"context": CONTEXT, "qas": [asked()]}]}


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "my.json, line 1: broken JSON"),
        (
            '{"text": "a"}\n{"text": "b"}',
            "line 2: broken JSON (Extra data); a file of one object a line ends in .jsonl",
        ),
        ([{"text": "a", "label": 1}], "isn't in SQuAD's format"),
        ({"rows": []}, "isn't in SQuAD's format (no 'data')"),
        ({"data": [GOOD, {"title": "t"}]}, "(no 'paragraphs')"),
        ({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [{"id": "a"}]}]}]}, "article 0, paragraph 0 (from 0)"),
        ({"data": []}, "holds no question"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "my.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        find_task(str(path))
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) <= 300


@pytest.mark.parametrize(
    "entry, said",
    [
        (asked(answers=[(0, "superb")]), "question 1 (from 0): its context doesn't hold the answer 'superb'"),
        (asked(answers=[(0, " ")]), "an answer without text"),
        (asked(answers=[("0", "The")]), "answer_start must be a whole number, not '0'"),
        (asked(answers=[(0, 5)]), "an answer without text"),
        (asked() | {"answers": []}, "no answer, and questions without one (SQuAD 2.0)"),
        (asked(question="  "), "no text in 'question'"),
        (asked(question=None), "no text in 'question'"),
        (asked("q0"), "the id 'q0' appears more than once"),
        (asked(""), "no text in 'id'"),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "my.json", (CONTEXT, [asked("q0"), entry]))
    with pytest.raises(UserError) as error:
        load_data(find_task(str(path)), None)
    assert said in str(error.value) and "my.json, question 1 (from 0)" in str(error.value)


def test_a_folder_with_the_dev_set_alone_is_measured_on_and_not_trained_on(original: Path) -> None:
    (original / "squad" / "train-v1.1.json").unlink()
    said = r"has no train-v1\.1\.json but 'dev-v1\.1\.json': .*`smp eval`.*, not trained"
    for call in (load_data, dry_run_sizes):
        with pytest.raises(UserError, match=said):
            call(find_task("squad"), original)
    found = load_dev(find_task("squad"), original)
    assert len(found.dev["dev"]) == 1 and found.digest is None


def test_a_folder_of_other_files_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"{name}.json", (CONTEXT, [asked()]))
    with pytest.raises(
        UserError, match=r"has no train-v1\.1\.json; it holds 'one\.json', 'two.*; --data-dir must name "
    ):
        load_data(find_task("squad"), tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not beside this checkout")
def test_the_real_questions() -> None:
    data = load_data(find_task("squad"), REAL)
    assert data.origin == "folder squad: xquad.en.json, a tenth kept for evaluation"
    assert len(data.train) + len(data.dev["dev"]) == 1190
    assert 60 <= len(data.dev["dev"]) <= 180
    assert data.digest == load_data(find_task(str(REAL / "xquad.en.json")), None).digest
    for part in (data.train, data.dev["dev"]):
        assert isinstance(part, Questions)
        for context, answers in zip(part.contexts, part.answers, strict=True):
            assert all(context[start : start + len(text)] == text for text, start in answers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "broken JSON"),
        ('{"data": NaN}', "NaN is not a number"),
        ('{"data": ' + "9" * 5000 + "}", "broken JSON"),
        ('{"data": "text"}', "isn't in SQuAD's format"),
        ('{"data": [{"paragraphs": [{"context": 3, "qas": [{}]}]}]}', "isn't in SQuAD's format"),
        ('{"data": [{"paragraphs": [{"context": "\\ud800", "qas": []}]}]}', "half a surrogate pair"),
    ],
)
def test_strangers_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_data(find_task(str(tmp_path / "own.json")), None)


def test_a_long_context_with_many_questions_is_refused(tmp_path: Path) -> None:
    qas = [asked(f"q{index}", (0, "a")) for index in range(300)]
    path = write(tmp_path / "own.json", ("a" * 300_000, qas))
    with pytest.raises(UserError, match="split long contexts"):
        load_data(find_task(str(path)), None)
