"""The routing testbed: small mixtures on clearly distinct domains, each between a reference router and a random one.

A reconstruction from the abstract of MoE Routing Testbed (2026), whose body was not read: a mix of domains that can be
told apart, sequences of one domain each, updates with as many of every domain, and a reference router that gives every
domain a block of experts of its own. What is measured is how far a trained router specialises between the two, how well
it uses its experts meanwhile, and what that costs or gains in loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np

from ..data import split_field
from ..data.training_log import FILE as LOG
from ..data.training_log import read_log
from ..environment import environment
from ..errors import StatsError, TrainingError
from ..files import is_ours, probe_folder, write_aside
from ..instrument.live import LiveRoutingStats
from ..instrument.softmax import cross_entropy
from ..options import Plan, Reading, Step, quiet_step
from ..pair.profile import domain_report
from ..pair.seal import check_json_seal, sealed_text
from ..routing.comparison.choices import SHARES
from ..routing.domains.information import matched, purity
from ..routing.metrics import get_metric
from ..routing.sums import Sums
from ..routing.tokens import TokenBlock, ranked
from ..types import HostArray, Json
from . import keep
from .decoder import of_domains
from .domains import DomainBlocks, check_domains, pack_domains, read_domains
from .methods import FLOOR_WEIGHT, METHODS, Method, method_named
from .presets import preset_named
from .pretrain import REPORT, pretrain
from .settings import FREE_TO_CHANGE, Pretraining
from .text import load_tokenizer, train_tokenizer

MEASURED = "measured.json"
RESULT = "testbed.json"
TOKENIZER = "tokenizer"
MOST_SEQUENCES = 32
"""Held-out sequences of a domain that are measured."""

MOST_FLIPS = 8
"""Those of a domain whose choices are compared from snapshot to snapshot."""

SNAPSHOTS = 5
LAST = 0.2
"""The part of a training, at its end, over whose updates the largest violation of a batch is averaged."""


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """What all runs share. domains: name to data set. own: experts of a domain; top_k: that a token chooses.

    each: sequences of a domain in an update; micro_batch_size: in a forward. window: micro-batches over which the
    ``window`` scope balances, several updates of them. steps None is the preset's. most_repeats: how often a domain may
    be seen.
    """

    __test__ = False  # pytest takes the name for that of a test

    domains: Mapping[str, str]
    preset: str = "testbed"
    own: int = 2
    top_k: int = 2
    each: int = 2
    micro_batch_size: int = 3
    window: int = 12
    steps: int | None = None
    seq_length: int = 128
    held_out: int = 10
    most_repeats: float = 4.0
    vocab_size: int = 2048

    def check(self) -> None:
        """Raise DataError or TrainingError for what cannot be run."""
        check_domains(self.domains)
        for name in ("own", "top_k", "each", "micro_batch_size", "window"):
            if getattr(self, name) < 1:
                shown = {"own": "experts_per_domain", "each": "per_domain"}.get(name, name)
                raise TrainingError(f"{shown} is {getattr(self, name)}; give 1 or more.")
        if self.own % self.top_k:
            raise TrainingError(
                f"A domain's {self.own} experts are no multiple of the {self.top_k} that a token chooses, so the "
                "reference router cannot use them evenly; choose --experts-per-domain as a multiple of --top-k."
            )

    @property
    def experts(self) -> int:
        """E, the experts of a router."""
        return self.own * len(self.domains)

    def settings(self, method: Method, seed: int, tokenizer: Path) -> Pretraining:
        """The training of a method with a seed; runs of a seed see the same batches in the same order."""
        steps = preset_named(self.preset).steps if self.steps is None else self.steps
        axes = dict(method.axes) | {"num_experts": self.experts, "num_experts_per_tok": self.top_k}
        if method.scope == "window":
            axes["window"] = self.window
        if str(axes.get("balance", "")).startswith("floor"):
            axes["balance_weight"] = FLOOR_WEIGHT
        return Pretraining(
            preset=self.preset,
            router=method.router,
            axes=axes,
            domains=self.domains,
            most_repeats=self.most_repeats,
            tokenizer=str(tokenizer),
            seq_length=self.seq_length,
            batch_size=self.each * len(self.domains),
            micro_batch_size=min(self.micro_batch_size, self.each * len(self.domains)),
            steps=steps,
            held_out=self.held_out,
            z_weight=method.z_weight,
            seed=seed,
            save_every=max(steps // 4, 1),
            eval_every=max(steps // SNAPSHOTS, 1),
            snapshot_every=max(steps // SNAPSHOTS, 1),
        ).resolved()


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a run is kept."""
    return folder / f"{method}-seed{seed}"


def prepare(bed: Testbed, folder: Path, step: Step = quiet_step) -> Path:
    """The tokenizer of all runs in ``folder``, trained on all domains; as it lies there, if it does.

    Raises DataError for domains without text, and where two of them are too few.
    """
    bed.check()
    place = folder / TOKENIZER
    if not (place / "tokenizer.json").is_file():
        corpora = read_domains(bed.domains, Reading())
        step("training the tokenizer", 0, 0)
        tokenizer = train_tokenizer(list(corpora.values()), bed.vocab_size)
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as made:
            tokenizer.save_pretrained(made)
            files = sorted(Path(made).iterdir(), key=lambda file: file.name == "tokenizer.json")
            write_aside({place / file.name: file.read_bytes() for file in files})
    elif (n := len(load_tokenizer(place))) != bed.vocab_size:
        raise TrainingError(
            f"{place} has {n} tokens, not {bed.vocab_size}; give --vocab-size {n}, or choose another --output."
        )
    return place


def run(
    bed: Testbed, method: Method, seed: int, folder: Path, *, device: str = "auto", step: Step = quiet_step
) -> Json:
    """Train and measure one method with one seed, in a folder of its own below ``folder``; what is finished is kept."""
    settings = bed.settings(method, seed, prepare(bed, folder, step))
    place = run_folder(folder, method.name, seed)
    if (place / MEASURED).is_file():
        measured: Json = read_run(place / MEASURED)
        _check_settings(place, measured, settings)
        return measured
    if not (place / REPORT).is_file():
        pretrain(settings, place, resume=(place / "config.json").is_file(), device=device, step=step)
    measured = measure(bed, place, method, seed, step) | {"settings": _comparable(settings)}
    write_aside({place / MEASURED: sealed_text(measured).encode()})
    return measured


def finished(folder: Path) -> list[Json]:
    """What was measured of the runs in ``folder``, method by method."""
    return [read_run(path) for path in _measured(folder)]


def check_kept(bed: Testbed, folder: Path, tokenizer: Path) -> None:
    """Raise TrainingError where a finished run in ``folder`` is not one of this testbed: of other text or settings."""
    places = _measured(folder)
    if not places:
        return
    texts = [corpus.sha256 for corpus in read_domains(bed.domains, Reading()).values()]
    for path in places:
        place, measured = path.parent, read_run(path)
        was = replace(bed, preset=measured["settings"]["preset"])
        _check_settings(place, measured, was.settings(METHODS[measured["method"]], measured["seed"], tokenizer))
        if not (place / REPORT).is_file():
            continue
        if [one["sha256"] for one in read_run(place / REPORT)["data"]["sets"]] != texts:
            raise TrainingError(f"The text changed since {place} was run; put it back, or choose another --output.")


def _measured(folder: Path) -> list[Path]:
    return [path for name in METHODS for path in sorted(folder.glob(f"{name}-seed*/{MEASURED}"))]


def _check_settings(place: Path, measured: Json, settings: Pretraining) -> None:
    """Raise TrainingError where a run was made with others."""
    old, new = _alike(measured["settings"]), _alike(_comparable(settings))
    if old == new:
        return
    key = min(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    raise TrainingError(
        f"{place} was run with other settings ({key} = {old.get(key)!r}, not {new.get(key)!r}); give those it was "
        "started with, or choose another --output."
    )


def run_all(
    bed: Testbed,
    folder: str | Path,
    methods: Sequence[str] = (),
    seeds: int = 1,
    *,
    device: str = "auto",
    command: str | None = None,
    step: Step = quiet_step,
) -> Json:
    """Run methods, by default all, with seeds from 0, and write what all runs in ``folder`` say to testbed.json there.

    Runs that are finished are kept, and one that was stopped goes on; testbed.json is written after each. All runs in
    ``folder`` are of one text and one set of settings, but for the preset. Runs of one
    seed see the same batches and begin with the same weights but for what their routers are.

    Returns the report as `ladder.result` makes it. Raises TrainingError or DataError for what cannot be run.
    """
    from .ladder import result

    folder = Path(folder)
    chosen = [method_named(name) for name in (methods or METHODS)]
    there = folder / RESULT
    if there.is_file() and there.stat().st_size and not is_ours(there, ("sizes", "domains")):
        raise TrainingError(
            f"{there} is damaged or no result of lab testbed: move it away, and the same command makes it "
            "again from the runs that are finished."
        )
    probe_folder(there)
    check_kept(bed, folder, prepare(bed, folder, step))
    plan = [(method, seed) for seed in range(seeds) for method in chosen]
    for number, (method, seed) in enumerate(plan, 1):
        which = f"{method.name}, seed {seed} ({number} of {len(plan)})"

        def told(what: str, done: int, total: int, which: str = which) -> None:
            step(f"{which}: {what}", done, total)

        run(bed, method, seed, folder, device=device, step=told)
        made = result(bed, finished(folder), command)
        write_aside({folder / RESULT: sealed_text(made).encode()})
    return made


def read_run(path: Path) -> Json:
    """A sealed file of a run. Raises TrainingError where it is damaged."""
    try:
        content: Json = json.loads(path.read_text("utf-8"))
        check_json_seal(content, str(path))
    except (OSError, ValueError, StatsError) as error:
        raise TrainingError(f"{path} is damaged; remove it, and the same command makes it again.") from error
    return content


def _comparable(settings: Pretraining) -> Json:
    """Settings as JSON has them, without where the tokenizer lies."""
    made: Json = json.loads(json.dumps(settings.to_dict()))
    del made["tokenizer"]
    return made


def _alike(settings: Json) -> Json:
    """What runs that stand together must share; where the text lies is not of it."""
    kept = {key: value for key, value in settings.items() if key not in FREE_TO_CHANGE}
    return kept | {"domains": [[name, split_field(data)[1]] for name, data in settings["domains"].items()]}


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(bed: Testbed, place: Path, method: Method, seed: int, step: Step = quiet_step) -> Json:
    """What a trained run says of held-out sequences, loss and routing by domain, and how its routing changed."""
    blocks = _blocks(bed, place, step)
    chosen = _held_out(blocks, MOST_SEQUENCES)
    step("measuring", 0, 0)
    stats, losses = _forward(keep.read_model(place), blocks, chosen)
    between = domain_report(stats, {}, Plan())
    log = [entry for entry in read_log(place / LOG) if "max_violation" in entry]
    last = log[-max(int(len(log) * LAST), 1) :]
    if not last:
        raise TrainingError(f"{place / LOG} is damaged; remove {place}, and the same command makes it again.")
    report: Json = read_run(place / REPORT)
    strata = np.asarray(stats.strata)
    routers = [
        _router(entry, _by_domain(stats.sums(number).counts, strata, blocks.names))
        for number, entry in enumerate(between["routers"])
    ]
    return {
        "method": method.name,
        "seed": seed,
        "parameters": report["parameters"],
        "tokens_trained": report["tokens_trained"],
        "seconds": report["seconds"],
        "repeats": {name: of["times"] for name, of in report["data"]["domains"].items()},
        "sequences": {name: int((blocks.domains(chosen) == d).sum()) for d, name in enumerate(blocks.names)},
        "loss": float(np.mean(list(losses.values()))),
        "losses": losses,
        "routers": routers,
        "words": between["words_by_router"],
        "max_violation_batch": float(np.mean([np.mean(entry["max_violation"]) for entry in last])),
        "flips": _flips(place, blocks, step),
    }


def _blocks(bed: Testbed, place: Path, step: Step) -> DomainBlocks:
    corpora = read_domains(bed.domains, Reading())
    return pack_domains(corpora, load_tokenizer(place), bed.seq_length, bed.held_out, step)


def _held_out(blocks: DomainBlocks, most: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Held-out blocks, ``most`` of each domain, evenly over its text."""
    found = []
    for domain in range(len(blocks.names)):
        valid = blocks.of_domain(blocks.valid, domain)
        found.append(valid[np.unique(np.linspace(0, len(valid) - 1, min(most, len(valid))).astype(int))])
    return np.concatenate(found)


def _forward(
    model: Any, blocks: DomainBlocks, chosen: HostArray, tokens: Callable[[TokenBlock], None] | None = None
) -> tuple[LiveRoutingStats, dict[str, float]]:
    """(routing of the chosen blocks, a sequence each; mean cross-entropy of each domain, nats a token)."""
    names, labels = blocks.names, blocks.domains(chosen)
    sources = {f"{blocks.sha256[:32]}-{name}": {"name": name} for name in names}
    shas, losses = list(sources), {}
    with LiveRoutingStats(model, sources=sources, environment=environment(), tokens=tokens) as stats:
        for domain, name in enumerate(names):
            own, total = chosen[labels == domain], 0.0
            for start in range(0, len(own), 16):
                part = own[start : start + 16]
                ids = mx.array(blocks.rows(part))
                told = of_domains(model, np.full(len(part), domain))
                with told, stats.batch(ids=[(shas[domain], int(block)) for block in part]):
                    logits = model(ids[:, :-1])
                    total += float(cross_entropy(logits, ids[:, 1:]).sum())
            losses[name] = total / max(len(own) * blocks.length, 1)
    return stats, losses


def _by_domain(counts: HostArray, strata: HostArray, names: tuple[str, ...]) -> HostArray:
    """[D, R] selections of each domain, from those of each sequence [N, R]."""
    return np.stack([counts[strata == name].sum(axis=0) for name in names]).astype(np.float64)


def _router(entry: Json, counts: HostArray) -> Json:
    """One router: how it tells domains apart, and how it uses its experts on all domains alike."""
    load = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    match, information = matched(counts), entry["domain_information"]
    mixed = Sums.from_counts(load * entry["top_k"], np.float64(1.0), entry["top_k"])
    rounded = np.round(counts / counts.sum(axis=1, keepdims=True) * entry["top_k"], 5)
    return {
        "layer": entry["layer"],
        "n_experts": entry["n_experts"],
        "top_k": entry["top_k"],
        "information": {key: information[key] for key in ("value", "low", "high", "p_value")},
        "specialisation": information["relative"],
        "nmi": information["nmi"],
        "purity": float(purity(counts)),
        "precision": match.precision,
        "owner": match.owner.tolist(),
        **{name: float(get_metric(name).values(mixed)) for name in ("eae", "max_violation")},
        "dead_experts": int((counts.sum(axis=0) == 0).sum()),
        "word": entry["findings"]["word"],
        "findings": {name: one["answer"] for name, one in entry["findings"]["findings"].items()},
        "shares": rounded.tolist(),
    }


def _flips(place: Path, blocks: DomainBlocks, step: Step) -> list[Json]:
    """Of every snapshot but the first what share of tokens has another first choice, and other experts, than before."""
    chosen, before, found = _held_out(blocks, MOST_FLIPS), None, []
    for path in sorted((place / keep.SNAPSHOTS).glob("step-*")):
        at = int(path.name.rpartition("-")[2])
        step("comparing snapshots", 0, 0)
        kept: dict[int, list[HostArray]] = {}

        def keep_choices(block: TokenBlock, kept: dict[int, list[HostArray]] = kept) -> None:
            kept.setdefault(block.number, []).append(ranked(block.experts, block.p)[0][block.mask])

        _forward(keep.read_model(path), blocks, chosen, keep_choices)
        now = [np.concatenate(kept[number]) for number in sorted(kept)]
        if before is not None:
            pairs = list(zip(now, before, strict=True))
            flips = [float(SHARES["top1_flip"](a, b).mean()) for a, b in pairs]
            changed = [1.0 - float(SHARES["routing_overlap"](a, b).mean()) for a, b in pairs]
            found.append({"step": at, "top1_flip": float(np.mean(flips)), "change_rate": float(np.mean(changed))})
        before = now
    return found
