"""Plain texts to tokens and back, for whoever asks without a template: what he writes is the whole prompt, so control tokens in it are
what they say.

Decides which marks are put about a text, and what a text that is far too long is told. Knows no conversation and no images. CPU work, on
any thread.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from pipelines.jobs import PlainPrompt, ReadText, TokenizerNote
from stages.contract.errors import InvalidRequest
from stages.text.text_tokenizer import TextTokenizer

NOT_NOTED = TokenizerNote()


class PlainTexts:
    """Of one model. `max_tokens`: a text of far more is not read to its end."""

    def __init__(
        self, texts: TextTokenizer, backend: Tokenizer, max_tokens: int | None = None, note: TokenizerNote = NOT_NOTED
    ) -> None:
        self._texts, self._backend, self._max_tokens = texts, backend, max_tokens
        self.note = note

    def read(self, prompt: PlainPrompt) -> ReadText:
        """Raises `InvalidRequest`, also for no tokens at all."""
        content = prompt.content
        if not isinstance(content, str):
            self._check(content, prompt.param)
            return ReadText(content, self._decoded(content), first=self._decoded(content[:1]))
        begin, end = (self._texts.begin, self._texts.end) if prompt.has_marks else ((), ())
        ids = (*begin, *self._encoded(content, prompt.param), *end)
        return ReadText(ids, content, num_marks=len(begin), first=self._decoded(ids[:1]))

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Control tokens included. Raises `InvalidRequest`."""
        self._check(token_ids, "tokens")
        return self._decoded(token_ids)

    def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        return [self._backend.id_to_token(token) or "" for token in token_ids]

    def _encoded(self, text: str, param: str) -> Sequence[int]:
        try:
            reading = self._texts.read(text)
        except InvalidRequest as error:
            raise error.for_request(param) from error.__cause__
        if not reading.is_whole:
            raise InvalidRequest(
                f"{param} has {reading.told} tokens and the context is {self._max_tokens} (models.*.llm.max_context_tokens); "
                "shorten it",
                param=param,
            )
        return reading.ids

    def _check(self, token_ids: Sequence[int], param: str) -> None:
        size = self._backend.get_vocab_size()
        for place, token in enumerate(token_ids):
            if self._backend.id_to_token(token) is None:
                raise InvalidRequest(
                    f"{param}[{place}] is {token}, which the model's tokenizer doesn't have (it has {size} tokens)",
                    param=f"{param}[{place}]",
                )

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(token_ids), skip_special_tokens=False))
