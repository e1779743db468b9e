"""The projector: turns a vision tower's patch tokens into soft tokens of a language model.

Decides the shape of the projector (two linear layers with a GELU between them, applied to every token, as in LLaVA 1.5), its
files (`config.json` and `model.safetensors` in one folder) and how an image question becomes text: the placeholder, repeated,
and the question right behind it. Knows neither tower nor language model, only their widths.

Source of the shape: Liu et al., "Improved Baselines with Visual Instruction Tuning" (2023).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """What a projector reads and writes.

    `vision_layer` says which tokens of the tower it was trained on (-1: those of the last block, before the final norm).
    `clip_fingerprint` is the SHA-256 of the tower's safetensors file; "" where it is not tied to one.
    """

    image_token: str
    num_image_tokens: int
    vision_width: int
    text_width: int
    hidden_width: int
    vision_layer: int = -1
    clip_fingerprint: str = ""

    def place_image(self, question: str) -> str:
        """The user's content for a question about one image: its placeholders, immediately followed by the question."""
        return self.image_token * self.num_image_tokens + question


class Projector(nn.Module):
    """Two linear layers with a GELU between them, from `vision_width` to `text_width`."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.linear_1 = nn.Linear(config.vision_width, config.hidden_width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(config.hidden_width, config.text_width)

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Projector:
        """Reads a projector that `save` wrote. Raises FileNotFoundError, or RuntimeError where weights and config disagree."""
        folder = Path(folder)
        config = ProjectorConfig(**json.loads((folder / CONFIG_FILE).read_text()))
        projector = cls(config)
        projector.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return projector.to(dtype).eval()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes the config and the weights, as `dtype`, into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        weights = {name: value.detach().to(dtype).contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, num_image_tokens, vision_width] -> [batch, num_image_tokens, text_width], in the weights' dtype."""
        projected: Tensor = self.linear_2(self.act(self.linear_1(tokens.to(self.linear_1.weight.dtype))))
        return projected
