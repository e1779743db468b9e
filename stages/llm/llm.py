"""The LLM stage: continuous batching for any `transformers` decoder, and for the language part of a vision-language model.

Decides what a step computes: a share of the waiting prompts, within a token budget, and one token of every other row. What a row
then tells is `answer_events.py`. Knows no HTTP, no vision encoder (images come as features) and no queue: the engine decides which
rows run.

The life of a row: `page_run` tells the pages of its prompt, and how many of them a slot holds; `needs`, which images lie beyond those and
the pages that were brought; `prepare` brings their features into the model's dtype; `start` gives it a slot, with whatever beginning of
its prompt is already known, copied from another slot or written from pages, and brings the other features onto the device, where they
stay until the prompt is computed; steps compute the rest of the prompt in chunks, but for what another row computes at the time
(`following.py`); the step that computes the prompt's last token samples the first token of the answer; every further step adds one, until
a stop token, a stop string or the bound; `finish` frees the slot, whose content may serve a later prompt, and leaves in pages (`export`)
when that is in nobody's way. A row that must make way keeps its tokens only: `resume` treats prompt and answer so far as a prompt.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError
from stages.contract.faults import Fault, fault_of
from stages.contract.pages import MadePage, PageRun
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from stages.contract.work import Work
from stages.device.cuda_graphs import CudaGraphs
from stages.device.packed_linear import is_packed
from stages.device.uploads import uploaded
from stages.llm.answer_events import AnswerEvents
from stages.llm.answers.detokenizer import TextStream, TokenTexts, special_tokens
from stages.llm.answers.ending import end_tokens
from stages.llm.answers.lengths import AnswerLengths
from stages.llm.following import Following
from stages.llm.messages import Generate, Sampling
from stages.llm.model.forward import Forward, PlacedImage
from stages.llm.model.image_positions import ImagePositions
from stages.llm.model.loading import LoadedLanguageModel, load_language_model
from stages.llm.model.self_check import check_answers, record_decode
from stages.llm.model.slot_cache import Chunk
from stages.llm.model.slot_pages import CannotPage, SlotPages
from stages.llm.model.slot_table import Placement, SlotContents, SlotTable
from stages.llm.pages.at_hand import PagesAtHand
from stages.llm.pages.kv_page import KvPage
from stages.llm.pages.naming import PageNaming
from stages.llm.paging import Paging
from stages.llm.prefill import planned
from stages.llm.prompts.prompt import PreparedPrompt, PromptPreparer
from stages.llm.prompts.reading import PromptReader
from stages.llm.prompts.rules import PromptRules
from stages.llm.row import LlmRow, SuspendedAnswer, replay
from stages.llm.sampling.sampling import RowSampler, SampledToken, make_ready, sample
from stages.llm.sampling.scoring import PromptScoring, tokens_within
from stages.llm.settings import LlmSettings
from stages.llm.structure.row_structure import RowStructure
from stages.llm.structure.structures import Structures
from stages.llm.structure.vocabulary import Vocabulary
from stages.llm.work import answer_work

MIN_CHUNK_TOKENS = 16  # fewer make no pass noticeably smaller

log = logging.getLogger("triptych.stages")


class _OnlyUnpacked(Exception):
    """A model may look at its layers' weights, which packed layers don't show: it gets another chance without."""


class Llm:
    """An `IterativeStage[Generate, PreparedPrompt, LlmRow]`, and `Paged[Generate]`. Events of a row: `PromptLogprobs` where they were asked
    for, `TokenDelta` for every token, then `GenerationEnd`.

    Tokens are counted as computed: the stop token that ends an answer counts, though it is not shown.
    """

    def __init__(self, loaded: LoadedLanguageModel, settings: LlmSettings, device: str) -> None:
        self._settings = settings
        self._chunk_tokens = settings.prefill_chunk_tokens
        self._device_name = device
        self._eos_tokens = loaded.eos_tokens
        self._tokenizer = loaded.tokenizer.backend_tokenizer
        image_positions = ImagePositions.of(loaded.model)
        self._forward = Forward(
            loaded.model,
            settings.num_slots,
            settings.max_context_tokens,
            three_positions=image_positions is not None,
        )
        num_tokens, width = loaded.model.get_input_embeddings().weight.shape
        self._structures = Structures(Vocabulary(self._tokenizer, loaded.eos_tokens, num_tokens))
        self._rules = PromptRules(num_tokens, settings.max_context_tokens)
        self._max_scored = tokens_within(num_tokens)
        naming = PageNaming(settings.page_tokens, settings.page_dtype, image_positions is not None)
        self._table = SlotTable(settings.num_slots, naming)
        self._lengths = AnswerLengths()
        self._answers = AnswerEvents(TokenTexts(self._tokenizer), self._lengths)
        self._allocate()
        self._pages = self._slot_pages(type(loaded.model).__name__)
        self._paging = Paging(self._table, self._pages)
        self._following = Following(self._table, self._forward.slots.copy_prefix)
        self._while_computing: Callable[[], None] | None = None
        reader = PromptReader(num_tokens, naming)
        self._preparer = PromptPreparer(reader, width, image_positions, self._table, self._forward.dtype, self._pages)

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
        if llm._forward.device.type == "cuda":
            record_decode(llm._forward, CudaGraphs(llm._forward.device))
        make_ready(llm._forward.device)
        return llm

    @classmethod
    def _checked(cls, checkpoint: Checkpoint, options: LoadOptions, settings: LlmSettings, *, pack: bool) -> "Llm":
        if options.device.startswith("cuda"):
            torch.backends.cuda.enable_cudnn_sdp(
                False
            )  # it plans anew for every length, and a step has another one all the time
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
        contents = SlotContents("", [0])
        sampler, text = RowSampler(Sampling(max_tokens=1)), TextStream(self._tokenizer, ())
        row = LlmRow(0, contents, num_prompt=1, num_given=1, num_cached=0, max_tokens=1, sampler=sampler, text=text)
        with torch.inference_mode():
            self._forward.run([row], [row.next_chunk()])

    def _slot_pages(self, model: str) -> SlotPages | None:
        try:
            return SlotPages(self._forward.slots, self._settings.page_tokens, int8=self._settings.page_dtype == "int8")
        except CannotPage as why:
            log.warning("%s: its keys and values are remembered in its slots only: %s", model, why)
            return None

    @property
    def device(self) -> str:
        return self._device_name

    @property
    def num_cache_bytes(self) -> int:
        """Memory taken for all slots; it never grows."""
        return self._forward.slots.num_bytes

    def check(self, payload: Generate) -> None:
        """Raises `InvalidRequest` for what could never run: longer than a slot, tokens outside the vocabulary, images outside
        the prompt."""
        self._rules.check(payload)

    @property
    def max_step_amount(self) -> float:
        """A chunk of prompts, and a token of every row beside it."""
        return float(self._settings.prefill_chunk_tokens + self._settings.num_slots)

    def weigh(self, payload: Generate) -> float:
        return float(min(len(payload.token_ids) + len(payload.so_far.token_ids), self._chunk_tokens))

    @property
    def page_type(self) -> type[Result]:
        return KvPage

    def page_run(self, payload: Generate) -> PageRun:
        """Of the prompt: the answer's pages come to be as it goes on. None where the model's keys and values can't be paged."""
        return self._preparer.page_run(payload)

    def has_exports(self, *, idle: bool) -> bool:
        return self._paging.has_exports(idle=idle)

    def export(self, *, idle: bool) -> Sequence[MadePage]:
        with torch.inference_mode():
            return self._paging.export(idle=idle)

    def lost(self, names: Sequence[str]) -> None:
        self._paging.lost(names)

    def needs(self, payload: Generate, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        """Features of the images that lie beyond the longest beginning of the prompt that a slot holds under its salt, and the pages at
        hand that go on from there."""
        return self._preparer.needs(payload, inputs)

    def resident_names(self) -> Collection[str]:
        """Of the features whose images a slot holds keys and values of. Any thread."""
        return self._table.resident_names()

    def prepare(self, payload: Generate, inputs: Inputs) -> PreparedPrompt:
        """Raises `StageFailed` for features of another model, `InvalidRequest` for a constraint that can't be enforced."""
        prepared, constraint = self._preparer.prepare(payload, inputs), payload.sampling.constraint
        if constraint is None:
            return prepared
        start = self._structures.start(constraint, payload.salt)
        return replace(prepared, structure=start.behind(payload.so_far.token_ids))

    def share(self, prepared: PreparedPrompt) -> Share:
        """Of what is still to be computed of the prompt, as things stand. Any thread."""
        held = self._table.num_reusable(prepared.contents())
        num_waiting = prepared.num_tokens - prepared.at_hand.reach(held, prepared.num_tokens)
        return Share("llm", float(min(num_waiting, self._chunk_tokens)))

    def can_start(self, payload: Generate) -> bool:
        return self._table.num_free > 0

    def start(self, payload: Generate, prepared: PreparedPrompt) -> LlmRow:
        structure = None if prepared.structure is None else RowStructure(prepared.structure)
        prompt = [token for token in payload.token_ids if token < self._rules.num_tokens]
        sampling = payload.sampling
        sampler = RowSampler(sampling, prompt, structure, end_tokens(sampling, self._eos_tokens))
        text = TextStream(
            self._tokenizer,
            sampling.stop,
            shown=sampling.shown_tokens if sampling.skip_special_tokens else special_tokens(self._tokenizer),
            min_tokens=sampling.min_tokens,
            shows_stop=sampling.include_stop_str_in_output,
        )
        names = prepared.read.page_names
        brought = [names[number] for number in prepared.at_hand.pages]
        most = payload.sampling.prompt_logprobs
        scoring = None if most is None else PromptScoring(prepared.read.prompt, most, payload.so_far.num_scored)
        replay(payload.so_far, sampler, text)
        row = self._row(payload, prepared, SuspendedAnswer(payload.so_far.token_ids, None, sampler, text, scoring))
        self._paging.came(names, brought)
        return row

    def suspend(self, row: LlmRow) -> SuspendedAnswer:
        return row.suspended()

    def resume(self, payload: Generate, prepared: PreparedPrompt, suspended: SuspendedAnswer) -> LlmRow:
        return self._row(payload, prepared, suspended)

    def _row(self, payload: Generate, prepared: PreparedPrompt, so_far: SuspendedAnswer) -> LlmRow:
        contents = prepared.contents(so_far.tokens)
        placement = self._table.find(contents)
        num_reused = prepared.at_hand.reach(placement.num_reused, len(contents.tokens))
        if missing := prepared.lacks(num_reused):
            raise InputsMissing(missing)
        images, positions = self._on_device(prepared, num_reused)  # this may fail, too, and then no slot is taken
        self._take(contents, placement, prepared.at_hand)
        follows = self._following.followed_by(placement.slot, contents)
        num_prompt = prepared.read.num_prompt
        room = self._settings.max_context_tokens - num_prompt
        return LlmRow(
            slot=placement.slot,
            contents=contents,
            num_prompt=num_prompt,
            num_given=len(contents.tokens),
            num_cached=min(num_reused, num_prompt) if so_far.num_cached is None else so_far.num_cached,
            max_tokens=min(payload.sampling.max_tokens or room, room),
            sampler=so_far.sampler,
            text=so_far.text,
            end_tokens=end_tokens(payload.sampling, self._eos_tokens),
            images=images,
            positions=positions,
            position_delta=prepared.position_delta,
            scoring=so_far.scoring,
            follows=follows,
            is_new=so_far.num_cached is None,
        )

    def _on_device(self, prepared: PreparedPrompt, num_reused: int) -> tuple[tuple[PlacedImage, ...], Tensor | None]:
        """The images of which something lies beyond what is reused, and the positions."""
        device, positions = self._forward.device, prepared.positions
        with torch.inference_mode():
            images = tuple(
                PlacedImage(one.image.offset, one.features.to(device))
                for one in prepared.images
                if one.features is not None and one.image.end > num_reused
            )
            return images, None if positions is None else positions.to(device)

    def _take(self, contents: SlotContents, placement: Placement, at_hand: PagesAtHand) -> None:
        """Whatever fails, no slot is taken."""
        slot, held = placement.slot, placement.num_reused
        with torch.inference_mode():
            self._paging.leave(slot, held if placement.copy_from is None else 0)
            if placement.copy_from is not None:
                self._table.forget(slot)
                self._forward.slots.copy_prefix(placement.copy_from, slot, held)
            if (brought := at_hand.beyond(held)) and self._pages is not None:
                self._table.forget(slot)
                self._pages.write(slot, held // at_hand.page_tokens, brought)
        self._table.take(contents, placement, at_hand.reach(held, len(contents.tokens)))
        at_hand.let_go()

    def batch_key(self, row: LlmRow) -> Hashable:
        return "llm"

    def cost(self, row: LlmRow) -> float:
        """Tokens that the row may add to the next step."""
        most = min(self._chunk_tokens, self._max_scored) if row.is_scored else self._chunk_tokens
        return float(min(max(1, row.num_waiting), most))

    def rest(self, row: LlmRow) -> Work | None:
        """Of its prompt, and of the answer as far as others tell how long that will be."""
        if row.foreseen < row.num_generated + 1:
            row.foreseen = self._lengths.expected(row.max_tokens, row.num_generated)
        if not row.num_waiting:
            if row.told == row.foreseen:
                return None
            row.told = row.foreseen
        return answer_work(row.num_own, row.foreseen - row.num_generated, self._chunk_tokens)

    def shrink(self) -> bool:
        """From now on a step computes half as many tokens of waiting prompts."""
        before, self._chunk_tokens = (
            self._chunk_tokens,
            max(self._chunk_tokens // 2, min(self._chunk_tokens, MIN_CHUNK_TOKENS)),
        )
        return self._chunk_tokens < before

    def while_computing(self, do: Callable[[], None]) -> bool:
        if self._forward.device.type == "cpu":
            return False  # nothing is launched there: what is computed, this thread computes
        self._while_computing = do
        return True

    def step(self, rows: Sequence[LlmRow]) -> Sequence[Stepped]:
        with torch.inference_mode():
            behind = self._following.waiting(rows)
        before = [(row.contents.num_computed, row.images) for row in rows]
        try:
            with torch.inference_mode():
                sampled = self._compute(rows, behind)
        except Exception:
            # Some of the step's passes may have run. What they wrote into the slots will be written again, and the same.
            for row, (num_computed, images) in zip(rows, before, strict=True):
                row.contents.num_computed, row.images, row.scored = num_computed, images, ()
            raise
        stepped = [
            self._answers.told(row, row.contents.num_computed - before[index][0], sampled.get(index))
            for index, row in enumerate(rows)
        ]
        each = self._settings.page_tokens
        for row, (num_computed, _) in zip(rows, before, strict=True):
            if num_computed >= row.num_given and num_computed // each == row.contents.num_computed // each:
                continue  # an answer went on within its page
            self._table.advance(row.slot)
            if row.is_sound:
                self._paging.computed(row.slot)
        with torch.inference_mode():
            self._following.catch_up(rows, {row.slot for row, one in zip(rows, stepped, strict=True) if one.error is not None})
        return stepped

    def _compute(self, rows: Sequence[LlmRow], behind: Mapping[int, int]) -> dict[int, SampledToken]:
        """The next token of every row (by its index) whose prompt is computed by the end of the step. `behind`: who waits for whom."""
        ready: list[int] = []
        logits: list[Tensor] = []
        for one in planned(rows, self._chunk_tokens, self._max_scored, behind):
            indices, lengths = one.indices, one.lengths
            members = [rows[index] for index in indices]
            chunks = [row.next_chunk(length) for row, length in zip(members, lengths, strict=True)]
            found = self._scored(members, chunks) if one.is_scored else self._forward.run(members, chunks)
            done: list[int] = []
            for line, (row, length) in enumerate(zip(members, lengths, strict=True)):
                row.contents.num_computed += length
                if not row.num_waiting:
                    row.images = ()
                    done.append(line)
            ready += indices if len(done) == len(members) else [indices[line] for line in done]
            logits.append(
                found if len(done) == len(members) else found[uploaded(torch.tensor(done, dtype=torch.long), found.device)]
            )
        if not ready:
            if self._while_computing is not None:
                self._while_computing()
            return {}
        every = logits[0] if len(logits) == 1 else torch.cat(logits)
        sampled = sample(every, [rows[index].sampler for index in ready], self._while_computing)
        return dict(zip(ready, sampled, strict=True))

    def _scored(self, rows: Sequence[LlmRow], chunks: Sequence[Chunk]) -> Tensor:
        """Logits [rows, vocabulary] behind the chunks' last tokens, once all of them were looked at."""
        whole = self._forward.run_whole(rows, chunks)
        for row, chunk, logits in zip(rows, chunks, whole, strict=True):
            if row.scoring is not None:
                row.scored = row.scoring.read(logits[-chunk.length :], chunk.start)
        return whole[:, -1].clone()  # a view would hold all of them

    def finish(self, row: LlmRow) -> None:
        if not row.is_sound:
            # Attention reads over a row's end, and zero times no number is no number: the slot's next row would fail, too.
            self._table.forget(row.slot)
            self._paging.forget(row.slot)
            with torch.inference_mode():
                self._forward.slots.wipe(row.slot)
        self._table.release(row.slot)
