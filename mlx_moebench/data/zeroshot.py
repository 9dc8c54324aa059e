"""Questions of zero-shot tasks from local files, in the forms in which the data sets are published.

The text before each choice is that of LibMoE (Nguyen et al. 2025), whose tasks follow Csordas et al. 2023; where it
takes that of lm-evaluation-harness, so does this. A new task is one function and one row of `TASKS`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, did_you_mean
from ..types import Facts, Json
from .files import is_known, read_rows
from .rows import Row, file_sha256, suffix_of, text_lines

Scoring = Literal["per_token", "sum", "greedy"]
"""What decides: a choice's log-likelihood over its tokens, its log-likelihood, or that every token is the likeliest."""


@dataclass(frozen=True)
class Item:
    """One question: ``context + choice`` is what the model reads for each choice. answer: number of the right one.

    group: of questions whose accuracy is averaged with that of other groups, each of one weight; empty without groups.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""


Read = Callable[[Facts], Iterator[Item]]


@dataclass(frozen=True)
class Task:
    """A task: its name for people, what decides, and how a row becomes its questions.

    found: pattern of the files' paths inside a folder, in lower case. several: it lies in more than one file.
    """

    name: str
    label: str
    scoring: Scoring
    read: Read
    found: str
    several: bool = False


@dataclass(frozen=True)
class Questions:
    """The questions of a task, and the files they are from with the sha256 of all of them."""

    task: Task
    items: tuple[Item, ...]
    files: tuple[str, ...]
    sha256: str

    @property
    def chance(self) -> float:
        """Accuracy of guessing; 0 where a word is to be produced."""
        if self.task.scoring == "greedy":
            return 0.0
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)

    def facts(self) -> Json:
        """For a report."""
        facts = {"label": self.task.label, "scoring": self.task.scoring, "n": len(self.items), "chance": self.chance}
        groups = len({item.group for item in self.items})
        return facts | {"groups": groups, "files": len(self.files), "sha256": self.sha256}


# -- rows ------------------------------------------------------------------------------------------------------------


def _lambada(row: Facts) -> Iterator[Item]:
    text = str(row["text"]).strip()
    context, space, word = text.rpartition(" ")
    if not space:
        raise ValueError("its text is a single word")
    yield Item(context, (space + word,), 0)


def _blimp(row: Facts) -> Iterator[Item]:
    yield Item("", (row["sentence_good"], row["sentence_bad"]), 0, str(row.get("UID", "")))


_BRACKETS = re.compile(r"\[.*?\]")


def _without_marks(text: str) -> str:
    """Of WikiHow, where brackets are left over from the pages."""
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _hellaswag(row: Facts) -> Iterator[Item]:
    context = _without_marks(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    yield Item(context, tuple(f" {_without_marks(one)}" for one in row["endings"]), int(row["label"]))


def _piqa(row: Facts) -> Iterator[Item]:
    choices = (f" {row['sol1']}", f" {row['sol2']}")
    yield Item(f"Question: {row['goal'].strip()}\nAnswer:", choices, int(row["label"]))


def _siqa(row: Facts) -> Iterator[Item]:
    answer = int(row["label"]) - 1 if "label" in row else "ABC".index(row["correct"])
    choices = tuple(f" {row[f'answer{letter}']}" for letter in "ABC")
    yield Item(f"Context: {row['context']}\nQuestion: {row['question']}\nAnswer:", choices, answer)


def _labelled(row: Facts) -> Iterator[Item]:
    """ARC and CommonsenseQA: choices with labels, inside the question as first published, or beside it as on the hub.

    The choices are a list of {"label", "text"}, or two lists of these names.
    """
    question = row["question"] if isinstance(row["question"], dict) else {**row, "stem": row["question"]}
    given = question["choices"]
    if isinstance(given, dict):
        labels, texts = list(given["label"]), list(given["text"])
    else:
        labels, texts = [one["label"] for one in given], [one["text"] for one in given]
    choices = tuple(f" {text}" for text in texts)
    yield Item(f"Question: {question['stem']}\nAnswer:", choices, labels.index(row["answerKey"]))


def _race(row: Facts) -> Iterator[Item]:
    several = "questions" in row
    names = ("questions", "options", "answers") if several else ("question", "options", "answer")
    questions, options, answers = (row[name] if several else [row[name]] for name in names)
    group = str(row.get("id", row.get("example_id", "")))
    group = next((level for level in ("high", "middle") if group.startswith(level)), "")
    for question, choices, answer in zip(questions, options, answers, strict=True):
        context = f"Article: {row['article']}\nQuestion: {question}\nAnswer:"
        yield Item(context, tuple(f" {one}" for one in choices), "ABCD".index(answer), group)


def _own(row: Facts) -> Iterator[Item]:
    """A row of one's own: ``context``, ``choices``, and ``answer``, the number of the right one from 0, or its text."""
    choices = list(map(str, row["choices"]))
    answer = row["answer"]
    number = answer if type(answer) is int else choices.index(str(answer))
    context = str(row["context"])
    spaced = "" if context[-1:].isspace() or not context else " "
    yield Item(context, tuple(spaced + one for one in choices), number, str(row.get("group", "")))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("lambada", "LAMBADA", "greedy", _lambada, r"lambada"),
        Task("blimp", "BLiMP", "sum", _blimp, r"blimp", several=True),
        Task("hellaswag", "HellaSwag", "per_token", _hellaswag, r"hellaswag"),
        Task("piqa", "PIQA", "per_token", _piqa, r"(?<![a-z])piqa|physicaliqa"),
        Task("siqa", "SIQA", "per_token", _siqa, r"(?<![a-z])siqa|social"),
        Task("csqa", "CommonsenseQA", "per_token", _labelled, r"csqa|commonsense|dev_rand_split"),
        Task("arc_easy", "ARC-Easy", "per_token", _labelled, r"arc[-_]?e"),
        Task("arc_challenge", "ARC-Challenge", "per_token", _labelled, r"arc[-_]?c"),
        Task("race", "RACE", "per_token", _race, r"(?<![a-z])race", several=True),
    )
}
"""What is known by name. BLiMP and RACE are averaged over their groups, as LibMoE has it."""

LIBMOE = ("lambada", "blimp", "hellaswag", "piqa", "arc_easy", "siqa", "csqa")
"""Those of LibMoE's table 2 that are asked by default, in its order; CBT and RACE are left to files that are named."""


# -- files -----------------------------------------------------------------------------------------------------------


def read_task(name: str, place: str | Path | None, limit: int | None = None) -> Questions:
    """The questions of the task ``name`` from ``place``: a file, or a folder in which they are found by name.

    A name that is none of `TASKS` is a task of one's own, of rows as `_own` reads them. Labels that are published in a
    file beside the questions (``dev.jsonl``, ``dev-labels.lst``) are read from there. limit: the first so many
    questions, of each group where there are several; None for all.

    Raises DataError for files that are not there, for several where one is meant, and for a row of another form.
    """
    if limit is not None and limit < 1:
        raise DataError(f"The limit is {limit}; ask for at least 1 question a task, or leave it out for all.")
    if place is None:
        raise DataError(f"Say where the questions of {name} are: --data FOLDER, or --task {name}=FILE.")
    task = TASKS.get(name) or Task(name, name, "per_token", _own, re.escape(name.lower()), several=True)
    files = _files(task, Path(place).expanduser())
    items, digest = [item for path in files for item in _items(task, path)], hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    if not items:
        raise DataError(f"{place} holds no question of {task.label}; fetch it again.")
    return Questions(task, tuple(_first(items, limit)), tuple(str(path) for path in files), digest.hexdigest())


def known_tasks(folder: str | Path) -> list[str]:
    """Those of `TASKS` of which ``folder`` has a file, in their order."""
    paths = list(_paths(Path(folder).expanduser()))
    return [task.name for task in TASKS.values() if any(re.search(task.found, name) for name, _ in paths)]


def check_task(name: str) -> None:
    """Raise DataError for a name that is no task known here, with the nearest that is."""
    if name not in TASKS:
        raise DataError(f"There is no task {name!r}.{did_you_mean(name, list(TASKS))}")


def _files(task: Task, place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"There is no file or folder {str(place)!r} with questions of {task.label}.")
    named = [(name, path) for name, path in _paths(place) if re.search(task.found, name)]
    chosen = [(name, path) for name, path in named if "train" not in name] or named
    if not chosen and re.search(task.found, place.name.lower()):
        chosen = list(_paths(place))
    if not chosen:
        raise DataError(f"{place} has no file of {task.label}; name it: --task {task.name}=FILE.")
    if len(chosen) > 1 and not task.several:
        names = ", ".join(name for name, _ in chosen[:3])
        raise DataError(f"{place} has several files of {task.label} ({names}); name one: --task {task.name}=FILE.")
    return [path for _, path in chosen]


def _paths(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path inside the folder in lower case, path) of every file of rows or of text, in order; hidden ones are not."""
    if not folder.is_dir():
        return
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(here, name) for name in sorted(names) if not name.startswith(".")):
            if is_known(path) and path.suffix and suffix_of(path) != ".md":
                yield path.relative_to(folder).as_posix().lower(), path


def _items(task: Task, path: Path) -> Iterator[Item]:
    for row in _with_labels(path):
        try:
            for item in task.read(row.values):
                yield _checked(replace(item, group=item.group or path.stem) if task.several else item)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{row.where} is no question of {task.label} ({what}); is it another file?") from error


def _checked(item: Item) -> Item:
    if not all(isinstance(text, str) for text in (item.context, *item.choices)):
        raise ValueError("a text is not text")
    if not 0 <= item.answer < len(item.choices):
        raise ValueError(f"the answer is {item.answer}, of {len(item.choices)} choices")
    if any(not choice.strip() for choice in item.choices):
        raise ValueError("a choice is empty")
    return item


def _with_labels(path: Path) -> Iterator[Row]:
    """The rows of a file, each with its ``label`` from STEM-labels.lst where that lies beside it."""
    labels = path.with_name(f"{path.stem}-labels.lst")
    rows = read_rows(path, "line")
    if not labels.is_file():
        yield from rows
        return
    given = [line.strip() for _, line in text_lines(labels) if line.strip()]
    for row, label in zip_longest(rows, given):
        if row is None or label is None:
            raise DataError(f"{labels} and {path.name} differ in length; fetch both again.")
        yield replace(row, values={**row.values, "label": label})


def _first(items: Sequence[Item], limit: int | None) -> Iterator[Item]:
    seen: dict[str, int] = {}
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if limit is None or seen[item.group] <= limit:
            yield item


def right(scoring: Scoring, answer: int, values: Sequence[float]) -> bool:
    """Whether the answer is strictly above all other choices, as LibMoE counts; of ``greedy``, whether it is 1.

    >>> right("sum", 0, [-1.0, -2.0]), right("sum", 0, [-1.0, -1.0]), right("greedy", 0, [1.0])
    (True, False, True)
    """
    if scoring == "greedy":
        return bool(values[0] == 1)
    others: list[Any] = [value for number, value in enumerate(values) if number != answer]
    return all(values[answer] > other for other in others)
