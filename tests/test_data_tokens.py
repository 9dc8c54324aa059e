"""From documents to batches, with real tokenizers: chat templates, special tokens, windows, padding, the prompts."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mlx_moebench.data import Batch, Corpus, Document, Sequence, batches, bos_policy, encode, pad_id, read_corpus
from mlx_moebench.data.corpus import PROMPTS
from mlx_moebench.errors import DataError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
)
CHAT = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the bundled mathematics; adds no special token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([document.text for document in read_corpus("math").documents], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def with_bos(plain) -> PreTrainedTokenizerFast:
    """The same tokenizer with ``<s>`` put before every text, a pad token and no chat template."""
    core = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def corpus_of(*documents: Document) -> Corpus:
    return Corpus(name="made", sha256="0" * 64, documents=documents, field="text", format="jsonl")


def write_chat(path: Path, *conversations: object) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path


# Chat


@pytest.mark.parametrize("wrap", [False, True], ids=["transformers", "mlx-lm"])
def test_chat_goes_through_the_template_once(tmp_path, plain, wrap):
    tokenizer = plain
    if wrap:
        tokenizer = pytest.importorskip("mlx_lm.tokenizer_utils", reason="mlx-lm is absent").TokenizerWrapper(plain)
    corpus = read_corpus(write_chat(tmp_path / "x.jsonl", CHAT, [], CHAT[:1]), tokenizer=tokenizer)
    first = "<s>[user] What is 2 + 2?</s>[assistant] 4</s>"
    assert corpus.documents == (
        Document(0, first, chat=True),
        Document(2, "<s>[user] What is 2 + 2?</s>", chat=True),
    )
    assert corpus.field == "messages"
    assert corpus.template == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    ids = encode(corpus, tokenizer, 100)[0].ids.tolist()
    assert tokenizer.decode(ids) == first


def test_chat_gets_no_second_bos_token(plain, with_bos):
    [chat, text] = encode(corpus_of(Document(0, "<s>hello", chat=True), Document(1, "hello")), with_bos, 100)
    assert chat.ids.tolist() == text.ids.tolist() == [1, *plain.encode("hello")]


def test_the_chat_template_is_recorded_only_where_it_is_used(plain):
    assert read_corpus("math", max_samples=1, tokenizer=plain).template is None


def test_chat_without_a_template_is_an_error(tmp_path, with_bos):
    path = write_chat(tmp_path / "x.jsonl", CHAT)
    for tokenizer in (None, with_bos):
        with pytest.raises(DataError, match=r"line 1: field 'messages' holds chat messages, which need a tokenizer"):
            read_corpus(path, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "messages",
    [["hi"], [{"role": "user"}], [{"role": "user", "content": None}], [*CHAT, {"content": "no role"}]],
)
def test_a_list_that_is_not_chat_is_an_error(tmp_path, plain, messages):
    with pytest.raises(DataError, match=r"line 2: field 'messages' is a list but not one of chat messages"):
        read_corpus(write_chat(tmp_path / "x.jsonl", CHAT, messages), tokenizer=plain)


def test_messages_the_template_refuses_are_an_error(tmp_path, plain):
    path = write_chat(tmp_path / "x.jsonl", [{"role": "tool", "content": "x"}])
    with pytest.raises(DataError, match=r"line 1: .* template refuses these messages \(no tools\)"):
        read_corpus(path, tokenizer=plain)


def test_the_hash_of_chat_does_not_depend_on_the_template(tmp_path, monkeypatch, plain):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "local").mkdir()
    write_chat(tmp_path / "local" / "train.jsonl", CHAT)
    other = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, chat_template="{{ messages[0].content }} and so on"
    )
    a, b = (read_corpus(f"hub:{tmp_path / 'local'}", tokenizer=tokenizer) for tokenizer in (plain, other))
    assert a.documents[0].text != b.documents[0].text
    assert a.template != b.template
    assert a.sha256 == b.sha256


# Special tokens


def test_bos_policy_and_pad_id(plain, with_bos):
    def policy(tokenizer, *documents):
        return bos_policy(encode(corpus_of(*documents), tokenizer, 32), tokenizer)

    text, chat = Document(0, "two words"), Document(1, "a template wrote this", chat=True)
    assert policy(plain, text) == "none"
    assert policy(with_bos, text) == "first, id 1, counted"
    # A template that writes no BOS: the tokenizer's own habit does not count, the ids do.
    assert policy(with_bos, chat) == "none"
    assert policy(with_bos, text, chat) == "mixed"
    nameless = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer)
    assert policy(nameless, text) == "none"
    # The pad token, else EOS, else 0; an id of 0 is not a missing one.
    zero = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, eos_token="</s>", pad_token="<pad>")
    assert [pad_id(tokenizer) for tokenizer in (plain, with_bos, nameless, zero)] == [2, 0, 0, 0]


def test_chats_in_memory_are_rendered(plain, with_bos):
    for chats in ([CHAT], [{"messages": CHAT}]):
        corpus = read_corpus(chats, tokenizer=plain)
        assert [(d.text, d.chat) for d in corpus.documents] == [(plain.apply_chat_template(CHAT, tokenize=False), True)]
        assert (corpus.field, corpus.template) == ("messages", hashlib.sha256(TEMPLATE.encode()).hexdigest())
        assert corpus.sha256 == read_corpus([CHAT], tokenizer=plain).sha256
    with pytest.raises(DataError, match="texts, row 0: field 'messages' holds chat messages, which need a tokenizer"):
        read_corpus([CHAT], tokenizer=with_bos)


# Sequences


def test_long_documents_are_truncated_and_say_so(with_bos):
    text = read_corpus("math").documents[0].text
    whole = with_bos.encode(text)
    exact, cut = (encode(corpus_of(Document(7, text)), with_bos, length)[0] for length in (len(whole), len(whole) - 1))
    assert (exact.row, exact.window, exact.ids.tolist(), exact.truncated) == (7, 0, whole, False)
    assert (cut.ids.tolist(), cut.truncated) == (whole[:-1], True)
    assert exact.ids.dtype == np.int32


def test_windows_hold_every_token_once_and_in_order(with_bos):
    text = read_corpus("math").documents[0].text
    whole = with_bos.encode(text)
    for length in (1, 7, len(whole) - 1, len(whole), len(whole) + 1):
        windows = encode(corpus_of(Document(7, text, windowed=True)), with_bos, length)
        assert [token for window in windows for token in window.ids.tolist()] == whole
        assert all(len(window.ids) == length for window in windows[:-1])
        assert len(windows[-1].ids) <= length
        assert [window.window for window in windows] == list(range(len(windows)))
        assert {(window.row, window.truncated) for window in windows} == {(7, False)}


def test_whole_files_are_windowed_and_rows_cut_off_unless_asked(tmp_path, plain):
    (tmp_path / "a.txt").write_text("a b c d e f g h")
    (tmp_path / "b.jsonl").write_text('{"text": "a b c d e f g h"}\n')
    sequences = encode(read_corpus(tmp_path), plain, 5)
    assert [(s.row, s.window, len(s.ids), s.truncated) for s in sequences] == [
        (0, 0, 5, False),
        (0, 1, 3, False),
        (1, 0, 5, True),
    ]
    for long, number in (("windows", 4), ("truncate", 2)):
        assert len(encode(read_corpus(tmp_path, long=long), plain, 5)) == number


class Counting:
    """A tokenizer that keeps the length of the longest text that it was given."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.longest = tokenizer, 0

    def encode(self, text: str, **options: bool) -> list[int]:
        self.longest = max(self.longest, len(text))
        return self.tokenizer.encode(text, **options)


def trained(core: Tokenizer, trainer: trainers.Trainer) -> PreTrainedTokenizerFast:
    core.train_from_iterator([document.text for document in read_corpus("math").documents], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.fixture(scope="session")
def tokenizers(plain, with_bos) -> dict[str, PreTrainedTokenizerFast]:
    """Of each kind one: byte-level BPE, BPE over the whole text as of Llama, Unigram, BERT's; and the model's."""
    special: dict[str, Any] = {"special_tokens": ["<unk>"], "show_progress": False}
    whole = Tokenizer(models.BPE(unk_token="<unk>"))
    whole.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    bert = Tokenizer(models.WordPiece(unk_token="<unk>"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return {
        "plain": plain,
        "with_bos": with_bos,
        "whole": trained(whole, trainers.BpeTrainer(vocab_size=600, **special)),
        "unigram": trained(unigram, trainers.UnigramTrainer(vocab_size=600, unk_token="<unk>", **special)),
        "bert": trained(bert, trainers.WordPieceTrainer(vocab_size=600, **special)),
        "nano": PreTrainedTokenizerFast(tokenizer_file=str(PROMPTS.parents[1] / "models" / "nano" / "tokenizer.json")),
    }


LONG = {
    "prose": " ".join(document.text for document in read_corpus("math").documents),
    "code": "\n\n".join(document.text for document in read_corpus("code").documents),
    "one word": "ab" * 20_001,
    "words and one": "The word " + "ab" * 20_001,
    "letters": " ".join("abcdefghijklmnopqrstuvwxyz" * 800),
    "spaces": "a" + " " * 30_000 + "b" * 5000,
    "accents": "e\u0301 " * 10_000,
    "han": "\u6570\u5b66\u3002" * 10_000,
}


@pytest.mark.parametrize("kind", ["plain", "with_bos", "whole", "unigram", "bert", "nano"])
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_the_beginning_of_a_long_text_has_the_tokens_of_the_whole(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    whole = tokenizer.encode(text)
    for length in (2, 64, 256):
        (sequence,) = encode(corpus_of(Document(0, text)), tokenizer, length)
        assert sequence.ids.tolist() == whole[:length]
        assert sequence.truncated == (len(whole) > length)


def test_a_long_text_that_is_cut_off_is_not_tokenised_whole(plain):
    """10 MB took 22 s and 1.7 GB for 256 tokens."""
    text = "A router sends a token to two experts. " * 20_000
    counting = Counting(plain)
    (sequence,) = encode(corpus_of(Document(0, text)), counting, 256)
    assert sequence.ids.tolist() == plain.encode(text)[:256]
    assert counting.longest < 20_000


def test_documents_of_no_token_are_left_out():
    core = Tokenizer(models.BPE(vocab={"k": 0}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    silent = (Document(0, "abc"), Document(1, "xyz", windowed=True))
    assert [s.row for s in encode(corpus_of(*silent, Document(2, "k")), tokenizer, 5)] == [2]
    with pytest.raises(DataError, match="made gives no token"):
        encode(corpus_of(*silent), tokenizer, 5)


def test_max_length_must_be_positive(plain):
    with pytest.raises(DataError, match="max_length is 0"):
        encode(corpus_of(Document(0, "text")), plain, 0)


# Batches


def sequence(row: int, length: int, window: int = 0) -> Sequence:
    return Sequence(row, window, np.arange(1, length + 1, dtype=np.int32) + 100 * row + 10 * window, truncated=False)


def test_a_batch_is_padded_on_the_right():
    [batch] = batches([sequence(1, 2), sequence(2, 4)], 8, pad_id=9)
    assert batch.ids.tolist() == [[201, 202, 203, 204], [101, 102, 9, 9]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.rows == (2, 1)
    assert (batch.ids.dtype, batch.mask.dtype) == (np.int32, np.bool_)


def test_batches_come_longest_first_whatever_the_order_given():
    sequences = [sequence(0, 3), sequence(1, 5), sequence(2, 3), sequence(3, 1), sequence(4, 5, 1), sequence(4, 5, 0)]

    def described(given: list[Sequence]) -> list[tuple[tuple[int, ...], list[list[int]]]]:
        return [(batch.rows, batch.ids.tolist()) for batch in batches(given, 2)]

    assert [rows for rows, _ in described(sequences)] == [(1, 4), (4, 0), (2, 3)]
    assert described(sequences) == described(sequences[::-1])


def test_batches_hold_every_token_once(plain):
    corpus = read_corpus("general", max_samples=11)
    sequences = encode(corpus, plain, 64)
    given = Counter((s.row, int(token)) for s in sequences for token in s.ids)
    made: list[Batch] = list(batches(sequences, 4, pad_id=pad_id(plain)))
    found = Counter(
        (row, int(token))
        for batch in made
        for row, ids, mask in zip(batch.rows, batch.ids, batch.mask, strict=True)
        for token in ids[mask]
    )
    assert found == given
    assert [len(batch.rows) for batch in made] == [4, 4, 3]
    assert all((batch.ids[~batch.mask] == pad_id(plain)).all() for batch in made)


def test_batch_size_is_checked_at_once():
    with pytest.raises(DataError, match="batch_size is 0"):
        batches([sequence(0, 1)], 0)
    assert list(batches([], 4)) == []


# The bundled prompts


@pytest.mark.parametrize("name", ["math", "general", "code"])
def test_bundled_prompts_are_many_distinct_and_of_moderate_length(name):
    path = Path(__file__).parents[1] / "mlx_moebench" / "data" / "prompts" / f"{name}.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(entries) >= 80
    assert all(set(entry) == {"id", "topic", "form", "text"} for entry in entries)
    assert [document.text for document in read_corpus(name).documents] == [entry["text"] for entry in entries]
    for key in ("id", "text"):
        assert len({entry[key] for entry in entries}) == len(entries)
    # Without a tokenizer at hand: about four characters a token in prose, fewer in code and formulas.
    lengths = [len(entry["text"]) for entry in entries]
    assert min(lengths) >= 60
    assert max(lengths) <= 1000


@pytest.mark.parametrize("name", ["math", "general", "code"])
def test_bundled_prompts_share_no_run_of_eight_words(name):
    first_row: dict[tuple[str, ...], int] = {}
    for document in read_corpus(name).documents:
        words = document.text.lower().split()
        for start in range(len(words) - 7):
            gram = tuple(words[start : start + 8])
            assert first_row.setdefault(gram, document.row) == document.row, " ".join(gram)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["math", "general", "code"])
def test_bundled_prompts_have_30_to_250_tokens(name):
    root = Path(os.environ.get("MOEBENCH_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "tokenizers" / "olmoe_tokenizer.json"
    if not path.exists():
        pytest.skip("tokenizers/olmoe_tokenizer.json is not in MOEBENCH_SHARED_DATA")
    sequences = encode(read_corpus(name), PreTrainedTokenizerFast(tokenizer_file=str(path)), 1000)
    outside = {s.row: len(s.ids) for s in sequences if not 30 <= len(s.ids) <= 250}
    assert outside == {}
