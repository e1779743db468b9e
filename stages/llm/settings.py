"""What is configured of an LLM, beside its checkpoint. Imports no model library."""

from dataclasses import dataclass

from stages.contract.errors import ConfigurationError
from stages.llm.pages.naming import PAGE_TOKENS

PAGE_DTYPES = ("auto", "int8")


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """`num_slots` requests at once, each of at most `max_context_tokens` (prompt and answer); memory for all of them is
    taken at load. A step computes at most `prefill_chunk_tokens` of waiting prompts: fewer make running streams smoother,
    more make prompts cheaper. Keys and values are remembered in pages of `page_tokens` tokens, `page_dtype` "auto" as they were computed,
    "int8" in a quarter to a half of that, at some cost to the answers that begin with them. Raises `ConfigurationError`."""

    num_slots: int = 8
    max_context_tokens: int = 2048
    prefill_chunk_tokens: int = 256
    page_tokens: int = PAGE_TOKENS
    page_dtype: str = PAGE_DTYPES[0]

    def __post_init__(self) -> None:
        for name, least in (("num_slots", 1), ("max_context_tokens", 2), ("prefill_chunk_tokens", 1), ("page_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"llm.{name}: {getattr(self, name)} is not allowed; it is at least {least}")
        if self.page_dtype not in PAGE_DTYPES:
            raise ConfigurationError(f"llm.page_dtype: {self.page_dtype} is not allowed; it is {' or '.join(PAGE_DTYPES)}")
