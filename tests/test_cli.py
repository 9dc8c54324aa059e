"""The command line as a user meets it: real runs of the embedded model, and one sentence for every mistake."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlx_moebench.cli import main
from mlx_moebench.models import NANO

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

SCHEMA = Path(__file__).parents[1] / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_moebench", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("measured")
    result = run(
        *("analyze", "--dataset", "math", "--max-samples", "40", "--max-length", "256", "--seed", "3"),
        *("--output", str(folder / "out.json"), "--plot", str(folder / "load.png")),
    )
    return folder, result


def test_analyze_writes_a_valid_pair_and_prints_the_table(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = measured
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "out.json").read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["data"]["name"] == "math"
    assert report["data"]["n_sequences"] == 40
    assert report["data"]["phase"] == "prefill"
    assert report["model"]["id"] == "moebench-nano"
    assert [r["layer"] for r in report["routers"]] == list(range(6))
    for router in report["routers"]:
        assert sum(router["selection_counts"]) == router["n_tokens"] * router["top_k"]
        assert sum(router["top1_counts"]) == router["n_tokens"]
        assert router["n_tokens"] == report["data"]["n_tokens"]
        ci = router["ci"]["mean_entropy"]
        assert ci["low"] < router["mean_entropy"] < ci["high"]
    assert "moebench-nano on math: 40 sequences" in result.stdout
    assert f"{report['routers'][0]['mean_entropy']:.3f}" in result.stdout
    assert "Summary" in result.stdout
    assert (folder / "load.png").read_bytes().startswith(b"\x89PNG")


def test_saved_sums_give_the_same_report_again(measured: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    from mlx_moebench import RoutingStats
    from mlx_moebench.routing import Plan

    folder, _ = measured
    again = RoutingStats.load(folder / "out.safetensors").report(Plan(seed=3))
    saved = json.loads((folder / "out.json").read_text())
    assert saved.pop("sums_sha256") == hashlib.sha256((folder / "out.safetensors").read_bytes()).hexdigest()
    assert saved.pop("seal")
    assert again == saved


def test_json_on_stdout_is_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "few.json"
    main(["analyze", "--max-samples", "3", "--output", str(out), "--json", "--quiet"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report == json.loads(out.read_text())
    assert printed.err == ""
    # Three sequences are too few for an interval, and the report says so instead of inventing one.
    assert report["summary"]["mean_entropy"]["low"] is None
    assert "too few" in report["summary"]["mean_entropy"]["reason"]


def test_layer_bootstrap_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["analyze", "--max-samples", "12", "--ci", "layer", "--output", str(tmp_path / "o"), "--json", "--quiet"])
    report = json.loads(capsys.readouterr().out)
    assert "census" in report["summary"]["mean_entropy"]["method"]
    assert report["routers"][0]["ci"]["mean_entropy"]["low"] is None


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0
    assert findings["ready"]
    assert findings["embedded_model"]
    assert findings["memory_gb"] > 0
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "Ready to measure." in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mlx_moebench.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n"
        "    heavy = {'mlx', 'torch', 'numpy', 'pandas', 'scipy', 'matplotlib', 'transformers', 'rich.console'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "[]"
    assert "analyze" in result.stdout
    assert "doctor" in result.stdout


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nano_copy(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder)
    return folder


def expect_error(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Non-zero exit, exactly one sentence on stderr that contains the words, nothing on stdout."""
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "--quiet", *arguments])
    printed = capsys.readouterr()
    assert stop.value.code not in (0, 70, None), printed.err
    message = printed.err.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in printed.err
    assert printed.out == ""
    for word in words:
        assert word in message


def rewrite_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_unknown_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--model", str(tmp_path / "nowhere")], capsys, "No such folder")


def test_dense_model(nano_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_config(nano_copy, model_type="llama", num_experts=None, num_experts_per_tok=None)
    expect_error(["--model", str(nano_copy)], capsys, "llama", "dense")


def test_unknown_moe(nano_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_config(nano_copy, model_type="olmo_moe_next")
    expect_error(["--model", str(nano_copy)], capsys, "olmo_moe_next", "the nearest", "CONTRIBUTING.md")


def test_truncated_weights(nano_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = nano_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    expect_error(["--model", str(nano_copy)], capsys, "model.safetensors", "truncated")


def test_missing_tokenizer(nano_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nano_copy / "tokenizer.json").unlink()
    expect_error(["--model", str(nano_copy)], capsys, "no tokenizer")


def test_empty_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    expect_error(["--dataset", str(tmp_path / "empty.jsonl")], capsys, "empty.jsonl")


def test_broken_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": ')
    expect_error(["--dataset", str(tmp_path / "broken.jsonl")], capsys, "broken.jsonl", "2")


def test_unknown_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "some text", "id": 1}\n')
    expect_error(["--dataset", str(tmp_path / "rows.jsonl")], capsys, "body", "id")
    expect_error(["--dataset", str(tmp_path / "rows.jsonl"), "--text-field", "bodi"], capsys, "bodi", "body")


def test_unknown_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--dataset", "maths"], capsys, "maths", "math")


def test_nan_logits(nano_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = dict(mx.load(str(nano_copy / "model.safetensors")))
    gate = weights["model.layers.3.mlp.gate.weight"]
    weights["model.layers.3.mlp.gate.weight"] = mx.where(mx.arange(gate.size).reshape(gate.shape) == 0, mx.nan, gate)
    mx.save_safetensors(str(nano_copy / "model.safetensors"), weights, {"format": "pt"})
    output = tmp_path / "out.json"
    expect_error(["--model", str(nano_copy), "--output", str(output)], capsys, "Layer 3", "non-finite")
    assert not output.exists()


@pytest.mark.parametrize("tau", ["0", "1", "-0.2", "nan"])
def test_tau_outside(tau: str, capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--tau", tau], capsys, "tau")


def test_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    expect_error(["--output", str(tmp_path / "file" / "out.json")], capsys, "Cannot write")
    expect_error(["--output", str(tmp_path)], capsys, "folder")
    expect_error(["--plot", str(tmp_path / "load.jpg")], capsys, ".png, .svg or .pdf")


@pytest.mark.parametrize("output", ["", ".", "..", "/"])
def test_output_that_names_no_file(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--output", output], capsys, "Cannot write")


def test_output_never_replaces_what_is_no_statistics(nano_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (nano_copy / "model.safetensors").read_bytes()
    expect_error(["--output", str(nano_copy / "model.safetensors")], capsys, "holds no routing statistics")
    assert (nano_copy / "model.safetensors").read_bytes() == before
    expect_error(["--output", str(nano_copy / "config.json")], capsys, "holds no routing report")


def test_a_failed_run_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--dataset", "no-such", "--output", str(tmp_path / "a" / "b.json")], capsys, "no-such")
    assert list(tmp_path.iterdir()) == []


def test_seed_and_odd_models(capsys: pytest.CaptureFixture[str]) -> None:
    expect_error(["--seed", "-1"], capsys, "--seed")
    expect_error(["--model", "~nosuchuser/model"], capsys, "No such folder")
    expect_error(["--model", ""], capsys, "empty")


@pytest.mark.parametrize(("k", "words"), [(17, "17"), (0, "0"), (2.5, "2.5"), ("two", "two")])
def test_impossible_top_k(nano_copy: Path, k: object, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_config(nano_copy, num_experts_per_tok=k)
    expect_error(["--model", str(nano_copy)], capsys, "num_experts_per_tok", words)


def test_tokenizer_of_another_model(nano_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids beyond the embedding are read from memory that is not the model's, without a word from MLX."""
    weights = dict(mx.load(str(nano_copy / "model.safetensors")))
    weights = {k: v[:4000] if v.shape[0] == 4096 else v for k, v in weights.items()}
    mx.save_safetensors(str(nano_copy / "model.safetensors"), weights, {"format": "pt"})
    rewrite_config(nano_copy, vocab_size=4000)
    expect_error(["--model", str(nano_copy), "--output", str(tmp_path / "o")], capsys, "4000", "tokenizer")


def test_sequences_longer_than_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "word " * 3000}))
    expect_error(
        ["--dataset", str(tmp_path / "long.jsonl"), "--max-length", "2000"], capsys, "2000", "--max-length 1024"
    )


def test_paths_with_every_character(nano_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / "run[1] $x$ <b>量"
    nano_copy.rename(odd)
    plot = odd / "load[1].svg"
    main(
        [
            "analyze",
            "--quiet",
            "--max-samples",
            "3",
            "--model",
            str(odd),
            "--output",
            str(odd / "o"),
            "--plot",
            str(plot),
        ]
    )
    assert odd.name in capsys.readouterr().out.replace("\n", " ")
    assert plot.exists()


def test_ctrl_c_while_writing_leaves_no_half_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "--quiet", "--max-samples", "3", "--output", str(tmp_path / "o")])
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "Error: Stopped by Ctrl-C."
    assert list(tmp_path.iterdir()) == []


def test_wrong_flag_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["analyse"], ["analyze", "--modle", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "Did you mean" in capsys.readouterr().err


def test_doctor_says_what_a_bug_report_needs_and_nothing_of_the_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home of somebody"
    home.mkdir()
    secrets = {
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "MLX_MOEBENCH_SECRET_KEY": "xyzzy",
        "HF_ENDPOINT": "https://somebody:plugh@hub.example/api",
        "AWS_SECRET_ACCESS_KEY": "abracadabra",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    monkeypatch.setenv("MLX_MOEBENCH_DEBUG", f"{home}:{secrets['HF_TOKEN']}")
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    printed = capsys.readouterr().out
    for secret in ("somebody", "abcdefghij", "xyzzy", "plugh", "abracadabra", str(tmp_path)):
        assert secret not in printed
    found = json.loads(printed)
    assert found["environment"] | {"HF_HOME": "~/hub", "HF_TOKEN": "set"} == found["environment"]
    assert found["environment"]["HF_ENDPOINT"] == "https://...@hub.example/api"
    assert found["environment"]["MLX_MOEBENCH_DEBUG"] == "~:..."
    assert found["disk_free_gb"]["hub_cache"] > 0
    assert set(found["extras"]) == {"data", "demo", "eval", "torch", "vlm"}
    known = {
        "python",
        "platform",
        "processor",
        "cores",
        "threads",
        "memory_gb",
        "blas",
        "mlx",
        "mlx_lm",
        "numpy",
        "device",
    }
    assert known <= found.keys()
