"""MMLU (Hendrycks et al. 2021): its subjects, its questions from the original CSV files or the hub, and its prompts."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..errors import DataError, MissingExtraError, did_you_mean
from ..types import Json
from .hub import load_split
from .rows import file_sha256, text_lines

Split = Literal["test", "val"]

HUB = "cais/mmlu"
LETTERS = "ABCD"
CONTINUATIONS = tuple(f" {letter}" for letter in LETTERS)
"""What is scored after a prompt, one for each choice."""

_FIELDS = ("question", "subject", "choices", "answer")
"""Of a row on the hub."""

MAX_SHOTS = 5
"""Worked examples that every subject has in its dev file."""

_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security
conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts
high_school_biology high_school_chemistry high_school_computer_science high_school_european_history
high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes
moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine
professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions
"""
SUBJECTS = tuple(_SUBJECTS.split())

# The published benchmark, 12 subjects x 25 questions, names no subjects: these are ours. Three of each of MMLU's areas
# (STEM, humanities, social sciences, other), of those with 25 questions in the validation split too.
SUBJECTS_12 = (
    *("conceptual_physics", "elementary_mathematics", "high_school_biology"),
    *("moral_disputes", "philosophy", "prehistory"),
    *("high_school_macroeconomics", "high_school_psychology", "security_studies"),
    *("clinical_knowledge", "marketing", "nutrition"),
)
PRESETS: dict[str, tuple[tuple[str, ...], int]] = {"12x25": (SUBJECTS_12, 25)}
"""Name of a preset to its subjects and the questions of each, the first ones."""


@dataclass(frozen=True)
class Question:
    """One question with four choices. row: its index in its file, from 0. answer: index of the right choice."""

    subject: str
    row: int
    question: str
    choices: tuple[str, str, str, str]
    answer: int


@dataclass(frozen=True)
class Mmlu:
    """Questions of some subjects, and the worked examples that go before them.

    split: where the questions come from. format: ``folder`` or ``hub``. questions, shots: of each subject, in order.
    sha256: of everything that was read, dev files and questions, whatever number of them is used.
    """

    name: str
    format: str
    split: Split
    sha256: str
    questions: dict[str, tuple[Question, ...]]
    shots: dict[str, tuple[Question, ...]]


def check_subjects(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetitions; raises DataError for one that MMLU does not have, or for none."""
    subjects = tuple(dict.fromkeys(names))
    for name in subjects:
        if name not in SUBJECTS:
            raise DataError(f"MMLU has no subject {name!r}.{did_you_mean(name, list(SUBJECTS))}")
    if not subjects:
        raise DataError("No subject is named; name at least one, or leave the subjects out for all 57.")
    return subjects


def read_mmlu(
    folder: str | Path | None = None,
    *,
    subjects: Sequence[str] = SUBJECTS,
    split: str = "auto",
    limit: int | None = None,
    shots: int = MAX_SHOTS,
) -> Mmlu:
    """Read questions and worked examples.

    folder: as in the original archive, SUBJECT_dev.csv, SUBJECT_val.csv and SUBJECT_test.csv in folders dev, val and
        test, or side by side; each row question, A, B, C, D, letter of the answer, without a header. None: the hub.
    split: ``test``, ``val``, or ``auto``, which takes test where every subject has it, else val.
    limit: the first so many questions of each subject; None for all. shots: worked examples, from dev only.

    Raises DataError for an unknown subject or split, a file that is missing, empty or malformed, and shots that dev
    does not have; MissingExtraError for the hub without the package ``datasets``.
    """
    subjects = check_subjects(subjects)
    if split not in ("auto", *get_args(Split)):
        raise DataError(f"MMLU has no split {split!r} to ask; choose auto, test or val.")
    if limit is not None and limit < 1:
        raise DataError(f"The limit is {limit}; ask for at least 1 question a subject, or leave it out for all.")
    if not 0 <= shots <= MAX_SHOTS:
        raise DataError(f"{shots} shots are asked for; MMLU's dev files hold {MAX_SHOTS}, so choose 0 to {MAX_SHOTS}.")
    source = _Hub() if folder is None else _Folder(folder)
    chosen = source.split(subjects) if split == "auto" else split
    digest = hashlib.sha256()
    questions: dict[str, tuple[Question, ...]] = {}
    examples: dict[str, tuple[Question, ...]] = {}
    for subject in subjects:
        asked, sha256 = source.read(subject, chosen)
        digest.update(f"{subject}_{chosen} {sha256}\n".encode())
        questions[subject] = asked[:limit]
        examples[subject] = ()
        if shots:
            dev, sha256 = source.read(subject, "dev")
            digest.update(f"{subject}_dev {sha256}\n".encode())
            if len(dev) < shots:
                raise DataError(f"{subject} has {len(dev)} worked examples in dev, and {shots} shots are asked for.")
            examples[subject] = dev[:shots]
    name, form = source.name, source.format
    return Mmlu(name, form, "test" if chosen == "test" else "val", digest.hexdigest(), questions, examples)


def prompt(question: Question, shots: Sequence[Question]) -> str:
    """The original prompt: a header, worked examples, and the question up to ``Answer:``."""
    subject = question.subject.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    examples = "".join(f"{_asked(shot)} {LETTERS[shot.answer]}\n\n" for shot in shots)
    return header + examples + _asked(question)


def _asked(question: Question) -> str:
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=True))
    return f"{question.question}\n{choices}\nAnswer:"


class _Folder:
    """The files of the original archive."""

    format = "folder"

    def __init__(self, folder: str | Path) -> None:
        # Unlike Path.expanduser this leaves a ~ that names no user as it is.
        self.folder = Path(os.path.expanduser(folder))  # noqa: PTH111
        if not str(folder) or not self.folder.is_dir():
            raise DataError(f"There is no folder {str(folder)!r} with MMLU's CSV files; give the one that holds dev/.")
        self.name = self.folder.resolve().name

    def split(self, subjects: Iterable[str]) -> str:
        return "test" if all(self._path(subject, "test").is_file() for subject in subjects) else "val"

    def read(self, subject: str, split: str) -> tuple[tuple[Question, ...], str]:
        path = self._path(subject, split)
        if not path.is_file():
            raise DataError(f"{path} is not there; give the folder of MMLU's CSV files that holds {split}/.")
        return tuple(_csv_questions(path, subject)), file_sha256(path)

    def _path(self, subject: str, split: str) -> Path:
        name = f"{subject}_{split}.csv"
        nested, flat = self.folder / split / name, self.folder / name
        return flat if flat.is_file() and not nested.is_file() else nested


def _csv_questions(path: Path, subject: str) -> Iterator[Question]:
    # The limit of 128 KiB a field is for hostile input.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    reader = csv.reader((line for _, line in text_lines(path)), strict=True)
    row = 0
    try:
        for cells in reader:
            if not cells:
                continue
            if len(cells) != 6:
                raise DataError(
                    f"{path}, row {row + 1} has {len(cells)} columns; MMLU's six are question, A, B, C, D and answer."
                )
            yield _question(f"{path}, row {row + 1}", subject, row, cells[0], cells[1:5], cells[5].strip())
            row += 1
    except csv.Error as error:
        raise DataError(f"{path}, row {row + 1} is not valid CSV ({error}); correct its quotes.") from error
    if not row:
        raise DataError(f"{path} holds no question; fetch it again.")


class _Hub:
    """The configuration ``all`` of the data set on the hub."""

    format = "hub"
    name = HUB

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, list[Question]]] = {}

    def split(self, subjects: Iterable[str]) -> str:
        return "test"

    def read(self, subject: str, split: str) -> tuple[tuple[Question, ...], str]:
        if split not in self._tables:
            named = "validation" if split == "val" else split
            try:
                table = load_split(f"{HUB}:all:{named}")
            except DataError as error:
                raise DataError(f"{str(error).rstrip('.')}, or give a folder of MMLU's files.") from error
            except MissingExtraError as error:
                raise MissingExtraError("Reading MMLU from the hub, and not from a folder,", "data") from error
            self._tables[split] = table_questions(table, f"hub:{HUB}:all:{named}")
        questions = self._tables[split].get(subject)
        if not questions:
            raise DataError(f"hub:{HUB} has no question of {subject} in {split}; give a folder instead.")
        digest = hashlib.sha256()
        for q in questions:
            digest.update(json.dumps([q.question, *q.choices, q.answer]).encode() + b"\n")
        return tuple(questions), digest.hexdigest()


def table_questions(table: Iterable[Json], where: str) -> dict[str, list[Question]]:
    """{subject: questions} of rows with ``question``, ``subject``, ``choices`` (four) and ``answer`` (0 to 3).

    Raises DataError that names the row where a field is missing or holds something else.
    """
    questions: dict[str, list[Question]] = {}
    for number, values in enumerate(table):
        place = f"{where}, row {number + 1}"
        if not isinstance(values, Mapping):
            raise DataError(f"{place} is not a row of named fields; MMLU's are {', '.join(_FIELDS)}.")
        if missing := [key for key in _FIELDS if key not in values]:
            raise DataError(f"{place} has no field {missing[0]!r}; MMLU's are {', '.join(_FIELDS)}.")
        answer, choices = values["answer"], values["choices"]
        if not isinstance(choices, list | tuple):
            raise DataError(f"{place} has no list of choices; MMLU's questions have 4.")
        if len(choices) != 4:
            raise DataError(f"{place} has {len(choices)} choices; MMLU's questions have 4.")
        if not all(isinstance(text, str) for text in (values["question"], values["subject"], *choices)):
            raise DataError(f"{place} has a question, subject or choice that is not text.")
        letter = LETTERS[answer] if type(answer) is int and 0 <= answer < 4 else str(answer)
        same = questions.setdefault(values["subject"], [])
        same.append(_question(place, values["subject"], len(same), values["question"], list(choices), letter))
    return questions


def _question(where: str, subject: str, row: int, question: str, choices: list[str], letter: str) -> Question:
    if len(letter) != 1 or letter not in LETTERS:
        raise DataError(f"{where}: the answer is {letter[:20]!r}; it must be A, B, C or D.")
    a, b, c, d = choices
    return Question(subject, row, question, (a, b, c, d), LETTERS.index(letter))
