"""The seam between the diffusion stages and what differs from model family to model family.

A family is one module (`stable_diffusion.py`, ...), chosen in `families.py`. The stages know batches, rows, samplers and
events; a family knows which components its checkpoints have, what they are called with and what they return. Its facts are
read from settings files without torch; torch and the model libraries are imported when it loads something.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.result import Arrays
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.sampling.samplers import SamplerMenu, Spacing
from stages.diffusion.text.prompt_tokenizer import TokenIds

if TYPE_CHECKING:
    import torch

Condition: TypeAlias = Mapping[str, "torch.Tensor"]
"""What a model row is conditioned on, without a batch dimension, on the model's device."""


class PromptEncoder(Protocol):
    """The tokenizers and text encoders of a checkpoint."""

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        """Any thread. `min_positions`: as `EncodePrompt` has it. Raises `InvalidRequest` for a prompt with more tokens than the
        encoders read."""
        ...

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        """One result per prompt, in order: the arrays that the family's `Backbone.condition` takes."""
        ...


class Backbone(Protocol):
    """The network that predicts noise or velocity."""

    @property
    def device(self) -> "torch.device": ...

    def condition(self, embeds: Arrays, width: int, height: int) -> Condition:
        """From a prompt encoder's result to the model's inputs. Raises `StageFailed` for arrays of another model."""
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
        """How the noise levels are spaced for each picture."""
        ...

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder: ...

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone: ...
