"""mlx-vlm: its models go through the families' declarations, and tokens of images are apart from those of text."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from family_rows import BY_TYPE, Row, vocab_size
from routing_reference import SCHEMA
from without import without

from mlx_moebench.errors import DataError, MoebenchError, UnsupportedModelError
from mlx_moebench.families import vlm as declared
from mlx_moebench.families.base import module_at

pytest.importorskip("mlx.core", reason="needs MLX")


def test_no_folder_is_declared_twice_and_every_reason_is_of_another() -> None:
    same = [folder for folders in declared.SAME.values() for folder in folders]
    assert len(same) == len(set(same))
    assert not set(same) & declared.OTHERS.keys()
    assert not declared.served().keys() & declared.NOT_MEASURED.keys()


def test_without_mlx_vlm_the_extra_is_named() -> None:
    code = (
        f"{without('mlx_vlm')}from mlx_moebench import vlm\n"
        "from mlx_moebench.errors import MissingExtraError\n"
        "try:\n    vlm.measure(None, None, [])\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "mlx-moebench[vlm]"' in result.stdout


mlx_vlm = pytest.importorskip("mlx_vlm", reason="the extra `vlm` is not installed")

from mlx_vlm import moe_offload  # noqa: E402
from mlx_vlm.generate import generate_step  # noqa: E402

from mlx_moebench import RoutingStats, vlm  # noqa: E402
from mlx_moebench.cli import group  # noqa: E402
from mlx_moebench.families import family_for  # noqa: E402
from mlx_moebench.families.vlm import family_in_vlm  # noqa: E402
from mlx_moebench.instrument import attach, capture, config_of, routers_of  # noqa: E402
from mlx_moebench.instrument.models import family_of, language_model_of  # noqa: E402
from mlx_moebench.pair.profile import profile_of_stats  # noqa: E402

import mlx.core as mx  # noqa: E402  # isort: skip
from mlx.utils import tree_flatten  # noqa: E402  # isort: skip
from PIL import Image  # noqa: E402  # isort: skip
from vlm_models import BUILDERS, text_model  # noqa: E402  # isort: skip

ROOT = Path(__file__).parents[1]
MODELS = Path(mlx_vlm.__file__).parent / "models"

ROW_OF = {folder: name for name, folders in declared.SAME.items() for folder in folders}
ROW_OF |= {"cohere2_moe": "qwen3_moe", "deepseekocr": "deepseek_v3", "flint": "qwen3_moe", "mistral4": "mistral3"}
TEXT_ONLY = sorted(declared.served().keys() - BUILDERS.keys())
PROMPT = "what does the picture show?"


def row_of(folder: str) -> Row:
    """The row whose settings a folder's model is built from."""
    return BY_TYPE[folder if folder in BY_TYPE and folder not in declared.OTHERS else ROW_OF[folder]]


def pictures(n: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 48), (32, 64), (64, 64)]
    return [Image.fromarray(rng.integers(0, 255, (*sizes[k % 3], 3), dtype=np.uint8)) for k in range(n)]


@pytest.fixture(scope="module", params=list(BUILDERS))
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A tiny vision-language model and its processor; shared, and left as it was."""
    return BUILDERS[request.param]()


@pytest.fixture
def inputs(loaded: tuple[Any, Any]) -> dict[str, Any]:
    """What the model is called with for one image and one prompt."""
    made: dict[str, Any] = vlm._preparing()(*loaded, pictures(1)[0], PROMPT)
    return made


def is_deepseek(model: Any) -> bool:
    return type(model).__module__.startswith("mlx_vlm.models.deepseek_vl_v2")


def forward_of(model: Any, inputs: dict[str, Any]) -> Callable[[], mx.array]:
    """A forward to repeat. DeepSeek-VL2's copy of image features into the embeddings (mlx-vlm 0.7.10, on a CPU) now and
    then puts other rows there, or none, of equal features and with no tap on it: its embeddings are made once."""
    if not is_deepseek(model):
        return lambda: run(model, inputs)
    chosen = {key: inputs[key] for key in ("images_spatial_crop", "images_seq_mask")}
    embeddings = model.get_input_embeddings(inputs["input_ids"], inputs["pixel_values"], **chosen).inputs_embeds
    mx.eval(embeddings)
    return lambda: model.language_model(inputs["input_ids"], inputs_embeds=embeddings).logits


def run(model: Any, inputs: dict[str, Any]) -> mx.array:
    others = {key: value for key, value in inputs.items() if key not in ("input_ids", "pixel_values", "attention_mask")}
    logits: mx.array = model(inputs["input_ids"], inputs["pixel_values"], **others).logits
    return logits


def watch(module: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    """The list to which ``module`` adds the arguments and the output of every later call from outside itself."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    inside = []

    class Watched(type(module)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            inside.append(1)
            y = super().__call__(*args, **kwargs)
            inside.pop()
            if not inside:
                calls.append((args, kwargs, y))
            return y

    module.__class__ = Watched
    return calls


class Seen:
    """What one forward of a model showed, router by router."""

    def __init__(self, model: Any, forward: Callable[[], mx.array], blocks: str | None = None) -> None:
        self.before = forward()
        self.family, calls = family_of(model), []
        kinds = {name: type(module) for name, module in model.named_modules()}
        layers = [model.layers[spec.layer] for spec in routers_of(model)]
        forms = [self.family.form(spec.router) for spec in routers_of(model)]
        experts = [module_at(layer, form.experts) for layer, form in zip(layers, forms, strict=True)]
        self.received = [watch(module) for module in experts]
        self.blocks = [module_at(layer, blocks) for layer in layers] if blocks else []
        unique = {id(block): block for block in self.blocks}
        watched = {key: watch(block) for key, block in unique.items()}
        self.outputs = [watched[id(block)] for block in self.blocks]
        with capture(model, lambda *call: calls.append(call)) as taps:
            self.after = forward()
        self.calls, self.specs = calls, taps.specs
        shape = calls[0][3]
        self.routing = [taps.routing(*call[:3], mx.ones(shape, dtype=mx.bool_)) for call in calls]
        self.silent = [Silence(module) for module in experts]
        self.restore = lambda: [
            setattr(module, "__class__", kinds[name]) for name, module in model.named_modules() if name in kinds
        ]

    def check(self) -> None:
        """Bit-identical outputs, every router once, the choice that the declared rule says, and K distinct experts."""
        assert mx.array_equal(self.before, self.after)
        assert [number for number, *_ in self.calls] == list(range(len(self.specs)))
        for routing, spec, received in zip(self.routing, self.specs, self.received, strict=True):
            indices = np.array(routing.indices)
            if len(received[0][0]) > 1 and not spec.kinds:  # dbrx tells its experts nothing
                np.testing.assert_array_equal(indices.reshape(received[0][0][1].shape), received[0][0][1])
            ranked = np.array(routing.logits if routing.selection is None else routing.selection)
            best = np.argsort(-ranked, axis=-1)[..., : spec.top_k]
            np.testing.assert_array_equal(np.sort(indices), np.sort(best))

    def check_sum(self, owns: list[np.ndarray]) -> None:
        """What a block adds to what it gives while its experts are silent: the sum of g x outputs.

        owns: for each router, the positions whose output is its own.
        """
        for block in {id(one): n for n, one in enumerate(self.blocks)}.values():
            mine = [n for n, one in enumerate(self.blocks) if one is self.blocks[block]]
            args, kwargs, output = self.outputs[block][0]
            total = 0.0
            for n in mine:
                g, (_, _, y) = np.array(self.routing[n].weights), self.received[n][0]
                weighted = (g[..., None] * np.array(y).reshape(*g.shape, -1)).sum(axis=-2)
                total = total + owns[n][..., None] * weighted
            for n in mine:
                self.silent[n].on()
            rest = self.blocks[block](*args, **kwargs)
            for n in mine:
                self.silent[n].off()
            np.testing.assert_allclose(total + np.array(rest), output, atol=1e-5)
            assert np.abs(np.array(output - rest)).max() > 1e-3  # wrong weights would show


class Silence:
    """Experts that give 0 while it is on."""

    def __init__(self, module: Any) -> None:
        self.module, self.kind = module, type(module)

        class Silent(self.kind):  # type: ignore[misc,name-defined]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return mx.zeros_like(super().__call__(*args, **kwargs))

        self.silent = Silent

    def on(self) -> None:
        self.module.__class__ = self.silent

    def off(self) -> None:
        self.module.__class__ = self.kind


def test_image_inputs_go_through_the_declarations(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    model = loaded[0]
    seen = Seen(model, forward_of(model, inputs), "mlp")
    try:
        seen.check()
        image = vlm.image_positions(model, inputs)
        kinds = {spec.router for spec in seen.specs}
        seen.check_sum(
            [np.ones_like(image) if kinds == {"mlp"} else image == (s.router == "vision") for s in seen.specs]
        )
    finally:
        seen.restore()


# Their experts' outputs are projected, mixed or joined before the block's: only the choice is checked.
NOT_A_SUM = "dbrx, gemma4, gemma4_text, kimi_k3, klear, llama4, longcat_flash, longcat_flash_sparse, nemotron_h"


@pytest.mark.parametrize("length", [40, 5])
@pytest.mark.parametrize("folder", [*TEXT_ONLY, "kimi_k25"])  # which has the blocks of another folder
def test_every_declared_folder(folder: str, length: int) -> None:
    """Short inputs too: from 2 to 8 positions, mlx-vlm's experts call themselves once for each."""
    row = row_of(folder)
    model = text_model(folder, row)
    ids = mx.random.randint(0, vocab_size(row.config), (2, length), key=mx.random.key(1))
    language = language_model_of(model)
    seen = Seen(model, lambda: language(ids).logits, None if folder in NOT_A_SUM.split(", ") else row.places[0].block)
    seen.check()
    if folder not in NOT_A_SUM.split(", "):
        seen.check_sum([np.ones(ids.shape)] * len(seen.specs))


def test_image_positions_are_those_that_features_take(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """By the ids, and by the embeddings: with an image they differ from those of the ids alone just there."""
    (model, processor), ids = loaded, inputs["input_ids"]
    found = vlm.image_positions(model, inputs)
    assert 0 < found.sum() < found.size
    if is_deepseek(model):  # see `forward_of`
        np.testing.assert_array_equal(found, np.array(ids) == processor.image_token_id)
        return
    others = {key: value for key, value in inputs.items() if key not in ("input_ids", "pixel_values", "attention_mask")}
    merged = model.get_input_embeddings(ids, inputs["pixel_values"], **others).inputs_embeds
    plain = language_model_of(model).model.embed_tokens(ids)
    np.testing.assert_array_equal(found, np.array((merged != plain).any(axis=-1)))


def test_measure_keeps_tokens_of_images_and_of_text_apart(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    kinds = {name: type(module) for name, module in model.named_modules()}
    pairs = [(picture, f"{PROMPT} {'why? ' * n}") for n, picture in enumerate(pictures(4))]
    stats = vlm.measure(model, processor, pairs)
    stats.check()
    prepare = vlm._preparing()
    made = [prepare(model, processor, picture, prompt) for picture, prompt in pairs]
    of_image = [vlm.image_positions(model, one) for one in made]
    domains = stats.by_domain()
    assert list(domains) == ["image", "text"]
    expected = {"image": [int(mask.sum()) for mask in of_image], "text": [int((~mask).sum()) for mask in of_image]}
    for name, part in domains.items():
        assert [row for _, row in part.clusters] == [0, 1, 2, 3]
        for number, spec in enumerate(part.specs):
            sums = part.sums(number)
            assert sums.n_tokens.tolist() == expected[name]
            assert (sums.counts.sum(axis=1) == spec.top_k * sums.n_tokens).all()
        jsonschema.validate(part.report(), SCHEMA)
    report = stats.report()
    jsonschema.validate(report, SCHEMA)
    assert {source["name"] for source in report["data"]["sources"]} == {"image", "text"}
    assert {router["router"] for router in report["routers"]} == {spec.router for spec in routers_of(model)}
    assert {name: type(module) for name, module in model.named_modules()} == kinds  # every tap is off


def test_counts_of_one_image_are_those_of_the_experts(loaded: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    """Each domain against a count by hand over the indices of the one forward that is run."""
    model, processor = loaded
    calls: list[Any] = []
    with capture(model, lambda *call: calls.append(call)):
        stats = vlm.measure(model, processor, [(pictures(1)[0], PROMPT)]).by_domain()
    assert [number for number, *_ in calls] == list(range(len(routers_of(model))))
    of_image = vlm.image_positions(model, inputs)
    for number, _, indices, shape in calls:
        chosen = np.array(indices).reshape(*shape, -1)
        for name, mask in (("image", of_image), ("text", ~of_image)):
            counts = np.bincount(chosen[mask].ravel(), minlength=stats[name].specs[number].n_experts)
            np.testing.assert_array_equal(stats[name].totals(number).counts, counts)


def test_modality_and_expert_share_information(tmp_path: Path) -> None:
    """It is at most ln 2, that of two sets of experts that nothing shares; a saved pair keeps both domains."""
    model, processor = BUILDERS["qwen3_vl_moe"]()
    stats = vlm.measure(model, processor, [(picture, PROMPT) for picture in pictures(12)])
    stats.save(tmp_path / "stats")
    report = profile_of_stats([RoutingStats.load(tmp_path / "stats.json")]).report()
    assert {domain["name"] for domain in report["domains"]} == {"image", "text"}
    for router in report["routers"]:
        information = router["domain_information"]
        assert 0 <= information["value"] <= np.log(2)
        shares = router["domain_specialisation"]["shares"]
        assert {name: round(sum(row), 6) for name, row in shares.items()} == {"image": 2.0, "text": 2.0}
    assert max(router["domain_information"]["value"] for router in report["routers"]) > 0.01


def saved(folder: Path) -> Path:
    """A checkpoint of the tiny qwen3_vl_moe as mlx-vlm loads it, and a data set of two images."""

    def plain(config: Any) -> dict[str, Any]:
        given = {key: value for key, value in vars(config).items() if value is not None}
        return {key: plain(value) if is_dataclass(value) else value for key, value in given.items()}

    model, processor = BUILDERS["qwen3_vl_moe"]()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(plain(model.config)), encoding="utf-8")
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    processor.tokenizer.save_pretrained(folder)
    images = {"patch_size": 8, "min_pixels": 256, "max_pixels": 4096, "merge_size": 2, "temporal_patch_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    rows = []
    for n, picture in enumerate(pictures(2)):
        picture.save(folder / f"{n}.png")
        rows.append({"image": str(folder / f"{n}.png"), "text": PROMPT})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("vlm") / "tiny-vl")


def test_the_script_of_the_page_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (page,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "vlm.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    code = page.replace("mlx-community/Qwen3-VL-30B-A3B-Instruct-4bit", str(checkpoint))
    exec(code.replace('"pairs.jsonl"', repr(str(checkpoint / "pairs.jsonl"))), {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in printed] == ["1", "3"]
    assert all(0 <= float(words[-1]) <= np.log(2) for words in printed)
    result = CliRunner().invoke(group, ["profile", "modalities.json", "--json"])
    assert result.exit_code == 0, result.output
    assert [domain["name"] for domain in json.loads(result.stdout)["models"][0]["domains"]] == ["image", "text"]


# mlx-vlm leaves files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_folder_is_called_and_where_its_experts_lie(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mlx-vlm can leave experts on disk: another class in their place, and the same routing."""
    moe_offload.repack(str(checkpoint), str(tmp_path / "offloaded"))
    pairs = [(checkpoint / f"{n}.png", PROMPT) for n in range(2)]
    resident, offloaded = (
        vlm.measure(*mlx_vlm.load(str(folder)), pairs) for folder in (checkpoint, tmp_path / "offloaded")
    )
    capsys.readouterr()  # it tells of its work
    assert (resident.model["id"], resident.model["weight_bits"]) == ("tiny-vl", 32)
    assert (offloaded.model["id"], offloaded.model["weight_bits"]) == ("offloaded", None)
    jsonschema.validate(offloaded.report(), SCHEMA)
    for number in range(len(resident.specs)):
        np.testing.assert_array_equal(resident.totals(number).counts, offloaded.totals(number).counts)


def test_the_command_line_names_the_function(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with images are not read as if they had none, and a model that mlx-lm lacks is measured elsewhere."""
    monkeypatch.chdir(tmp_path)  # where analyze writes its pair
    result = CliRunner().invoke(group, ["analyze", "--dataset", str(checkpoint / "pairs.jsonl")])
    assert result.exit_code == 1
    assert "has images beside its texts" in str(result.exception)
    assert "mlx_moebench.vlm.measure" in str(result.exception)
    chosen = ["analyze", "--dataset", f"{checkpoint / 'pairs.jsonl'}@text", "--max-samples", "1", "--quiet"]
    assert CliRunner().invoke(group, chosen).exit_code == 0
    with pytest.raises(UnsupportedModelError, match="no model_type 'deepseek_vl_v2', and mlx-vlm has: load it"):
        family_for({"model_type": "deepseek_vl_v2", "language_config": {"n_routed_experts": 8}})
    also_in_transformers = {"model_type": "glm4v_moe"}
    with pytest.raises(
        UnsupportedModelError, match=r"with the backend torch, or mlx-vlm's model with mlx_moebench\.vlm"
    ):
        family_for(also_in_transformers).check(also_in_transformers)


def test_images_that_are_the_same_count_once_and_others_do_not() -> None:
    """Two images of one size have the same token ids."""
    model, processor = BUILDERS["qwen3_vl_moe"]()
    first, second = pictures(1)[0], pictures(1)[0].transpose(Image.Transpose.ROTATE_180)
    report = vlm.measure(model, processor, [(first, PROMPT), (second, PROMPT), (first, PROMPT)]).report()
    assert report["data"]["repeated_sequences"] == 2  # the third row, in each domain


def test_text_alone_runs_one_of_two_routers() -> None:
    """Then the forward is no whole one: it is said, and not counted; with token types it is."""
    model, _ = BUILDERS["ernie4_5_moe_vl"]()
    ids = mx.array([[20, 21, 22, 23]])
    before = model(ids).logits
    with attach(model) as stats:
        with pytest.warns(RuntimeWarning, match="did not run, so this forward pass is not recorded") as warned:
            after = model(ids).logits
        assert [str(one.message).split(" did")[0] for one in warned] == ["layer.1.vision and layer.2.vision"]
        assert mx.array_equal(before, after)
        assert stats.n_tokens == 0
        mx.eval(model.language_model(ids, token_type_ids=mx.zeros_like(ids)).logits)
        assert stats.n_tokens == 4
    assert [spec.name for spec in stats.specs][:2] == ["layer.1.text", "layer.1.vision"]
    assert [spec.n_experts for spec in stats.specs] == [8, 6, 8, 6]
    assert "Every block runs its routers text and vision" in stats.model["warnings"][0]


def test_each_router_of_two_decides_for_its_own_tokens() -> None:
    """Experts of images change no block's output at positions of text, and experts of text none at those of images."""
    model, processor = BUILDERS["ernie4_5_moe_vl"]()
    made = vlm._preparing()(model, processor, pictures(1)[0], PROMPT)
    of_image, block = vlm.image_positions(model, made), model.layers[1].mlp
    calls = watch(block)
    mx.eval(run(model, made))
    args, kwargs, output = calls[0]
    for experts, own in ((block.switch_mlp, ~of_image), (block.switch_mlp_1, of_image)):
        silence = Silence(experts)
        silence.on()
        changed = np.array((block(*args, **kwargs) != output).any(axis=-1))
        silence.off()
        np.testing.assert_array_equal(changed, own)


def test_generating_calls_the_language_model_alone() -> None:
    """mlx-vlm's own generation embeds first and gives no token types, so an ERNIE's experts of images never run."""
    model, processor = BUILDERS["ernie4_5_moe_vl"]()
    made = vlm._preparing()(model, processor, pictures(1)[0], PROMPT)
    calls = watch(model.layers[1].mlp.switch_mlp_1)
    step = generate_step(made["input_ids"], model, made["pixel_values"], None, image_grid_thw=made["image_grid_thw"])
    next(step)
    assert calls == []
    mx.eval(run(model, made))
    assert len(calls) == 1


def test_folders_of_other_forms_say_why() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        family_in_vlm("kolibri1", {"model_type": "kolibri1"})
    assert "its bias is added to the logits" in str(caught.value)
    assert "qwen3_vl_moe" in str(caught.value)
    assert "CONTRIBUTING.md" in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="'llama', which is not measured: no family describes"):
        family_in_vlm("llama", {"model_type": "llama"})


def test_a_model_of_another_form_is_refused_whole() -> None:
    """lfm2_moe is a family of mlx-lm, and mlx-vlm's copy routes otherwise."""
    module = import_module("mlx_vlm.models.lfm2_moe")
    row = BY_TYPE["lfm2_moe"]
    model = module.Model(module.ModelConfig.from_dict(dict(row.config)))
    with pytest.raises(
        UnsupportedModelError, match="folder 'lfm2', which is not measured: its weights are scores that"
    ):
        attach(model)
    assert not any("_moebench_tap" in vars(module) for module in model.modules())


def test_a_changed_model_is_refused_whole() -> None:
    model, processor = BUILDERS["qwen3_vl_moe"]()
    sparse, dense = model.layers[1].mlp, model.layers[2].mlp
    model.layers[2].mlp = sparse
    with pytest.raises(UnsupportedModelError, match=r"Layer 2 of this model has 'mlp\.switch_mlp', but by its config"):
        routers_of(model)
    model.layers[2].mlp, model.layers[1].mlp = dense, dense
    with pytest.raises(UnsupportedModelError, match=r"Layer 1 of this model has no module 'mlp\.gate'"):
        vlm.measure(model, processor, [(pictures(1)[0], PROMPT)])
    assert not any("_moebench_tap" in vars(module) for module in model.modules())


def test_a_language_model_alone_and_one_that_is_of_mlx_lm(make_tiny: Callable[..., Any]) -> None:
    model, processor = BUILDERS["qwen3_vl_moe"]()
    assert routers_of(model.language_model) == routers_of(model)
    config = config_of(model)
    assert (config["model_type"], config["vocab_size"], config["num_experts"]) == ("qwen3_vl_moe", 320, 8)
    with pytest.raises(MoebenchError, match=r"is not of mlx-vlm; load the model with mlx_vlm\.load"):
        vlm.measure(make_tiny(), processor, [(pictures(1)[0], PROMPT)])


@pytest.mark.parametrize("kind", ["missing", "no image"])
def test_files_that_are_no_image(kind: str, tmp_path: Path) -> None:
    model, processor = BUILDERS["kimi_vl"]()
    path = tmp_path / "picture.png"
    if kind == "no image":
        path.write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match=r"Pair 1: .*picture\.png (cannot be read|is no image)"):
        vlm.measure(model, processor, [(pictures(1)[0], PROMPT), (path, PROMPT)])
    with pytest.raises(DataError, match="nothing to measure"):
        vlm.measure(model, processor, [])


def test_a_prompt_without_a_place_for_its_image_is_refused() -> None:
    model, processor = BUILDERS["ernie4_5_moe_vl"]()
    processor.tokenizer.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    with pytest.raises(DataError, match="Pair 0: the model finds no image in its prompt"):
        vlm.measure(model, processor, [(pictures(1)[0], PROMPT)])


def folders_with_experts() -> Iterator[str]:
    """Folders of the installed mlx-vlm in which a class speaks of a layer that switches between experts."""
    for folder in sorted(path for path in MODELS.iterdir() if path.is_dir()):
        for path in folder.glob("*.py"):
            text = path.read_text("utf-8")
            if "Switch" not in text:
                continue
            classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
            lines = text.splitlines()
            if any("Switch" in line for node in classes for line in lines[node.lineno - 1 : node.end_lineno]):
                yield folder.name


def test_every_folder_with_experts_is_declared_or_has_its_reason() -> None:
    known = declared.served().keys() | declared.NOT_MEASURED.keys()
    borrowed = {"phi4mm", "qwen3_5_moe_text"}  # speak of experts, and have none or those of another folder
    elsewhere = {"dbrx", "glm_moe_dsa"}  # have a loop, and a layer that is made in another folder
    assert set(folders_with_experts()) - borrowed == known - elsewhere


def test_the_page_lists_every_folder() -> None:
    families: dict[str, list[str]] = {}
    for folder, family in declared.served().items():
        families.setdefault(family.name, []).append(f"`{folder}`")
    rows = [f"| `{name}` | {', '.join(sorted(families[name]))} |" for name in sorted(families)]
    rows += [f"| `{folder}` | {why} |" for folder, why in sorted(declared.NOT_MEASURED.items())]
    page = (ROOT / "docs" / "vlm.md").read_text("utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
