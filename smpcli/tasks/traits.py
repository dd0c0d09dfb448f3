"""What sets the kinds of task apart, as far as that needs no model. What is done with each: smpcli/kinds/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """labels: what its labels are; outputs: what the model's outputs stand for, in order (none: the task's classes).

    metrics: those that it can be measured by; usual: those of a data file of one's own. stock: the class of
    transformers that has a head for it, problem_type: what its configuration then says; pipeline, title: what the hub
    and people call it. every_token: the head reads every token and not one of each text; windows: long contexts are
    read in windows; squad: rows are questions on contexts, stored in SQuAD's format.
    """

    labels: str
    metrics: tuple[str, ...]
    usual: tuple[str, ...]
    title: str
    pipeline: str = "text-classification"
    stock: str = "AutoModelForSequenceClassification"
    problem_type: str | None = None
    outputs: tuple[str, ...] = ()
    every_token: bool = False
    windows: bool = False
    squad: bool = False


TRAITS = {
    "classification": Traits(
        labels="classes",
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        usual=("accuracy", "macro_f1"),
        title="text classification",
        problem_type="single_label_classification",
    ),
    "regression": Traits(
        labels="numbers",
        metrics=("pearson", "spearman"),
        usual=("pearson", "spearman"),
        title="text regression",
        problem_type="regression",
        outputs=("score",),
    ),
    "span": Traits(
        labels="answers",
        metrics=("f1", "exact_match"),
        usual=("f1", "exact_match"),
        title="question answering",
        pipeline="question-answering",
        stock="AutoModelForQuestionAnswering",
        outputs=("start", "end"),
        every_token=True,
        windows=True,
        squad=True,
    ),
}


def check_kind(kind: str) -> str:
    """For pydantic: the kind itself. Raises ValueError for one that there is none of."""
    if kind not in TRAITS:
        raise ValueError(f"must be one of {', '.join(TRAITS)}")
    return kind


def output_names(kind: str, labels: list[str]) -> list[str]:
    """What a model's outputs stand for, in order; labels: of a classification."""
    return list(TRAITS[kind].outputs) or labels
