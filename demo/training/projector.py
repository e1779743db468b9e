"""Trains the projector alone: CLIP's patch tokens become soft tokens that the frozen SmolLM2 reads like words.

Decides the two phases. First the soft tokens are drawn to the embeddings of the words that the tower was taught to hold (no
language model runs). Then SmolLM2's own loss on answers trains them: one description and some questions for each image share
the image's tokens in one sequence, each seeing only the prompt's beginning, the image and itself.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.drawing import pixels
from demo.language_model import IMAGE_TOKEN, TEXT_WIDTH, cut_prompt, embed, load_model, load_tokenizer
from demo.questions import Question, description, some_question
from demo.training.clip import normalised
from demo.training.facts_code import slot_words
from demo.training.loop import Budget, Loop, Recipe
from demo.training.pale import training_facts
from demo.world import Facts, place, random_scene
from stages.vision.clip.projector import Projector, ProjectorConfig
from stages.vision.clip.tower import WEIGHTS_FILE, OpenClipTower

RECIPE = Recipe(learning_rate=1e-3, batch_size=8, weight_decay=0.0, averaging=0.99)
FURTHER_RECIPE = Recipe(learning_rate=7e-4, batch_size=8, weight_decay=0.0, averaging=0.99)
WARM_RECIPE = Recipe(learning_rate=2e-3, batch_size=256, weight_decay=0.0)
WARM_BUDGET = Budget(minutes=0.5, images=256 * 600)
_POOL = 8_000
_FRESH = 8
_QUESTIONS = 2  # beside the description


@dataclass(slots=True)
class TokenPool:
    """Scenes' facts and the tower's tokens of their images [pool, 16, width]."""

    tower: OpenClipTower
    facts: list[Facts]
    tokens: Tensor

    @torch.no_grad()
    def refresh(self, rng: random.Random, indices: list[int]) -> None:
        """Puts fresh scenes at these places."""
        scenes = [place(training_facts(rng), rng) for _ in indices]
        images = np.stack([pixels(scene) for scene in scenes])
        self.tokens[indices] = self.tower.tokens(normalised(images, self.tokens.device))
        for index, scene in zip(indices, scenes, strict=True):
            self.facts[index] = scene.facts


def fill_pool(tower: OpenClipTower, rng: random.Random, config: ProjectorConfig, device: torch.device) -> TokenPool:
    """A pool of scenes from the training side of the split."""
    nothing = random_scene(rng, held_out=False).facts
    tokens = torch.empty(_POOL, config.num_image_tokens, config.vision_width, device=device)
    pool = TokenPool(tower, [nothing] * _POOL, tokens)
    for start in range(0, _POOL, 100):
        pool.refresh(rng, list(range(start, start + 100)))
    return pool


def new_config(clip_folder: Path, tower: OpenClipTower) -> ProjectorConfig:
    """The projector's config for this tower."""
    found = tower.tokens(torch.zeros(1, 3, 64, 64))
    fingerprint = hashlib.sha256((clip_folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return ProjectorConfig(IMAGE_TOKEN, found.shape[1], found.shape[2], TEXT_WIDTH, TEXT_WIDTH, tower.layer, fingerprint)


class Reader:
    """The frozen language model's loss on answers about images."""

    def __init__(self, config: ProjectorConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self.model, self._tokenizer = load_model(device), load_tokenizer()
        self._before = cut_prompt(self._tokenizer, config, "").before
        with torch.no_grad():
            found = self.model(input_ids=torch.tensor([self._before], device=device), use_cache=True)
        self._layers = [(layer.keys, layer.values) for layer in found.past_key_values.layers]

    def word_targets(self) -> _WordTargets:
        """The embedding of a word (the sum of its pieces', where it has several)."""
        return _WordTargets(self.model, self._tokenizer)

    def losses(self, soft: Tensor, asked: list[list[Question]]) -> dict[str, Tensor]:
        """Soft tokens [images, 16, width] and each image's questions -> mean loss, and the share of answers all right."""
        rows = [self._row(soft[index], questions) for index, questions in enumerate(asked)]
        length = max(len(row.blocks) for row in rows)
        states = self._states(torch.stack([row.padded(length) for row in rows]), *self._geometry(rows, length))
        picked = [(index, *spot) for index, row in enumerate(rows) for spot in row.spots]
        which = torch.tensor([spot[:2] for spot in picked], device=self._device)
        logits = self.model.lm_head(states[which[:, 0], which[:, 1]])
        labels = torch.tensor([spot[2] for spot in picked], device=self._device)
        wrong = logits.argmax(1) != labels
        answer = torch.tensor([spot[0] * 8 + spot[3] for spot in picked], device=self._device)
        failed = len(set(answer[wrong].tolist())) / len(set(answer.tolist()))
        return {"loss": F.cross_entropy(logits, labels), "right": torch.tensor(1 - failed)}

    def _row(self, soft: Tensor, questions: list[Question]) -> _Row:
        row = _Row(soft, [0] * len(soft), list(range(len(soft))), [])
        for number, question in enumerate(questions, start=1):
            behind = cut_prompt(self._tokenizer, self._config, question.text).behind
            answer = [*self._tokenizer(question.answer, add_special_tokens=False).input_ids, self._tokenizer.eos_token_id]
            start = len(row.blocks)
            row.inputs = torch.cat([row.inputs, embed(self.model, behind + answer[:-1])])
            added = len(behind) + len(answer) - 1
            row.blocks += [number] * added
            row.positions += range(len(soft), len(soft) + added)
            first = start + len(behind) - 1
            row.spots += [(first + offset, label, number) for offset, label in enumerate(answer)]
        return row

    def _geometry(self, rows: list[_Row], length: int) -> tuple[Tensor, Tensor]:
        """Position ids [rows, length] and the additive mask [rows, 1, length, before + length]."""
        before = len(self._before)
        pad = [row.blocks + [-1] * (length - len(row.blocks)) for row in rows]
        blocks = torch.tensor(pad, device=self._device)
        seen = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
        seen &= torch.ones(length, length, dtype=torch.bool, device=self._device).tril()
        seen = torch.cat([torch.ones(len(rows), length, before, dtype=torch.bool, device=self._device), seen], dim=2)
        mask = torch.zeros(seen.shape, device=self._device).masked_fill(~seen, torch.finfo(torch.float32).min)
        positions = [row.positions + [0] * (length - len(row.positions)) for row in rows]
        return torch.tensor(positions, device=self._device) + before, mask[:, None]

    def _states(self, inputs: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(len(inputs), -1, -1, -1), values.expand(len(inputs), -1, -1, -1), index)
        found = self.model.model(
            inputs_embeds=inputs, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        states: Tensor = found.last_hidden_state
        return states


@dataclass(slots=True)
class _Row:
    """One image's sequence: the image (block 0), then a block for each question."""

    inputs: Tensor
    blocks: list[int]
    positions: list[int]
    spots: list[tuple[int, int, int]]  # where an answer token is predicted, the token, its block

    def padded(self, length: int) -> Tensor:
        return F.pad(self.inputs, (0, 0, 0, length - len(self.inputs)))


class _WordTargets(dict[str, Tensor]):
    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self._model, self._tokenizer = model, tokenizer

    def __missing__(self, word: str) -> Tensor:
        ids = self._tokenizer(" " + word, add_special_tokens=False).input_ids
        self[word] = embed(self._model, ids).sum(dim=0)
        return self[word]


def train(folder: Path, clip_folder: Path, budget: Budget, device: torch.device, *, further: bool = False) -> None:
    """Trains against the CLIP in `clip_folder` and writes the projector into `folder`; `further` starts from the one there."""
    torch.manual_seed(7 if further else 4)
    tower = OpenClipTower(clip_folder).to(device)
    config = new_config(clip_folder, tower)
    reader, projector = Reader(config, device), Projector(config).to(device)
    rng = random.Random(4_000)
    pool = fill_pool(tower, rng, config, device)
    if further:
        projector.load_state_dict(Projector.load(folder).state_dict())
    else:
        _warm_up(projector, pool, reader.word_targets(), rng)
    loop = Loop("projector", projector, FURTHER_RECIPE if further else RECIPE, budget)
    rng.seed(4_001 + loop.num_steps)

    def step(_: int) -> dict[str, Tensor]:
        pool.refresh(rng, [rng.randrange(_POOL) for _ in range(_FRESH)])
        chosen = [rng.randrange(_POOL) for _ in range(RECIPE.batch_size)]
        asked = [_asked(pool.facts[index], rng) for index in chosen]
        return reader.losses(projector(pool.tokens[chosen]), asked)

    loop.run(step)
    loop.trained()
    projector.save(folder)


def _asked(facts: Facts, rng: random.Random) -> list[Question]:
    return [description(facts), *(some_question(facts, rng) for _ in range(_QUESTIONS))]


def _warm_up(projector: Projector, pool: TokenPool, targets: _WordTargets, rng: random.Random) -> None:
    loop = Loop("words", projector, WARM_RECIPE, WARM_BUDGET)

    def step(_: int) -> dict[str, Tensor]:
        chosen = [rng.randrange(_POOL) for _ in range(WARM_RECIPE.batch_size)]
        words = [torch.stack([targets[word] for word in slot_words(pool.facts[index])]) for index in chosen]
        wanted = torch.stack(words)
        return {"loss": F.mse_loss(projector(pool.tokens[chosen]), wanted) / wanted.var()}

    loop.run(step)
