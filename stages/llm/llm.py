"""The LLM stage: continuous batching for any `transformers` decoder, and for the language part of a vision-language model.

Decides what a step computes: a share of the waiting prompts, within a token budget, and one token of every other row. Knows
no HTTP, no vision encoder (pictures come as features) and no queue: the engine decides which rows run.

The life of a row: `start` gives it a slot, with whatever beginning of its prompt is already known; steps compute the rest
of the prompt in chunks; the step that computes the prompt's last token chooses the first token of the answer; every further
step adds one, until a stop token, a stop string or the bound; `finish` frees the slot, whose content may serve a later
prompt. A row that must make way keeps its tokens only: `resume` treats prompt and answer so far as a prompt.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError, StageFailed
from stages.contract.faults import Fault, fault_of
from stages.contract.stage import Stepped
from stages.device.arrays import as_tensor
from stages.device.packed_linear import is_packed
from stages.llm.detokenizer import Shown, TextStream, TokenTexts
from stages.llm.messages import Generate, GenerationEnd, ImageSpan, Sampling, TokenDelta, TokenLogprob
from stages.llm.model.forward import Forward, PlacedImage
from stages.llm.model.image_positions import ImagePositions
from stages.llm.model.loading import LoadedLanguageModel, load_language_model
from stages.llm.model.prefix import Occupant, SlotBook
from stages.llm.model.self_check import check_answers
from stages.llm.prefill import group_by_length, share_budget
from stages.llm.prompt_rules import PromptRules, without_foreign_tokens
from stages.llm.row import LlmRow, SuspendedAnswer
from stages.llm.sampling.sampling import Choice, Chooser, choose

MIN_CHUNK_TOKENS = 16  # fewer make no pass noticeably smaller


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """`num_slots` requests at once, each of at most `max_context_tokens` (prompt and answer); memory for all of them is
    taken at load. A step computes at most `prefill_chunk_tokens` of waiting prompts: fewer make running streams smoother,
    more make prompts cheaper."""

    num_slots: int = 8
    max_context_tokens: int = 2048
    prefill_chunk_tokens: int = 256

    def __post_init__(self) -> None:
        for name, least in (("num_slots", 1), ("max_context_tokens", 2), ("prefill_chunk_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"llm.{name}: {getattr(self, name)} is not allowed; it is at least {least}")


class _OnlyUnpacked(Exception):
    """A model may look at its layers' weights, which packed layers don't show: it gets another chance without."""


class Llm:
    """An `IterativeStage[Generate, LlmRow]`. Events of a row: `TokenDelta` for every token, then `GenerationEnd`.

    Tokens are counted as computed: the stop token that ends an answer counts, though it is not shown.
    """

    def __init__(self, loaded: LoadedLanguageModel, settings: LlmSettings, device: str) -> None:
        self._settings = settings
        self._chunk_tokens = settings.prefill_chunk_tokens
        self._device_name = device
        self._eos_tokens = loaded.eos_tokens
        self._tokenizer = loaded.tokenizer.backend_tokenizer
        self._texts = TokenTexts(self._tokenizer)
        self._image_positions = ImagePositions.of(loaded.model)
        self._forward = Forward(
            loaded.model,
            settings.num_slots,
            settings.max_context_tokens,
            three_positions=self._image_positions is not None,
        )
        num_tokens, width = loaded.model.get_input_embeddings().weight.shape
        self._rules = PromptRules(num_tokens, width, settings.max_context_tokens, self._image_positions)
        self._book = SlotBook(settings.num_slots)
        self._allocate()

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions, settings: LlmSettings) -> "Llm":
        """Reads the weights (of a vision-language checkpoint: the language part only) and takes the memory for all slots.
        Raises `ConfigurationError` where the checkpoint can't be served so."""
        try:
            llm = cls._checked(checkpoint, options, settings, pack=True)
        except _OnlyUnpacked:
            llm = cls._checked(checkpoint, options, settings, pack=False)
        if options.compile:
            with torch.inference_mode():
                llm._forward.compile()
        return llm

    @classmethod
    def _checked(cls, checkpoint: Checkpoint, options: LoadOptions, settings: LlmSettings, *, pack: bool) -> "Llm":
        loaded = load_language_model(checkpoint, options, pack=pack)
        limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and settings.max_context_tokens > limit:
            raise ConfigurationError(
                f"llm.max_context_tokens: {settings.max_context_tokens} is more than the {limit} that "
                f"{checkpoint.source} was made for"
            )
        try:
            llm = cls(loaded, settings, options.device)
            check_answers(loaded.model, llm._forward)
        except Exception as error:  # its first pass is as far as many an unknown architecture comes
            if fault_of(error) is Fault.OUT_OF_MEMORY:
                raise ConfigurationError(
                    f"{checkpoint.source}: memory ran out while {settings.num_slots} slots of {settings.max_context_tokens} tokens "
                    f"were taken: lower llm.num_slots or llm.max_context_tokens ({error})"
                ) from error
            if fault_of(error) is Fault.DEVICE:
                raise
            if is_packed(loaded.model):
                raise _OnlyUnpacked from error
            if isinstance(error, ConfigurationError):
                raise
            what = f"{type(loaded.model).__name__} cannot be served from slots"
            raise ConfigurationError(f"{checkpoint.source}: {what}: {type(error).__name__}: {error}") from error
        return llm

    def _allocate(self) -> None:
        """One token through the model: the slots take their memory now, and what can't run fails now."""
        occupant = Occupant("", [0])
        chooser, text = Chooser(Sampling(max_tokens=1)), TextStream(self._tokenizer, ())
        row = LlmRow(0, occupant, num_prompt=1, num_given=1, num_cached=0, max_tokens=1, chooser=chooser, text=text)
        with torch.inference_mode():
            self._forward.run([row], [row.next_chunk()])

    @property
    def device(self) -> str:
        return self._device_name

    @property
    def num_cache_bytes(self) -> int:
        """Memory taken for all slots; it never grows."""
        return self._forward.slots.num_bytes

    def check(self, payload: Generate) -> None:
        """Raises `InvalidRequest` for what could never run: longer than a slot, tokens outside the vocabulary, features
        that don't fit."""
        self._rules.check(payload)

    def weigh(self, payload: Generate) -> tuple[Hashable, float]:
        return "llm", float(min(len(payload.token_ids), self._chunk_tokens))

    def can_start(self, payload: Generate) -> bool:
        return self._book.num_free > 0

    def start(self, payload: Generate) -> LlmRow:
        chooser = Chooser(payload.sampling, [token for token in payload.token_ids if token < self._rules.num_tokens])
        return self._row(payload, SuspendedAnswer((), 0, chooser, self._new_text(payload)))

    def suspend(self, row: LlmRow) -> SuspendedAnswer:
        return row.suspended()

    def resume(self, payload: Generate, suspended: SuspendedAnswer) -> LlmRow:
        return self._row(payload, suspended)

    def _new_text(self, payload: Generate) -> TextStream:
        return TextStream(self._tokenizer, payload.sampling.stop)

    def _row(self, payload: Generate, so_far: SuspendedAnswer) -> LlmRow:
        prompt = without_foreign_tokens(payload, self._rules.num_tokens)
        tokens = [*prompt, *so_far.tokens]
        images = tuple((image.offset, image.length, image.digest) for image in payload.images)
        occupant = Occupant(payload.salt, tokens, images)
        # What may fail comes before a slot is taken.
        with torch.inference_mode():
            features = tuple(self._placed(image) for image in payload.images)
            positions, delta = self._positions(payload)
            placement = self._book.place(occupant)
            if placement.copy_from is not None:
                self._forward.slots.copy_prefix(placement.copy_from, placement.slot, placement.num_reused)
        room = self._settings.max_context_tokens - len(prompt)
        return LlmRow(
            slot=placement.slot,
            occupant=occupant,
            num_prompt=len(prompt),
            num_given=len(tokens),
            num_cached=so_far.num_cached if so_far.tokens else placement.num_reused,
            max_tokens=min(payload.sampling.max_tokens or room, room),
            chooser=so_far.chooser,
            text=so_far.text,
            images=features,
            positions=positions,
            position_delta=delta,
        )

    def _placed(self, image: ImageSpan) -> PlacedImage:
        features = as_tensor(image.value["features"], dtype=self._forward.dtype, device=self._forward.device)
        return PlacedImage(image.offset, features)

    def _positions(self, payload: Generate) -> tuple[Tensor | None, int]:
        if self._image_positions is None or not payload.images:
            return None, 0
        positions, delta = self._image_positions.of_prompt(len(payload.token_ids), payload.images)
        return positions.to(self._forward.device), delta

    def batch_key(self, row: LlmRow) -> Hashable:
        return "llm"

    def cost(self, row: LlmRow) -> float:
        """Tokens that the row may add to the next step."""
        return float(min(max(1, row.num_waiting), self._chunk_tokens))

    def shrink(self) -> bool:
        """From now on a step computes half as many tokens of waiting prompts."""
        before, self._chunk_tokens = (
            self._chunk_tokens,
            max(self._chunk_tokens // 2, min(self._chunk_tokens, MIN_CHUNK_TOKENS)),
        )
        return self._chunk_tokens < before

    def step(self, rows: Sequence[LlmRow]) -> Sequence[Stepped]:
        before = [(row.occupant.num_computed, row.images) for row in rows]
        try:
            with torch.inference_mode():
                chosen = self._compute(rows)
        except Exception:
            # Some of the step's passes may have run. What they wrote into the slots will be written again, and the same.
            for row, (num_computed, images) in zip(rows, before, strict=True):
                row.occupant.num_computed, row.images = num_computed, images
            raise
        return [self._advanced(row, chosen[place]) if place in chosen else Stepped() for place, row in enumerate(rows)]

    def _compute(self, rows: Sequence[LlmRow]) -> dict[int, Choice]:
        """The next token of every row (by place) whose prompt is computed by the end of the step."""
        ready: list[int] = []
        logits: list[Tensor] = []
        for places, lengths in self._passes(rows):
            members = [rows[place] for place in places]
            found = self._forward.run(members, [row.next_chunk(length) for row, length in zip(members, lengths, strict=True)])
            for row, length in zip(members, lengths, strict=True):
                row.occupant.num_computed += length
                row.images = row.images if row.num_waiting else ()
            done = [line for line, row in enumerate(members) if not row.num_waiting]
            ready += [places[line] for line in done]
            logits.append(found if len(done) == len(members) else found[done])
        if not ready:
            return {}
        choices = choose(torch.cat(logits), [rows[place].chooser for place in ready])
        return dict(zip(ready, choices, strict=True))

    def _passes(self, rows: Sequence[LlmRow]) -> list[tuple[list[int], list[int]]]:
        """The step's forward passes: (places of rows, tokens of each). One for all running answers, the others for prompts."""
        answering = [place for place, row in enumerate(rows) if not row.num_waiting]
        answering.sort(key=lambda place: rows[place].slot)
        waiting = [place for place, row in enumerate(rows) if row.num_waiting]
        shares = share_budget([rows[place].num_waiting for place in waiting], self._chunk_tokens)
        passes = [(answering, [1] * len(answering))] if answering else []
        for group in group_by_length(shares):
            passes.append(([waiting[member] for member in group], [shares[member] for member in group]))
        return passes

    def _advanced(self, row: LlmRow, choice: Choice) -> Stepped:
        row.is_sound = not choice.failed
        if choice.failed:
            return Stepped(error=StageFailed("the language model computed values that are no numbers; check llm.dtype"))
        row.occupant.tokens.append(choice.token)
        if choice.token in self._eos_tokens:
            return self._shown(row, row.text.end(), "stop")
        shown = row.text.push(choice.token, self._logprob(row, choice))
        if shown.stopped:
            return self._shown(row, shown, "stop")
        if row.num_generated < row.max_tokens:
            return self._shown(row, shown, None)
        tail = row.text.end()
        whole = Shown(shown.text + tail.text, shown.logprobs + tail.logprobs)
        return self._shown(row, whole, "stop" if tail.stopped else "length")

    def _shown(self, row: LlmRow, shown: Shown, reason: str | None) -> Stepped:
        delta = TokenDelta(shown.text, 1, shown.logprobs)
        if reason is None:
            return Stepped((delta,))
        return Stepped((delta, GenerationEnd(reason, row.num_generated, row.num_cached)), done=True)

    def _logprob(self, row: LlmRow, choice: Choice) -> TokenLogprob | None:
        if row.chooser.sampling.logprobs is None:
            return None
        top = tuple(self._texts.logprob(token, logprob) for token, logprob in choice.top)
        return self._texts.logprob(choice.token, choice.logprob, top)

    def finish(self, row: LlmRow) -> None:
        if not row.is_sound:
            # Attention reads over a row's end, and zero times no number is no number: the slot's next row would fail, too.
            self._book.forget(row.slot)
            with torch.inference_mode():
                self._forward.slots.wipe(row.slot)
        self._book.release(row.slot)
