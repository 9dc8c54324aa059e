"""A checkpoint with fewer experts: the same files, names and dtypes, of which every layer keeps equally many experts.

Experts lie along the first dimension of what holds several of them, one behind the other, so bytes are copied and
nothing is unpacked: any dtype, and packed weights, come out as they went in.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import ModelLoadError
from ..families import Family
from ..families.base import RouterForm
from ..families.layers import n_layers
from ..families.settings import SECTION, count, names_of
from ..files import opened, probe_folder, read_header, read_text, written_aside
from ..routing.record import RouterSpec
from ..types import Json
from .folder import read_config
from .shapes import BLOCK
from .weights import INDEX, Weights, read_weights

ORDER = "expert_order.jsonl"
"""The file beside the weights with the experts of every layer, the one that is kept longest first."""

_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.(.*)")
_TOGETHER = re.compile(r"\b(experts|switch_mlp|input_linear|output_linear)\b")
_OF_CHOICE = re.compile(r"(e_score_correction_bias|expert_bias|router_bias|per_expert_scale)$")
_BLOCK_SIZE = 2**24
_COPIED = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
"""Tokenizer, settings and code; a page that describes the whole model describes this one no more."""

Kept = Mapping[int, Sequence[int]]
"""By the number of a router in running order: the experts that stay, in ascending order."""


class _Change(NamedTuple):
    """What becomes of a tensor. name: None where it goes. rows: of its ``parts`` equal parts those that stay."""

    name: str | None
    parts: int = 1
    rows: Sequence[int] = (0,)
    shape: tuple[int, ...] = ()


@dataclass
class _Router:
    """One router of the checkpoint. columns: the rows of its matrix that stay. Counts what was found of it."""

    spec: RouterSpec
    form: RouterForm
    n_experts: int
    kept: Sequence[int]
    gates: int = 0
    fused: int = 0
    single: set[int] = field(default_factory=set)

    @property
    def columns(self) -> list[int]:
        """Kept experts, and the columns behind the experts, which all stay."""
        return [*self.kept, *range(self.n_experts, self.spec.n_experts)]

    @property
    def prefix(self) -> str:
        """The module in a block that holds all of it."""
        return self.form.gate.partition(".")[0]

    def change(self, inside: str, shape: tuple[int, ...]) -> _Change | None:
        """Of the tensor ``inside`` its block; None for one that is not this router's."""
        if self._is_of_gate(inside) and shape and shape[0] == self.spec.n_experts:
            self.gates += inside.endswith("weight")
            return self._sliced(inside, shape, self.spec.n_experts, self.columns)
        if _OF_CHOICE.search(inside) and math.prod(shape) == self.spec.n_experts:
            parts, rows = self.spec.n_experts, self.columns
            return _Change(inside, parts, rows, (*shape[:-1], len(rows)))
        if "shared" in inside:
            return None
        if match := _EXPERT.match(inside):
            expert = int(match[2])
            self.single.add(expert)
            if expert not in self.kept:
                return _Change(None)
            return _Change(f"{match[1]}.{self.kept.index(expert)}.{match[3]}", shape=shape)
        if len(shape) > 1 and shape[0] == self.n_experts and _TOGETHER.search(inside):
            self.fused += 1
            return self._sliced(inside, shape, self.n_experts, self.kept)
        return None

    def _is_of_gate(self, inside: str) -> bool:
        paths = [self.form.gate, self.form.bias, self.form.expert_scale]
        if self.form.torch:
            paths += [self.form.torch.gate, self.form.torch.bias, self.form.torch.expert_scale]
        return any(path and (inside == path or inside.startswith(f"{path}.")) for path in paths)

    def _sliced(self, name: str, shape: tuple[int, ...], parts: int, rows: Sequence[int]) -> _Change:
        return _Change(name, parts, rows, (len(rows), *shape[1:]))

    def check(self) -> None:
        """Raises ModelLoadError where not all of it was found: an export must not leave half of a router as it was."""
        whole = len(self.single) in (0, self.n_experts) and (self.single or self.fused) and self.gates
        if not whole:
            raise ModelLoadError(
                f"The weights of {self.spec.name} have {self.gates} matrices of the router, {self.fused} of all "
                f"experts together and {len(self.single)} single experts under names that are known: this form of a "
                "checkpoint cannot be exported; save it with transformers or mlx-lm first."
            )


def check_target(target: Path, again: bool = False) -> None:
    """Raise where no checkpoint can be exported to the folder ``target``; again: unless one was, maybe this one."""
    if target.is_dir():
        if any(target.iterdir()) and not (again and (target / ORDER).is_file()):
            raise ModelLoadError(f"{target} holds something already; name a new folder.")
    elif target.exists():
        raise ModelLoadError(f"{target} is a file; name a new folder.")
    probe_folder(target.parent / target.name / "config.json")


def check_disk(target: Path, weights: Weights, share: float) -> None:
    """Raise ModelLoadError where the disk has no room for what an export keeps at least: ``share`` of every tensor."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free, least = shutil.disk_usage(folder).free, share * weights.nbytes
    if free < least:
        raise ModelLoadError(
            f"The disk of {target} has {free / 1e9:.2f} GB free, and the smaller checkpoint takes {least / 1e9:.2f} GB "
            "or more: free some, or name a folder of another disk."
        )


def export_pruned(
    source: Path,
    target: Path,
    family: Family,
    specs: Sequence[RouterSpec],
    kept: Kept,
    order: Kept,
    again: bool = False,
) -> Json:
    """Write the checkpoint in ``source`` with the experts ``kept`` alone to the folder ``target``, which must be empty.

    order: of each router all experts, the one that is kept longest first, for `ORDER`. Config, tokenizer and code are
    copied; what counts experts in the config is changed. The folder is there when all of it is. again: one that holds
    the same choice is left as it is. Returns ``{"bytes_before", "bytes_after", "files"}``.
    Raises ModelLoadError where layers would differ in size, fewer experts than K stay, or the names are not known.
    """
    config, weights = read_config(source), read_weights(source)
    changes, smaller = planned(config, weights, family, specs, kept)
    check_target(target, again)
    if not (again and (target / ORDER).is_file()):
        _write(source, target, weights, changes, smaller, order_lines(specs, order))
    elif read_config(target) != smaller or read_text(target / ORDER) != order_lines(specs, order):
        raise ModelLoadError(f"{target} holds another choice of experts; name a new folder.")
    after = sum((target / file.name).stat().st_size for file in weights.files)
    return {"bytes_before": weights.nbytes, "bytes_after": after, "files": len(weights.files)}


def planned(
    config: Json, weights: Weights, family: Family, specs: Sequence[RouterSpec], kept: Kept
) -> tuple[dict[str, _Change], Json]:
    """(what becomes of each tensor that does not stay as it is, the config); raises as `export_pruned` does."""
    n_kept = _checked(specs, kept)
    routers = [_router(config, family, spec, kept[number]) for number, spec in enumerate(specs)]
    changes = dict(_changes(config, weights, routers))
    for router in routers:
        router.check()
    return changes, _smaller(config, family, routers[0].n_experts, n_kept)


def _write(
    source: Path, folder: Path, weights: Weights, changes: Mapping[str, _Change], smaller: Json, order: str
) -> None:
    """All files in a folder beside ``folder``, which is renamed when it is whole."""
    target = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(target, ignore_errors=True)  # what a killed run left
    target.mkdir(parents=True)
    try:
        _write_files(source, target, weights, changes)
        (target / "config.json").write_text(json.dumps(smaller, indent=2) + "\n", encoding="utf-8")
        (target / ORDER).write_text(order, encoding="utf-8")
        target.replace(folder)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelLoadError(f"Cannot write {folder}: {error.strerror or error}.") from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _write_files(source: Path, target: Path, weights: Weights, changes: Mapping[str, _Change]) -> None:
    index: dict[str, str] = {}
    for file in weights.files:
        _copy_weights(file, target / file.name, changes)
        index |= dict.fromkeys(read_header(target / file.name).tensors, file.name)
    for path in source.iterdir():
        if path.is_file() and path.suffix in _COPIED and path.name not in (INDEX, "config.json", ORDER):
            shutil.copyfile(path, target / path.name)
    if len(weights.files) > 1:
        after = sum((target / file.name).stat().st_size for file in weights.files)
        whole = {"metadata": {"total_size": after}, "weight_map": dict(sorted(index.items()))}
        (target / INDEX).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def order_lines(specs: Sequence[RouterSpec], order: Kept) -> str:
    """A line of JSON for every router, ``{"layer": [expert, ...]}``, the expert that is kept longest first: what
    vLLM-Ascend reads as ``expert_list_file``. Where a block has two routers, ``"layer.attention"`` is the other."""
    lines = []
    for number, spec in enumerate(specs):
        key = str(spec.layer) if spec.router == "mlp" else f"{spec.layer}.{spec.router}"
        lines.append(json.dumps({key: [int(expert) for expert in order[number]]}) + "\n")
    return "".join(lines)


def _checked(specs: Sequence[RouterSpec], kept: Kept) -> int:
    sizes = {len(kept[number]) for number in range(len(specs))}
    if len(sizes) != 1:
        raise ModelLoadError(
            f"Layers would keep {min(sizes)} to {max(sizes)} experts; libraries build equal ones only."
        )
    (n,) = sizes
    if (most := max(spec.top_k for spec in specs)) > n:
        raise ModelLoadError(f"{n} experts would stay, and a token chooses {most}: keep more.")
    return n


def _router(config: Json, family: Family, spec: RouterSpec, kept: Sequence[int]) -> _Router:
    form = family.form(spec.router)
    return _Router(spec, form, count(config, form.n_experts or family.n_experts), sorted(kept))


def _changes(config: Json, weights: Weights, routers: Sequence[_Router]) -> Iterator[tuple[str, _Change]]:
    """What becomes of each tensor that does not stay as it is. Layers behind the last one, which guess further tokens
    and which neither library runs, would have too many experts: they go."""
    layers = n_layers(config)
    for name, tensor in weights.tensors.items():
        if (match := BLOCK.search(name)) is None:
            continue
        layer, inside = int(match[1]), name[match.end() :]
        of_block = [router for router in routers if router.spec.layer == layer]
        if layer >= layers:
            yield name, _Change(None)
        for router in of_block:
            if len(of_block) > 1 and not inside.startswith(f"{router.prefix}."):
                continue
            if (change := router.change(inside, tensor.shape)) is not None:
                new = None if change.name is None else name[: match.end()] + change.name
                yield name, change._replace(name=new)
                break


def _copy_weights(source: Path, target: Path, changes: Mapping[str, _Change]) -> None:
    """A safetensors file without what goes, tensor after tensor, so that memory stays small."""
    header = read_header(source)
    entries: Json = {"__metadata__": header.metadata} if header.metadata else {}
    pieces: list[tuple[int, int]] = []
    end = 0
    for name, entry in sorted(header.tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        change = changes.get(name)
        if change is not None and change.name is None:
            continue
        parts, rows = (1, (0,)) if change is None else (change.parts, change.rows)
        each = (stop - begin) // parts
        pieces += [(header.start + begin + row * each, each) for row in rows]
        shape = entry["shape"] if change is None else list(change.shape)
        new = name if change is None else change.name
        entries[str(new)] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [end, end + each * len(rows)]}
        end += each * len(rows)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with written_aside(target, ".safetensors") as aside, opened(source) as read, aside.open("wb") as write:
        write.write(len(text).to_bytes(8, "little") + text)
        for start, length in pieces:
            read.seek(start)
            left = length
            while left:
                block = read.read(min(left, _BLOCK_SIZE))
                write.write(block)
                left -= len(block)


def _smaller(config: Json, family: Family, before: int, after: int) -> Json:
    """The config with ``after`` wherever it counts ``before`` experts, in the section of a language model, too."""
    keys = {key for form in family.routers for key in names_of(form.n_experts or family.n_experts)}
    keys |= {"num_experts", "num_local_experts", "n_routed_experts"}
    changed: Json = json.loads(json.dumps(config))
    for scope in (changed, changed.get(SECTION) or {}):
        for key in keys:
            *path, last = key.split(".")
            inner = scope
            for part in path:
                inner = inner.get(part) or {}
            if inner.get(last) == before:
                inner[last] = after
    return changed
