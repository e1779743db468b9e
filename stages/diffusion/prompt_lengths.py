"""How long prompts will be once they are embedded, told without embedding them: by a checkpoint's tokenizers alone.

Prompt and negative prompt are rows of one forward pass, so both must have as many positions; whoever asks for them makes the
shorter one as long (`EncodePrompt.min_positions`). Knows no encoder, no weights and no torch.
"""

from typing import Self

from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.work import Work
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import PromptTokens
from stages.diffusion.text.prompt_tokenizer import num_tokens
from stages.diffusion.work import prompt_work


class PromptLengths:
    """For one checkpoint; thread-safe. Milliseconds of CPU work a prompt: call it off event loops."""

    def __init__(self, tokens: PromptTokens) -> None:
        self._tokens = tokens
        self._least = float(num_tokens(tokens.tokenize("")))

    def work(self, text: str, min_positions: int = 0) -> Work:
        """Of embedding it, about."""
        return Work(prompt_work(text, min_positions, self._least))

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """Reads settings and tokenizers; of a hub source, `part_files(text_encoder).without_weights()` holds them. Raises
        `ConfigurationError`."""
        folder = open_folder(checkpoint)
        return cls(family_of(folder).load_prompt_tokens(folder))

    def positions(self, text: str) -> int:
        """Of the `PromptEmbedding` that a text encoder of this checkpoint makes of it, where nothing asks for more. Raises
        `InvalidRequest` for a prompt that is too long."""
        return self._tokens.positions(text)
