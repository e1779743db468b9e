"""Tokenizers as models have them, small: what their tokens say differs, and what they drop."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    '{"name": "Ada", "age": 36, "tags": ["red", "green"], "ok": true, "none": null}',
    '[{"a": 1.5e-3, "b": "Größe 東京 🙂"}, {"c": false}]',
    "a red circle to the left of a blue square: what is it? It's 10,000 - or more.",
]
END = "<|end|>"
SPECIAL = ["<unk>", "<s>", END]
TOOL = "<tool_call>"


def byte_level() -> Tokenizer:
    """As GPT-2, Qwen and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(
        tokenizer,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )


def byte_fallback(*, drops_space: bool = True) -> Tokenizer:
    """As Llama 2 and Mistral have it, made from sentencepiece; Gemma keeps the first space."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    more = [decoders.Strip(" ", 1, 0)] if drops_space else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])
    _trained(tokenizer, trainers.BpeTrainer(vocab_size=420, special_tokens=tokens, show_progress=False, max_token_length=8))
    return _with_special(tokenizer)


def metaspace() -> Tokenizer:
    """As T5 and XLM have it: words with their space before them, no bytes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return _trained(tokenizer, trainer)


def word_pieces() -> Tokenizer:
    """As BERT has it: spaces come from between the tokens, so no token says its own text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+|[^\w\s]"), "isolated")
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False))


def with_tool_mark(tokenizer: Tokenizer) -> Tokenizer:
    """A token that was added, and is text all the same, as Qwen's are."""
    tokenizer.add_tokens([AddedToken(TOOL, special=False, normalized=False)])
    return tokenizer


def token_of(tokenizer: Tokenizer, spelled: str) -> int:
    found = tokenizer.token_to_id(spelled)
    assert found is not None, spelled
    return found


KINDS = {
    "byte-level": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback that keeps its space": lambda: byte_fallback(drops_space=False),
    "metaspace": metaspace,
}


def _trained(tokenizer: Tokenizer, trainer: object) -> Tokenizer:
    tokenizer.train_from_iterator(TEXT * 8, trainer)  # type: ignore[arg-type]
    return tokenizer


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    """Bytes were only kept as special tokens so that the trainer would take them; to a decoder they are tokens like others."""
    import json

    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(written))
