"""What a prompt must be to be run at all. Pure arithmetic on the payload; knows no tensors, and no features of pictures."""

import math
from dataclasses import dataclass

import numpy as np

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Generate, ImageSpan, Sampling

MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class PromptRules:
    """`num_tokens` of the vocabulary, `max_context_tokens` of a slot."""

    num_tokens: int
    max_context_tokens: int

    def check(self, payload: Generate) -> None:
        """Raises `InvalidRequest`, with the parameter's name in the HTTP API."""
        self._check_length(payload)
        self._check_sampling(payload.sampling)
        end = 0
        for image in payload.images:
            self._check_image(image, end, len(payload.token_ids))
            end = image.offset + image.length
        self._check_tokens(payload)

    def _check_length(self, payload: Generate) -> None:
        length, limit = len(payload.token_ids), self.max_context_tokens
        if length == 0:
            raise InvalidRequest("the prompt has no tokens; it needs at least 1", param="messages")
        if length >= limit:
            raise InvalidRequest(
                f"the prompt has {length} tokens and the context is {limit} (llm.max_context_tokens), which leaves no room "
                "for an answer; shorten the messages",
                param="messages",
            )
        if not 0 <= payload.sampling.max_tokens <= limit - length:
            raise InvalidRequest(
                f"max_tokens is {payload.sampling.max_tokens}; beside the prompt's {length} tokens {limit - length} fit the "
                f"context of {limit} (llm.max_context_tokens)",
                param="max_tokens",
            )

    def _check_sampling(self, sampling: Sampling) -> None:
        _within("temperature", sampling.temperature, 0, 2)
        if not 0 < sampling.top_p <= 1:
            raise InvalidRequest(f"top_p is {sampling.top_p}; it is more than 0 and at most 1", param="top_p")
        _within("top_logprobs", sampling.logprobs or 0, 0, MAX_TOP_LOGPROBS)
        _within("frequency_penalty", sampling.frequency_penalty, -2, 2)
        _within("presence_penalty", sampling.presence_penalty, -2, 2)
        _within("top_k", sampling.top_k, 0, math.inf)
        _within("min_p", sampling.min_p, 0, 1)
        if not sampling.repetition_penalty > 0:
            raise InvalidRequest(
                f"repetition_penalty is {sampling.repetition_penalty}; it is more than 0", param="repetition_penalty"
            )
        for token, bias in sampling.logit_bias.items():
            if not 0 <= token < self.num_tokens:
                raise InvalidRequest(
                    f"logit_bias names token {token}; the vocabulary has tokens 0 to {self.num_tokens - 1}", param="logit_bias"
                )
            _within("logit_bias", bias, -100, 100)

    def _check_image(self, image: ImageSpan, after: int, num_prompt: int) -> None:
        if image.offset < after or image.length < 1 or image.offset + image.length > num_prompt:
            raise InvalidRequest(
                f"a picture stands at tokens {image.offset} to {image.offset + image.length} of a prompt of {num_prompt}, "
                f"where only {after} to {num_prompt} are free",
                param="messages",
            )

    def _check_tokens(self, payload: Generate) -> None:
        tokens = np.asarray(payload.token_ids)
        outside = (tokens < 0) | (tokens >= self.num_tokens)
        for image in payload.images:
            outside[image.offset : image.offset + image.length] = False
        if outside.any():
            index = int(outside.argmax())
            raise InvalidRequest(
                f"token {payload.token_ids[index]} at place {index} is outside the vocabulary of {self.num_tokens}",
                param="messages",
            )


def _within(param: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidRequest(f"{param} is {value}; it is between {least:g} and {most:g}", param=param)
