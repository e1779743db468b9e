"""What a row tells once a step has computed something of it: its prompt's scores, the next piece of its text, and its end.

Decides what ends an answer, and that a row whose logits are no numbers fails instead of telling anything. Knows no model and no slots;
that a row is sound, or not, is left on the row.
"""

from stages.contract.errors import StageFailed
from stages.contract.stage import Stepped
from stages.llm.answers.detokenizer import Shown, TokenTexts
from stages.llm.answers.lengths import AnswerLengths
from stages.llm.messages import GenerationEnd, PromptLogprobs, TokenDelta, TokenLogprob
from stages.llm.row import LlmRow
from stages.llm.sampling.sampling import SampledToken
from stages.llm.sampling.scoring import are_numbers


class AnswerEvents:
    """Of every row of a stage. `lengths` learns from every answer that ends."""

    def __init__(self, texts: TokenTexts, lengths: AnswerLengths) -> None:
        self._texts, self._lengths = texts, lengths

    def told(self, row: LlmRow, num_computed: int, sampled: SampledToken | None) -> Stepped:
        """After a step that computed so many tokens of the row. `sampled`: the next token of its answer, None while its prompt is
        computed."""
        return self._with_scores(row, Stepped(work=num_computed) if sampled is None else self._advanced(row, sampled))

    def _with_scores(self, row: LlmRow, stepped: Stepped) -> Stepped:
        """With what the step found of the prompt."""
        if row.scoring is None or not row.scored:
            return stepped
        scored, row.scored = row.scored, ()
        if not are_numbers(scored):
            row.is_sound = False
            return _no_numbers()
        row.scoring.told(scored)
        return stepped._replace(events=(PromptLogprobs(tuple(map(self._told, scored))), *stepped.events))

    def _told(self, scored: SampledToken) -> TokenLogprob:
        top = tuple(self._texts.logprob(token, logprob) for token, logprob in scored.top)
        return self._texts.logprob(scored.token, scored.logprob, top)

    def _advanced(self, row: LlmRow, sampled: SampledToken) -> Stepped:
        row.is_sound = not sampled.failed
        if sampled.failed:
            return _no_numbers()
        if (structure := row.sampler.structure) is not None:
            if structure.failure is not None:
                return Stepped(error=structure.failure)
            if structure.is_complete:
                return self._ended(row, row.text.end(), "stop")
        row.contents.tokens.append(sampled.token)
        if sampled.token in row.end_tokens:
            return self._ended_by(row, sampled)
        logprob = self._logprob(row, sampled)
        shown = row.text.push(sampled.token, logprob)
        if shown.stopped:
            return self._ended(row, shown, "stop")
        if row.num_generated < row.max_tokens:
            chosen = () if logprob is None else (logprob,)
            return Stepped((TokenDelta(shown.text, 1, shown.logprobs, (sampled.token,), chosen),))
        tail = row.text.end()
        return self._ended(row, Shown(shown.text + tail.text, shown.logprobs + tail.logprobs), "length")

    def _ended_by(self, row: LlmRow, sampled: SampledToken) -> Stepped:
        """By a token, which is shown only where that is asked for."""
        last = row.text.push(sampled.token) if row.sampler.sampling.include_stop_str_in_output else Shown()
        tail = row.text.end()
        shown = Shown(last.text + tail.text, last.logprobs + tail.logprobs)
        return self._ended(row, shown, "stop", self._logprob(row, sampled))

    def _ended(self, row: LlmRow, shown: Shown, reason: str, stop_token: TokenLogprob | None = None) -> Stepped:
        self._lengths.saw(row.num_generated, was_cut=reason == "length")
        end = GenerationEnd(reason, row.num_generated, row.num_cached, stop_token)
        return Stepped((TokenDelta(shown.text, 1, shown.logprobs), end), done=True)

    def _logprob(self, row: LlmRow, sampled: SampledToken) -> TokenLogprob | None:
        if row.sampler.sampling.logprobs is None:
            return None
        return self._told(sampled)


def _no_numbers() -> Stepped:
    return Stepped(error=StageFailed("the language model computed values that are no numbers; check llm.dtype"))
