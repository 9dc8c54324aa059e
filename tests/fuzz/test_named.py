"""What fuzzing found, a row a case: each is refused in a sentence, where it ended in an exception."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import make_stats, reseal

from mlx_moebench import RoutingStats
from mlx_moebench.cli.report import readable
from mlx_moebench.data import read_corpus
from mlx_moebench.data.importers import importer, named_files
from mlx_moebench.data.mmlu import table_questions
from mlx_moebench.data.trace import TEXTS, read_trace
from mlx_moebench.data.training_log import read_log
from mlx_moebench.errors import DataError, EvaluationError, StatsError, TraceError, TrainingError
from mlx_moebench.evaluate.evaluations import Kept, read_evaluation
from mlx_moebench.options import Plan
from mlx_moebench.pair.seal import sealed_text, strict_json
from mlx_moebench.pair.storage import check_writable
from mlx_moebench.pair.verify import verified
from mlx_moebench.show.export import to_markdown
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.tokens import token_data

from . import test_datasets, test_imports, test_other_json, test_pairs, test_traces
from .mutations import TOO_DEEP
from .outcomes import quietly

Facts = dict[str, Any]

# -- stats pairs -------------------------------------------------------------------------------------------------------


def first(facts: Facts, **changes: Any) -> None:
    facts["specs"][0].update(changes)


SUMS: dict[str, tuple[Callable[[Facts], object] | None, Callable[[Facts], object] | None, str]] = {
    "a source that is null": (None, lambda facts: facts["sha256"].append(None), "Expected `str`"),
    "a source listed twice": (None, lambda facts: facts["sha256"].append(facts["sha256"][0]), "listed twice"),
    "a source that is half a surrogate": (None, lambda facts: facts.update(sha256=["\ud800"]), "matching regex"),
    "a name that is a number": (
        None,
        lambda facts: next(iter(facts["sources"].values())).update(name=1),
        r"Expected `str`, got `int` - at `\$.sources",
    ),
    "more experts than memory": (None, lambda facts: first(facts, n_experts=2**40), "counts has shape"),
    "a block of 30 digits": (None, lambda facts: first(facts, layer=10**30), "layer"),
    "a router of another kind": (None, lambda facts: first(facts, router="x/y"), "Invalid enum value 'x/y'"),
    "a model that is a list": (None, lambda facts: facts.update(model=[]), "Expected `object`"),
    "rows of complex numbers": (
        lambda arrays: arrays.update({"clusters.row": arrays["clusters.row"].astype("c8")}),
        None,
        "clusters.row is complex64",
    ),
    "texts of one more axis": (
        lambda arrays: arrays.update({"clusters.text": arrays["clusters.text"][:, None]}),
        None,
        "clusters.text is int64",
    ),
    "complex scalars": (
        lambda arrays: arrays.update({"layer.0.mlp.scalars": arrays["layer.0.mlp.scalars"].astype("c8")}),
        None,
        "scalars is of complex64",
    ),
}
"""{what: (change of the arrays, of the facts, what is said)}."""


@pytest.mark.parametrize("case", SUMS)
def test_sums(case: str, tmp_path: Path) -> None:
    arrays, facts, words = SUMS[case]
    make_stats(range(4), specs=test_pairs.SPECS, length=6).save(tmp_path / "x", Plan(resamples=100))
    path = tmp_path / "x.safetensors"
    reseal(path, arrays, facts)
    with pytest.raises(StatsError, match=words):
        RoutingStats.load(path)


# -- imports -----------------------------------------------------------------------------------------------------------

MASKED = test_imports.npz(test_imports.BATCH | {"attention_mask": np.zeros((2, 12), int)})
IMPORTS: dict[str, tuple[str, bytes, str]] = {
    **{
        f"{form}, nested too deeply": (form, TOO_DEEP.encode(), "no JSON file that can be read")
        for form in ("vllm json", "vllm jsonl", "sglang json", "sglang answers", "rollouts samples", "olmoe")
    },
    "a batch that is masked": ("rollouts batch", MASKED, "hold no token"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_imports_are_refused(case: str, tmp_path: Path) -> None:
    form, blob, words = IMPORTS[case]
    one = test_imports.FORMS[form]
    (tmp_path / one.name).write_bytes(blob)
    with pytest.raises(DataError, match=words):
        importer(one.format).read(named_files([str(tmp_path / one.name)]), **one.about)


# -- traces ------------------------------------------------------------------------------------------------------------


def scaled(name: str, change: Callable[[Any], Any]) -> bytes:
    arrays = test_traces.shard_arrays()
    return test_traces.saved(arrays | {name: change(arrays[name])})


def with_fields(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda manifest: manifest | changes


SHARDS: dict[str, tuple[bytes, str]] = {
    "a sequence of negative length": (
        scaled("sequence.n_tokens", lambda a: np.array([-5, 16, 7], a.dtype)),
        "sequences that its 18 tokens do not make",
    ),
    "a negative row": (scaled("sequence.row", lambda a: a - 1), "sequences that its 18 tokens do not make"),
    "an expert twice": (scaled("layer.0.mlp.experts", lambda a: a * 0), "contradict each other"),
    "an entropy beyond float16": (scaled("layer.0.mlp.entropy", lambda a: a * np.float32(1e9)), "no router gives"),
}
MANIFESTS: dict[str, tuple[Callable[[Facts], Facts], str]] = {
    "routers that are null": (with_fields(routers=None), r"Expected `array`, got `null` - at `\$.routers`"),
    "a scalar twice": (lambda m: m | {"scalars": [*m["scalars"], m["scalars"][0]]}, "a scalar twice"),
    "a scalar that is an object": (with_fields(scalars=[{}]), "Expected `str`"),
    "data without a hash": (with_fields(data={"name": "x"}), "sha256"),
    "tau that is text": (with_fields(tau="0.4"), "Expected `float`"),
    "a shard in another folder": (
        lambda m: json.loads(json.dumps(m).replace("prefill-00000", "../prefill-00000")),
        "matching regex",
    ),
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards(case: str, tmp_path: Path) -> None:
    blob, words = SHARDS[case]
    test_traces.with_shard(tmp_path, blob)
    with pytest.raises(TraceError, match=words):
        read_trace(tmp_path)


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests(case: str, tmp_path: Path) -> None:
    change, words = MANIFESTS[case]
    blob = test_traces.saved(test_traces.shard_arrays())
    (tmp_path / "trace.json").write_text(sealed_text(change(test_traces.manifest_of(blob))))
    with pytest.raises(TraceError, match=words):
        read_trace(tmp_path)


def test_texts_nested_too_deeply(tmp_path: Path) -> None:
    test_traces.with_shard(tmp_path, test_traces.saved(test_traces.shard_arrays()))
    (tmp_path / TEXTS).write_text(TOO_DEEP)
    with pytest.raises(TraceError, match="the text of the tokens"):
        token_data(tmp_path)


# -- data sets ---------------------------------------------------------------------------------------------------------

DATA: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "parquet, packed and damaged": (
        "x.parquet.gz",
        lambda: gzip.compress(b"", mtime=0)[:10] + b"\x01\x00\x00\x00\x00",
        "cannot be read as Parquet",
    ),
    "parquet, packed and cut off": (
        "x.parquet.gz",
        lambda: gzip.compress(test_datasets.parquet(), mtime=0)[:-20],
        "cannot be read as Parquet",
    ),
    "parquet with a name that is no UTF-8": (
        "x.parquet",
        lambda: test_datasets.parquet().replace(b"\x08messages\x15", b"\x08\xedessages\x15"),
        "cannot be read as Parquet",
    ),
    "csv with a line end inside of a value": ("x.csv", lambda: b"text,id\r\none,1\r\n\r\x0b,\r\n", "not valid CSV"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path) -> None:
    name, blob, words = DATA[case]
    (tmp_path / name).write_bytes(blob())
    with pytest.raises(DataError, match=words):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ 10.0 ** 999 }}", "{{ messages[9].x }}", "{% for %}"])
def test_templates(template: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}')
    with pytest.raises(DataError, match="chat template refuses these messages"):
        read_corpus(tmp_path / "x.jsonl", tokenizer=test_datasets.Chat(template))  # type: ignore[arg-type]


GOOD = {"question": "x?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 2}
HUB: dict[str, tuple[Any, str]] = {
    "a row that is null": (None, "not a row of named fields"),
    "a row that is text": ("question subject choices answer", "not a row of named fields"),
    "choices that are null": (GOOD | {"choices": None}, "no list of choices"),
    "a choice that is null": (GOOD | {"choices": ["a", "b", "c", None]}, "not text"),
    "a subject that is a list": (GOOD | {"subject": []}, "not text"),
    "an answer that is true": (GOOD | {"answer": True}, "the answer is 'True'"),
}


@pytest.mark.parametrize("case", HUB)
def test_rows_of_mmlu(case: str) -> None:
    row, words = HUB[case]
    with pytest.raises(DataError, match=words):
        table_questions([GOOD, row], "hub:x")


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 2**63]}}, "MLX cannot make"),
        ({"learning_rate": 10**400}, "learning_rate is 1000"),
        ({"lora_parameters": {"rank": 8, "scale": 10**400, "dropout": 0.0}}, "scale is 1000"),
        ({"routing_loss": {"name": "z", "weight": 10**400}}, "weight is 1000"),
    ],
)
def test_settings(settings: Facts, words: str) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.train import training_config

    with pytest.raises(TrainingError, match=words):
        training_config(settings)


def test_a_learning_rate_of_many_digits_is_a_number() -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.train import training_config

    assert training_config({"learning_rate": 10**30})["learning_rate"] == 10**30


def test_a_line_of_a_log_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f'{TOO_DEEP}\n{{"step": 1}}\n')
    with pytest.raises(TrainingError, match="line 1 is not JSON"):
        read_log(tmp_path / "x.jsonl")


# -- other files of JSON -----------------------------------------------------------------------------------------------


def test_infinity_by_its_size_is_refused(tmp_path: Path) -> None:
    for text in ("1e999", "-1e999"):
        with pytest.raises(ValueError, match="larger than a number can be"):
            strict_json(f'{{"x": {text}}}')
    (tmp_path / "x.json").write_text('{"models": [], "settings": 1e999, "seal": "x"}')
    assert "larger than a number can be" in verified(tmp_path / "x.json")[0].wrong[0]


SHOWN: dict[str, tuple[Callable[[], Facts], str]] = {
    "a comparison of nothing": (
        lambda: test_other_json.comparison() | {"overall": {"mlp": {"mean_entropy": {}}}},
        "damaged or from another",
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_is_shown(case: str, tmp_path: Path) -> None:
    make, words = SHOWN[case]
    (tmp_path / "x.json").write_text(sealed_text(make()))
    with pytest.raises(StatsError, match=words), quietly(), readable():
        to_markdown(read_inputs([tmp_path / "x.json"]))


def test_a_domain_with_a_name_too_long_for_a_file(tmp_path: Path) -> None:
    profile = test_other_json.profile()
    profile["models"][0]["domains"][0]["name"] = "a" * 999
    (tmp_path / "profile.json").write_text(sealed_text(profile))
    assert read_inputs([tmp_path / "profile.json"]).profiles


EVALUATIONS: dict[str, tuple[Facts, str]] = {
    "a model that is null": ({"model": None}, "Expected `object`"),
    "settings that are text": ({"settings": "x"}, "Expected `object`"),
    "complete that is half a surrogate": ({"complete": "\ud800"}, "damaged or from another version"),
    "a question that is null": ({"questions": [None]}, "Expected `object`"),
}


@pytest.mark.parametrize("case", EVALUATIONS)
def test_evaluations(case: str, tmp_path: Path) -> None:
    change, words = EVALUATIONS[case]
    path = tmp_path / "x.json"
    path.write_text(sealed_text(test_other_json.evaluation() | change))
    for read in (lambda: read_evaluation(path), lambda: Kept({}, path, resume=True).__enter__()):
        with pytest.raises(EvaluationError, match=words):
            read()


def test_a_header_nested_without_end_is_no_file_of_ours(tmp_path: Path) -> None:
    for text in (b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", b'{"__metadata__": 7}'):
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(StatsError, match="holds no file that mlx-moebench wrote"):
            verified(tmp_path)
        with pytest.raises(StatsError, match="holds no routing statistics"):
            check_writable(tmp_path / "x.json")
