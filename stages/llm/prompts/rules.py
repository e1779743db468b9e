"""What a prompt must be to be run at all. Pure arithmetic on the payload; knows no tensors, and no features of images."""

from dataclasses import dataclass

import numpy as np

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.sampling.bounds import check_bounds


@dataclass(frozen=True, slots=True)
class PromptRules:
    """`num_tokens` of the vocabulary, `max_context_tokens` of a slot."""

    num_tokens: int
    max_context_tokens: int

    def check(self, payload: Generate) -> None:
        """Raises `InvalidRequest`, naming the field."""
        self._check_length(payload)
        self._check_sampling(payload.sampling)
        end = 0
        for image in payload.images:
            self._check_image(image, end, len(payload.token_ids))
            end = image.offset + image.length
        self._check_tokens(payload)
        self._check_so_far(payload)

    def _check_length(self, payload: Generate) -> None:
        length, limit = len(payload.token_ids), self.max_context_tokens
        if length == 0:
            raise InvalidRequest("the prompt has no tokens; it needs at least 1", param="token_ids")
        if length >= limit:
            raise InvalidRequest(
                f"the prompt has {length} tokens and the context is {limit} (llm.max_context_tokens), which leaves no room "
                "for an answer; shorten it",
                param="token_ids",
            )
        if not 0 <= payload.sampling.max_tokens <= limit - length:
            raise InvalidRequest(
                f"max_tokens {payload.sampling.max_tokens} is too many; beside the prompt's {length} tokens {limit - length} fit the "
                f"context of {limit} (llm.max_context_tokens)",
                param="max_tokens",
            )

    def _check_sampling(self, sampling: Sampling) -> None:
        check_bounds(sampling)
        for token in sampling.logit_bias:
            if not 0 <= token < self.num_tokens:
                raise InvalidRequest(
                    f"logit_bias names token {token}; the vocabulary has tokens 0 to {self.num_tokens - 1}", param="logit_bias"
                )

        for token in sampling.stop_token_ids:
            if not 0 <= token < self.num_tokens:
                raise InvalidRequest(
                    f"stop_token_ids names token {token}; the vocabulary has tokens 0 to {self.num_tokens - 1}",
                    param="stop_token_ids",
                )
        if sampling.min_tokens > sampling.max_tokens > 0:
            raise InvalidRequest(
                f"min_tokens {sampling.min_tokens} is more than max_tokens, which is {sampling.max_tokens}", param="min_tokens"
            )

    def _check_image(self, image: ImageSpan, after: int, num_prompt: int) -> None:
        if image.offset < after or image.length < 1 or image.offset + image.length > num_prompt:
            raise InvalidRequest(
                f"an image stands at tokens {image.offset} to {image.offset + image.length} of a prompt of {num_prompt}, "
                f"where only {after} to {num_prompt} are free",
                param="images",
            )

    def _check_so_far(self, payload: Generate) -> None:
        so_far, length = payload.so_far.token_ids, len(payload.token_ids)
        most = payload.sampling.max_tokens or self.max_context_tokens - length
        if len(so_far) >= most > 0:
            raise InvalidRequest(
                f"so_far has {len(so_far)} tokens of an answer of at most {most}; nothing may follow", param="so_far"
            )
        outside = [token for token in so_far if not 0 <= token < self.num_tokens]
        if outside:
            raise InvalidRequest(
                f"so_far holds token {outside[0]}; the vocabulary has tokens 0 to {self.num_tokens - 1}", param="so_far"
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
                param="token_ids",
            )
