"""The seam between the diffusion stages and what differs from model family to model family.

A family is one module (`stable_diffusion.py`, ...), chosen in `families.py`. The stages know batches, rows, samplers and
events; a family knows which components its checkpoints have, what they are called with and what they return. Its facts are
read from settings files without torch; torch and the model libraries are imported when it loads something.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from stages.checkpoints.checkpoint import LoadOptions
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.messages import PromptEmbedding
from stages.diffusion.sampling.samplers import SamplerMenu, Spacing
from stages.diffusion.text.prompt_tokenizer import TokenIds

if TYPE_CHECKING:
    import torch

Condition: TypeAlias = Mapping[str, "torch.Tensor"]
"""What a model row is conditioned on, without a batch dimension, in the model's dtype."""


class PromptTokens(Protocol):
    """The tokenizers of a checkpoint. Any thread; knows no torch."""

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        """`min_positions`: as `EncodePrompt` has it. Raises `InvalidRequest` for a prompt with more tokens than the encoders
        read."""
        ...

    def positions(self, text: str) -> int:
        """Of the prompt's embedding, where nothing asks for more. Raises `InvalidRequest` as `tokenize` does."""
        ...


class PromptEncoder(Protocol):
    """The text encoders of a checkpoint."""

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        """One result per prompt, in order, as the family's `Backbone.condition` takes it."""
        ...


class Backbone(Protocol):
    """The network that predicts noise or velocity."""

    @property
    def device(self) -> "torch.device": ...

    def condition(self, prompt: PromptEmbedding, width: int, height: int) -> Condition:
        """From a prompt encoder's result to the model's inputs, still on the host. Any thread. Raises `StageFailed` for a result
        of another model's."""
        ...

    def predict(
        self, latents: "torch.Tensor", timesteps: "torch.Tensor", condition: Condition, guidance: Sequence[float]
    ) -> "torch.Tensor":
        """[rows, channels, height, width] float32 to the same. `timesteps`: [rows] float32; `condition`: stacked along rows;
        `guidance`: each row's scale, for models that take it as an input."""
        ...


class Family(Protocol):
    @property
    def name(self) -> str: ...

    def describe(self, folder: DiffusersFolder) -> PainterInfo: ...

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu: ...

    def spacing(self, folder: DiffusersFolder) -> Spacing:
        """How the noise levels are spaced for each image."""
        ...

    def load_prompt_tokens(self, folder: DiffusersFolder) -> PromptTokens: ...

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder: ...

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone: ...
