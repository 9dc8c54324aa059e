"""mlx-lm's server with the routers tapped: its answers, our counts, what is refused, what is kept."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from serve_process import COUNTER, OURS, THEIRS, Server, checkpoint, refused, serving, summed, until

pytest.importorskip("mlx_lm", reason="needs MLX")

from mlx_moebench.cli import group
from mlx_moebench.errors import MoebenchError
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.options import Plan
from mlx_moebench.pair import RoutingStats
from mlx_moebench.routing.record import RouterSpec
from mlx_moebench.routing.sums import Sums
from mlx_moebench.serve import library, page
from mlx_moebench.serve.answers import last_tokens, routing, values
from mlx_moebench.serve.keep import save
from mlx_moebench.serve.last_tokens import REQUESTS as FOLLOWED
from mlx_moebench.serve.models import ServedModels
from mlx_moebench.serve.prometheus import PREFIX, described, metrics
from mlx_moebench.serve.settings import ServeSettings
from mlx_moebench.serve.stats import ServedStats
from mlx_moebench.serve.window import Window

import mlx.core as mx  # isort: skip

DOCS = Path(__file__).parents[1] / "docs" / "serve.md"

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "What is 2 + 2?", "max_tokens": 24},
    {"prompt": "The number of students in the class is twice that of the teachers, of whom there are", "max_tokens": 5},
    {"prompt": "A farmer has", "max_tokens": 40, "stream": True},
    {"prompt": "def f(x):", "max_tokens": 17, "seed": 3},
    {"prompt": "def g(x, y):\n    return", "max_tokens": 12, "seed": 4, "stream": True},
    {"prompt": "Once upon a time " * 12, "max_tokens": 9},
    {"prompt": "x", "max_tokens": 33, "stream": True},
]
NEVER = {"logit_bias": {"0": -100.0}}
"""So that no text ends early: token 0 stands at padding only, which the second counter relies on."""


# -- flags, hosts, windows, texts ------------------------------------------------------------------------------------


def test_every_flag_of_mlx_lm_is_taken_and_shown() -> None:
    shown = CliRunner().invoke(group, ["serve", "--help"]).output
    names = [action.option_strings[-1] for action in library.flags()._actions]
    assert {"--model", "--draft-model", "--kv-bits", "--adapter-path", "--prompt-cache-size"} <= set(names)
    assert not [name for name in names if name not in shown]


def test_mlx_lm_is_left_as_it_was() -> None:
    from mlx_lm import server

    before = (server.argparse, server.run, server.ModelProvider, server.stream_generate)
    seen: list[Any] = []
    library.main(["--port", "1234", "--temp", "0.5"], seen.append, threading.Event())
    assert (seen[0].port, seen[0].temp, seen[0].allowed_origins) == (1234, 0.5, None)
    with pytest.raises(MoebenchError, match=r"Unrecognized arguments: --prot"):
        library.main(["--prot", "1234"], seen.append, threading.Event())
    assert (server.argparse, server.run, server.ModelProvider, server.stream_generate) == before


def sums(tokens: int, *counts: int) -> Sums:
    return Sums(
        len(counts), 1, "softmax", np.array(tokens), np.array(counts), np.array(counts), np.zeros(len(counts)),
        np.full(9, float(tokens)),
    )  # fmt: skip


def test_a_window_slides() -> None:
    now = [0.0]
    window = Window(60, lambda: now[0])
    for second in range(0, 200, 5):
        now[0] = float(second)
        window.note({"decode": [sums(second, second, 0)]})
    seconds, late = window.of({"decode": [sums(250, 195, 55)], "prefill": [sums(3, 3, 0)]})
    assert 60 <= seconds <= 65
    assert late["decode"][0].counts.tolist() == [seconds, 55]
    assert late["decode"][0].n_tokens == 55 + seconds
    assert late["prefill"][0].counts.tolist() == [3, 0]
    now[0] = 1000.0
    window.note({"decode": [sums(250, 195, 55)]})
    now[0] = 1070.0
    assert window.of({"decode": [sums(250, 195, 55)]})[1]["decode"][0].n_tokens == 0
    assert len(window._before) < 20


def test_numbers_of_a_router_that_saw_nothing_are_null() -> None:
    spec = RouterSpec(0, 0, "mlp", 2, 1)
    assert values(spec, sums(0, 0, 0)) == {
        "tokens": 0, "entropy": None, "top_share": None, "dead_experts": None, "busiest_expert": None,
        "load": [None, None],
    }  # fmt: skip
    seen = values(spec, sums(4, 1, 3))
    assert (seen["load"], seen["busiest_expert"], seen["top_share"], seen["dead_experts"]) == ([0.25, 0.75], 1, 0.75, 0)


@pytest.fixture
def models(tmp_path: Path, make_tiny: Any, cpu: None) -> Iterator[ServedModels]:
    served = ServedModels(ServeSettings(tmp_path / "out.json", sequences=16))
    model = make_tiny()
    served.open(('a "b"\\c\nd', None, None), model)
    model(mx.array([[1, 2, 3, 4, 5]]))
    served.model = model  # type: ignore[attr-defined]  # alive
    yield served
    served.close()


LINE = re.compile(r'^(\w+)(\{(?:\w+="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*\})? (-?[\d.e+-]+)$')


def test_metrics_are_in_the_format_and_few(models: ServedModels) -> None:
    text = metrics(models)
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            found = LINE.match(line)
            assert found, line
            assert found[1] in kinds
            assert found[1].endswith("_total") == (kinds[found[1]] == "counter")
    assert r'model="a \"b\"\\c\nd"' in text
    routers = len(models.current.stats.specs)  # type: ignore[union-attr]
    assert len([line for line in text.splitlines() if "layer=" in line]) == routers * 8
    assert "expert_selections" not in text


@pytest.mark.parametrize(("room", "series"), [(23, 0), (24, 24), (1000, 24)])
def test_experts_have_series_only_where_there_is_room(models: ServedModels, room: int, series: int) -> None:
    models.settings = ServeSettings(models.settings.output, expert_series=room)
    lines = metrics(models).splitlines()
    assert len([line for line in lines if line.startswith(f"{PREFIX}expert_selections_total")]) == series
    assert any("series_left_out" in line for line in lines) == (series == 0)


def test_counters_never_fall(models: ServedModels) -> None:
    def counters() -> dict[str, float]:
        lines = [line.rpartition(" ") for line in metrics(models).splitlines() if "_total{" in line]
        return {name: float(value) for name, _, value in lines}

    before = counters()
    for length in (1, 2, 3, 7):
        models.model(mx.array([list(range(1, length + 1))]))  # type: ignore[attr-defined]
        now = counters()
        assert all(now[name] >= value for name, value in before.items())
        before = now


def test_the_page_names_every_metric() -> None:
    text = DOCS.read_text(encoding="utf-8")
    named = dict(re.findall(rf"^\| `{PREFIX}(\w+)` \| (\w+) \|", text, re.MULTILINE))
    assert named == {name: metric.kind for name, metric in described().items()}


def test_the_live_page_is_one_file_that_asks_only_its_server() -> None:
    text = page.view()
    assert set(re.findall(r"\w+://[\w.]*", text)) == {"http://www.w3.org"}  # the name of SVG, which nothing asks for
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", text)
    for kind in ("script", "style"):
        inside = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert len(inside) == 1
        import base64
        import hashlib

        assert base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode() in page.POLICY


def test_no_choice_of_a_token_is_kept_unless_it_was_asked_for(models: ServedModels) -> None:
    assert last_tokens(models) == {"most": 0, "latest": None}
    assert models.current.stats.last is None  # type: ignore[union-attr]


def test_the_last_tokens_of_the_latest_request_are_what_the_routers_chose(
    tmp_path: Path, make_tiny: Any, cpu: None
) -> None:
    served = ServedModels(ServeSettings(tmp_path / "out.json", last_tokens=4))
    model = make_tiny()
    assert last_tokens(served) == {"most": 4, "latest": None}
    served.open(("one", None, None), model)
    assert last_tokens(served)["latest"] is None
    seen: list[Any] = []
    with LiveRoutingStats(model, tokens=seen.append) as stats:
        model(mx.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]]))
    assert stats.n_tokens == 12
    latest = last_tokens(served)["latest"]
    blocks = sorted(seen, key=lambda block: block.number)
    assert (latest["request"], latest["first"], latest["phases"]) == (2, 2, ["prefill"] * 4)
    for number, block in enumerate(blocks):
        order = np.argmax(block.p[1], axis=-1)
        first = np.take_along_axis(block.experts[1], order[:, None], axis=-1)[:, 0]
        assert [experts[number] for experts in latest["experts"]] == first[-4:].tolist()
        weights = np.take_along_axis(block.weights[1], order[:, None], axis=-1)[-4:, 0]
        np.testing.assert_allclose([w[number] for w in latest["weights"]], weights, rtol=1e-3)
    model(mx.array([[1]]))
    latest = last_tokens(served)["latest"]
    assert (latest["request"], latest["first"], len(latest["experts"])) == (3, 0, 1)
    assert [router["n_experts"] for router in latest["routers"]] == [spec.n_experts for spec in stats.specs]
    for _ in range(40):  # requests are forgotten, and so memory is bounded
        model(mx.array([[1, 2]]))
    assert last_tokens(served)["latest"]["request"] == 43
    assert len(served.current.stats.last._requests) == FOLLOWED  # type: ignore[union-attr]
    served.close()


def test_counts_are_those_without_the_last_tokens(make_tiny: Any, cpu: None) -> None:
    from mlx_lm.generate import BatchGenerator

    model = make_tiny()
    stats = [ServedStats(model), ServedStats(model, last_tokens=5)]
    generator = BatchGenerator(model, max_tokens=12, prefill_step_size=4)
    generator.insert([[5, 6, 7], [8, 9, 10, 11, 12, 13]])
    for _ in range(30):
        generator.next()
    generator.close()
    for phase in ("prefill", "decode"):
        without, kept = (one.phase_stats(phase) for one in stats)
        assert without.n_tokens == kept.n_tokens > 0
        for number in range(len(kept.specs)):
            np.testing.assert_array_equal(without.sums(number).counts, kept.sums(number).counts)
    answer = stats[1].last.answer(stats[1].specs)["latest"]  # type: ignore[union-attr]
    assert set(answer["phases"]) == {"decode"}
    assert len(answer["experts"]) == 5


def test_last_tokens_are_the_same_tallied_together_and_one_by_one(make_tiny: Any, cpu: None) -> None:
    from mlx_lm.generate import BatchGenerator

    class OneByOne(ServedStats):
        together = 1

    model = make_tiny()
    every = [ServedStats(model, last_tokens=20), OneByOne(model, last_tokens=20)]
    generator = BatchGenerator(model, max_tokens=70, prefill_step_size=4)
    generator.insert([[5, 6, 7], [8, 9, 10, 11, 12, 13]], [70, 45])
    for _ in range(100):
        generator.next()
    generator.close()
    for one in every:
        with one.holding():
            pass
    together, single = ([request.last for request in one.last._requests.values()] for one in every)  # type: ignore[union-attr]
    assert sorted(map(list, together)) == sorted(map(list, single))
    assert [len(last) for last in together] == [20, 20]
    assert every[0].last.answer(every[0].specs) == every[1].last.answer(every[1].specs)  # type: ignore[union-attr]


# -- models that come and go -----------------------------------------------------------------------------------------


def test_a_model_that_comes_back_goes_on_with_its_own(tmp_path: Path, make_tiny: Any, cpu: None) -> None:
    served = ServedModels(ServeSettings(tmp_path / "out.json"))
    first, second = make_tiny(), make_tiny(seed=1)
    for key, model, tokens in (("one", first, 4), ("two", second, 3), ("one", first, 2)):
        served.open((key, None, None), model)
        model(mx.array([list(range(1, tokens + 1))]))
        for one in served.every.values():
            save(one, Plan(resamples=200))
        served.close()
    assert {one.name: sum(int(s[0].n_tokens) for s in one.totals().values()) for one in served.every.values()} == {
        "one": 6, "two": 3,
    }  # fmt: skip
    for one in served.every.values():
        save(one, Plan(resamples=200))
    assert RoutingStats.load(tmp_path / "out.json").sums(0).n_tokens.tolist() == [4, 2]
    assert RoutingStats.load(tmp_path / "out.two.json").n_tokens == 3
    said = routing(served)
    assert said["model"] is None
    assert [one["tokens"] for one in said["other_models"]] == [{"prefill": 6}, {"prefill": 3}]


def test_a_dense_model_of_a_request_is_served_and_said(tmp_path: Path, cpu: None) -> None:
    from mlx_lm.models.llama import Model, ModelArgs

    arguments = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    arguments |= {"num_attention_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 32}
    served = ServedModels(ServeSettings(tmp_path / "out.json"))
    served.open(("dense", None, None), Model(ModelArgs.from_dict(arguments)))
    said = routing(served)
    assert not said["model"]["recorded"]
    assert "llama" in said["model"]["reason"]
    assert "recorded{" in metrics(served)
    assert not save(served.every["dense", None, None], Plan(resamples=200))


def test_memory_is_bounded_by_sequences(models: ServedModels) -> None:
    served = models.current
    assert served is not None
    assert served.stats is not None
    for _ in range(40):
        models.model(mx.array([[1, 2]]))  # type: ignore[attr-defined]
    assert served.stats.n_tokens == 85
    assert len(served.stats.clusters) == 16


def test_numbers_that_are_none_do_not_stop_a_request(models: ServedModels, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = models.model  # type: ignore[attr-defined]
    gate = model.layers[1].mlp.gate
    kept, gate.weight = gate.weight, gate.weight * float("nan")
    for _ in range(70):  # more than wait together to be added
        mx.eval(model(mx.array([[1, 2]])))
    gate.weight = kept
    model(mx.array([[3]]))
    said = routing(models)
    assert said["phases"]["prefill"]["all"]["tokens"] == 6
    assert said["model"]["not_recorded"][0]["forwards"] >= 1
    assert len([line for line in caplog.messages if "numbers of a forward were none" in line]) == 1


def test_steps_tallied_together_count_as_each_by_itself(make_tiny: Any, cpu: None) -> None:
    """Rows that join and leave break a series; pairs, adjacent tokens and transitions go on across it."""
    from mlx_lm.generate import BatchGenerator

    model = make_tiny()
    stats = {"each": LiveRoutingStats(model), "together": ServedStats(model)}
    generator = BatchGenerator(model, max_tokens=40, prefill_step_size=4)
    generator.insert([[5, 6, 7], [8, 9, 10, 11, 12, 13]], max_tokens=[40, 11])
    for step in range(60):
        if step == 20:
            generator.insert([[14]])
        if step == 25:
            assert stats["together"].phase_stats("decode").n_tokens > 20  # a look in the middle
        generator.next()
    generator.close()
    model(mx.array([[1, 2, 3]]))
    for phase in ("prefill", "decode"):
        a, b = (one.phase_stats(phase) for one in stats.values())
        assert a.clusters == b.clusters
        assert a.n_tokens == b.n_tokens == (13 if phase == "prefill" else 90)
        for number in range(len(a.specs)):
            x, y = a.sums(number), b.sums(number)
            np.testing.assert_array_equal(x.counts, y.counts)
            np.testing.assert_array_equal(x.top1_counts, y.top1_counts)
            np.testing.assert_array_equal(a.pairs(number), b.pairs(number))
            np.testing.assert_allclose(x.scalars, y.scalars, rtol=1e-5, atol=1e-5)
            if number + 1 < len(a.specs):
                np.testing.assert_array_equal(a.transition_counts(number), b.transition_counts(number))


# -- real servers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("serve") / "nano32")


def answers(server: Server) -> list[tuple[str, Any]]:
    """Of all requests at once, and of one that is cancelled after a few tokens. Which request finds the first tokens
    of another in the prompt cache depends on which ends first, so that is left out."""
    cancelled = json.dumps({"prompt": "The sum", "max_tokens": 400, "temperature": 0, "stream": True, **NEVER}).encode()
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        asked = [pool.submit(server.complete, **body, **NEVER) for body in REQUESTS]
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(cancelled)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as line:
            line.sendall(head.encode() + cancelled)
            got = b""
            while got.count(b"data: ") < 5:
                got += line.recv(4096)
        made = [one.result() for one in asked]
    for _, said in made:
        if isinstance(said, dict):
            del said["prompt_tokens_details"]
    return made


@pytest.mark.slow
def test_eight_requests_at_once_are_answered_as_without_us_and_counted_to_the_last_selection(
    nano: Path, tmp_path: Path
) -> None:
    with serving(THEIRS, "--model", str(nano), cwd=tmp_path) as plain:
        expected = answers(plain)
    counted, seen, stop = tmp_path / "counted.json", [], threading.Event()
    code = COUNTER.replace("COUNTED", repr(str(counted))) + OURS
    with serving(code, "--model", str(nano), "--output", "out.json", "--save-every", "0.5", cwd=tmp_path) as server:

        def read() -> None:
            while not stop.is_set():
                said = server.routing()
                server.get("/metrics")
                for part in said["phases"].values():
                    assert len({router["tokens"] for router in part["all"]["routers"]}) == 1
                seen.append(sum(part["all"]["tokens"] for part in said["phases"].values()))

        with ThreadPoolExecutor(1) as readers:
            reading = readers.submit(read)
            made = answers(server)
            until(lambda: server.status("/health") == 200 and len(seen) > 3)
            stop.set()
            reading.result()
        said = server.routing("?over=all")
        assert server.end() == 128 + signal.SIGTERM, server.log
    assert made == expected
    assert seen == sorted(seen)
    files = [tmp_path / "out.json", tmp_path / "out.decode.json"]
    np.testing.assert_array_equal(summed(*files), np.array(json.loads(counted.read_text())))
    assert said["model"]["not_recorded"] == []
    assert "unsplit" not in said["phases"]
    decoded = sorted(RoutingStats.load(files[1]).sums(0).n_tokens.tolist())
    for length in sorted(body["max_tokens"] for body in REQUESTS):
        decoded.remove(length)
    assert len(decoded) == 1  # the one that was cancelled
    assert decoded[0] < 400


@pytest.mark.slow
def test_the_same_texts_measured_in_every_way_have_the_same_counts(nano: Path, tmp_path: Path) -> None:
    """Of generated tokens: analyze --generate, batches of 1, 3 and 8 rows, and the server. No selection ties here."""
    import mlx_lm

    import mlx_moebench

    texts = [
        "What is 2 + 2?",
        "A farmer has",
        "def f(x):",
        "Once upon a time",
        "The sum of",
        "If x is",
        "Ann has",
        "So",
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = ["analyze", "--model", str(nano), "--dataset", str(tmp_path / "texts.jsonl"), "--generate", "12"]
    done = CliRunner().invoke(group, [*arguments, "--output", str(tmp_path / "analyze.json"), "--quiet"])
    assert done.exit_code == 0, done.output
    ways = {"analyze": RoutingStats.load(tmp_path / "analyze.decode.json")}
    model, tokenizer = mlx_lm.load(str(nano))
    for rows in (1, 3, 8):
        with mlx_moebench.attach(model) as stats:
            mlx_moebench.batch_generate(
                model, tokenizer, texts, 12, completion_batch_size=rows, prefill_batch_size=rows
            )
            ways[f"{rows} rows"] = stats.phase_stats("decode")
    with serving(OURS, "--model", str(nano), "--output", "out.json", cwd=tmp_path) as server:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda text: server.complete(prompt=text, max_tokens=12), texts))
        assert server.end() == 128 + signal.SIGTERM, server.log
    ways["serve"] = RoutingStats.load(tmp_path / "out.decode.json")
    first = ways["analyze"]
    assert first.n_tokens == 96
    for name, stats in ways.items():
        for router in range(len(stats.specs)):
            np.testing.assert_array_equal(stats.totals(router).counts, first.totals(router).counts, err_msg=name)
            assert stats.values(router)["tied_selections"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_everything(nano: Path, tmp_path: Path, how: signal.Signals) -> None:
    with serving(OURS, "--model", str(nano), "--output", "out.json", cwd=tmp_path) as server:
        server.complete(prompt="What is", max_tokens=7)
        with ThreadPoolExecutor(1) as pool:  # in the middle of a request that runs alone, and is long
            running = pool.submit(server.complete, prompt="x", max_tokens=5000, seed=1, stream=True, **NEVER)
            until(lambda: server.routing()["phases"].get("decode", {}).get("all", {}).get("tokens", 0) > 10)
            assert server.end(how) == 128 + how, server.log
            assert running.exception(60) is not None or running.result()[1] is None
        assert "Wrote" in server.log
        assert "Traceback" not in server.log
    assert RoutingStats.load(tmp_path / "out.decode.json").n_tokens > 10
    assert sorted(RoutingStats.load(tmp_path / "out.json").sums(0).n_tokens.tolist())[-1] == 2


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_saved(nano: Path, tmp_path: Path) -> None:
    arguments = ("--model", str(nano), "--output", "out.json", "--save-every", "0.3")
    with serving(OURS, *arguments, cwd=tmp_path) as server:
        server.complete(prompt="What is", max_tokens=7)
        until(lambda: server.routing()["model"]["saved"] is not None)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.complete, prompt="x", max_tokens=5000, seed=1, stream=True, **NEVER)
            until(lambda: server.routing()["phases"]["decode"]["all"]["tokens"] > 60)
            server.end(signal.SIGKILL)
            running.exception(60)
    for path in (tmp_path / "out.json", tmp_path / "out.decode.json"):
        RoutingStats.load(path).check()
    assert RoutingStats.load(tmp_path / "out.decode.json").n_tokens >= 7
    code, said = refused(*arguments, cwd=tmp_path)  # and the next server does not write over it
    assert (code, said.count("\n")) == (1, 1)
    assert "choose another --output" in said


READ_WHILE_IT_RUNS = """
import threading, time
import mlx_moebench
from mlx_moebench.models import load, select_device
from mlx_moebench.serve.stats import ServedStats
select_device("cpu")
model, tokenizer = load()
stats, ended = ServedStats(model, 64), threading.Event()
def read():
    while not ended.is_set():
        with stats.looking() as phases:
            [part.totals(0) for part in phases.values() if part.clusters]
readers = [threading.Thread(target=read) for _ in range(2)]
[reader.start() for reader in readers]
def generate():
    until = time.monotonic() + 15
    while time.monotonic() < until:
        list(mlx_moebench.stream_generate(model, tokenizer, [5, 6, 7, 8, 9], 90))
run = threading.Thread(target=generate)
run.start(); run.join(); ended.set()
[reader.join() for reader in readers]
print(stats.phase_stats("decode").n_tokens % 90)
"""


@pytest.mark.slow
def test_reading_all_the_while_does_not_end_the_process() -> None:
    """Two threads that look at one array which is still computed crash MLX, now and then."""
    done = subprocess.run([sys.executable, "-c", READ_WHILE_IT_RUNS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.slow
def test_pages_of_others_neither_read_nor_post(nano: Path, tmp_path: Path) -> None:
    arguments = ("--model", str(nano), "--output", "out.json", "--allow-host", "box.local")
    with serving(OURS, *arguments, cwd=tmp_path) as server:
        body = {"prompt": "x", "max_tokens": 1}
        for path, sent in (("/routing", None), ("/metrics", None), ("/routing/view", None), ("/v1/completions", body)):
            assert server.status(path, sent) == 200
            assert server.status(path, sent, Origin=f"http://127.0.0.1:{server.port}") == 200
            assert server.status(path, sent, Host="box.local") == 200
            assert server.status(path, sent, Origin="http://localhost:3000") == 403
            assert server.status(path, sent, Origin=f"http://localhost:{server.port}") == 403
            assert server.status(path, sent, Host="evil.example") == 403
            assert server.status(path, sent, Origin="https://evil.example") == 403
        assert server.status("/v1/models", Origin="https://evil.example") == 403
        assert server.status("/routing?phase=no") == 400
        assert server.status("/routing?phase=decode&over=window") == 200
        assert server.status("/nothing") == 404
        decoded = server.routing()["phases"]["decode"]["all"]["tokens"]
        assert decoded == 3  # what was refused ran nothing


@pytest.mark.slow
def test_drafts_quantised_caches_and_prefixes(nano: Path, tmp_path: Path) -> None:
    """Tokens of a request with a seed are apart in prompt and answer, and only what runs counts."""
    prompt = "The number of students in the class is"
    with serving(
        OURS, "--model", str(nano), "--output", "out.json", "--draft-model", str(nano), cwd=tmp_path
    ) as server:
        _, usage = server.complete(prompt=prompt, max_tokens=12)
        phases = server.routing()["phases"]
        assert phases["prefill"]["all"]["tokens"] == usage["prompt_tokens"]
        assert phases["decode"]["all"]["tokens"] in (11, 12)  # the last token may not have run
    with serving(OURS, "--model", str(nano), "--output", "kv.json", "--kv-bits", "8", "--kv-group-size", "32",
                 cwd=tmp_path) as server:  # fmt: skip
        ran = 0
        for _ in range(2):  # the second finds its prompt in the cache
            _, usage = server.complete(prompt=prompt, max_tokens=12)
            ran += usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0
        phases = server.routing()["phases"]
        assert {name: part["all"]["tokens"] for name, part in phases.items()} == {"prefill": ran, "decode": 24}


@pytest.mark.slow
def test_a_request_names_another_model(nano: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other")
    with serving(OURS, "--model", str(nano), "--output", "out.json", cwd=tmp_path) as server:
        for model in ("default_model", str(other), "default_model"):
            server.complete(prompt="What is", max_tokens=4, model=model)
        said = server.routing()
        assert said["model"]["name"] == "nano32"
        assert said["model"]["tokens"]["decode"] == 8
        assert [(one["name"], one["tokens"]["decode"]) for one in said["other_models"]] == [("other", 4)]
        until(lambda: server.routing()["other_models"][0]["files"])
        assert server.end() == 128 + signal.SIGTERM
    assert RoutingStats.load(tmp_path / "out.decode.json").n_tokens == 8
    assert RoutingStats.load(tmp_path / "out.other.decode.json").n_tokens == 4


@pytest.mark.slow
def test_what_cannot_be_served_is_one_sentence(nano: Path, tmp_path: Path) -> None:
    dense = checkpoint(tmp_path / "dense", model_type="llama", num_experts=None, num_experts_per_tok=None)
    torn = checkpoint(tmp_path / "torn", hidden_size=64)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = {
            "choose another --port": ("--model", str(nano), "--port", str(taken.getsockname()[1])),
            "No such folder": ("--model", "./nowhere"),
            "dense: its config": ("--model", str(dense)),
            "config.json and weights do not fit": ("--model", str(torn), "--port", "0"),
            "Unrecognized arguments": ("--model", str(nano), "--no-such-flag"),
            "--allow-host takes a name": ("--model", str(nano), "--allow-host", "http://x"),
            "not as .csv": ("--model", str(nano), "--output", "out.csv"),
        }
        for words, arguments in cases.items():
            code, said = refused(*arguments, cwd=tmp_path)
            errors = [line for line in said.splitlines() if line.startswith("Error: ")]
            assert code == 1, said
            assert len(errors) == 1, said
            assert words in errors[0]
            assert "Traceback" not in said
