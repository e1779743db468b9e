"""Trains the demo's CLIP: an open_clip vision transformer and text transformer over the demo world.

Decides the sizes of both towers, the batches (a scene beside one that differs in little) and the losses: contrastive, and two
auxiliary ones whose heads are thrown away afterwards. One asks both embeddings for the scene's facts; the other asks the patch
tokens, in parallel, for sixteen words that spell the scene (after Tschannen et al., "Image Captioners Are Scalable Vision
Learners Too", 2023), which is what makes the tokens easy to read for a language model. The vision tower can be trained on
alone, the text tower being what its embeddings are held to.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.drawing import pixels
from demo.sentences import states_background, wording
from demo.training.dense import PLACE_WIDTH, place_loss
from demo.training.facts_code import FACT_SIZES, NO_BACKGROUND, SLOT_WORDS, fact_classes, slot_classes
from demo.training.loop import Budget, Loop, Recipe
from demo.training.pale import training_facts
from demo.vocabulary import MAX_LENGTH, load_tokenizer, save_tokenizer
from demo.world import BACKGROUNDS, COLOURS, KINDS, Facts, Relation, Scene, Thing, compose, is_held_out, place
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.tower import WEIGHTS_FILE

RECIPE = Recipe(learning_rate=1e-3, batch_size=64, weight_decay=0.05, averaging=0.998)
FURTHER_RECIPE = Recipe(learning_rate=6e-4, batch_size=64, weight_decay=0.05, averaging=0.998)
EYES_RECIPE = Recipe(learning_rate=8e-4, batch_size=64, weight_decay=0.05, averaging=0.998)
_POOL_PAIRS = 20_000
_FRESH_PAIRS = 10  # pairs redrawn each step
_MEAN, _STD = 0.5, 0.25
_WIDTH = 192
_PATCH = 16
_LAYERS = 6
_PLACE_BLOCK = 2
_COMPOSED = 0.4  # share of scenes with their shapes in the middle, in the second phase


def model_config() -> dict[str, Any]:
    """The `open_clip_config.json` of the demo's CLIP."""
    vision = {"image_size": 64, "layers": _LAYERS, "width": _WIDTH, "head_width": 32, "patch_size": _PATCH}
    text = {
        "context_length": MAX_LENGTH,
        "vocab_size": 664,
        "width": 128,
        "heads": 4,
        "layers": 3,
        "hf_tokenizer_name": "demo",
    }
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [_MEAN] * 3, "std": [_STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }


class ClipWithHeads(nn.Module):
    """The CLIP and the auxiliary heads."""

    def __init__(self) -> None:
        super().__init__()
        ensure_torchvision()
        from open_clip.model import CLIP

        self.clip = CLIP(**model_config()["model_cfg"])
        self.fact_head = nn.Linear(128, sum(FACT_SIZES))
        self.word_norm = nn.LayerNorm(_WIDTH)
        self.word_head = nn.Linear(_WIDTH, len(SLOT_WORDS))
        self.place_norm = nn.LayerNorm(_WIDTH)
        self.place_head = nn.Linear(_WIDTH, PLACE_WIDTH)

    def image(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, 3, 64, 64] -> embeddings [batch, 128], word logits [batch, 16, words], places [batch, 16, PLACE_WIDTH]."""
        visual = cast(Any, self.clip.visual)
        found = visual.forward_intermediates(images, indices=[_PLACE_BLOCK, _LAYERS - 1], output_fmt="NLC")
        middle, last = found["image_intermediates"]
        return found["image_features"], self.word_head(self.word_norm(last)), self.place_head(self.place_norm(middle))

    def text(self, tokens: Tensor) -> Tensor:
        """[batch, up to 32] token ids -> embeddings [batch, 128]; `encode_text` without the padding it insists on."""
        clip, length = cast(Any, self.clip), tokens.shape[1]
        states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        states = clip.ln_final(clip.transformer(states, attn_mask=clip.attn_mask[:length, :length]))
        pooled = states[torch.arange(len(states)), tokens.argmax(dim=1)]
        return cast(Tensor, pooled @ clip.text_projection)


@dataclass(slots=True)
class _Pool:
    """Pairs of scenes that differ in little, and their images [pairs, 2, 64, 64, 3]."""

    scenes: list[tuple[Scene, Scene]]
    images: NDArray[np.uint8]
    composed: float


def near_miss(facts: Facts, rng: random.Random) -> Facts:
    """Facts that differ from these in one fact (or in which thing comes first), from the training side of the split."""
    while True:
        changed = _changed(facts, rng)
        if changed != facts and not is_held_out(changed) and len(set(changed.things)) == len(changed.things):
            return changed


def _changed(facts: Facts, rng: random.Random) -> Facts:
    things, relation = list(facts.things), facts.relation
    what = rng.randrange(5)
    if what == 0:
        return Facts(rng.choice(list(BACKGROUNDS)), facts.things, relation)
    if what == 1 and relation:
        return Facts(facts.background, (things[1], things[0]), relation)
    if what == 2 and relation:
        return Facts(facts.background, facts.things, rng.choice(list(Relation)))
    if what == 3 and relation:
        one, two = things
        return Facts(facts.background, (Thing(two.colour, one.kind), Thing(one.colour, two.kind)), relation)
    which = rng.randrange(len(things))
    old = things[which]
    new = Thing(rng.choice(list(COLOURS)), old.kind) if rng.random() < 0.5 else Thing(old.colour, rng.choice(KINDS))
    things[which] = new
    return Facts(facts.background, tuple(things), relation)


def _pair(rng: random.Random, composed: float) -> tuple[Scene, Scene]:
    facts = training_facts(rng)
    put = compose if rng.random() < composed else place
    return put(facts, rng), put(near_miss(facts, rng), rng)


def _draw_pool(rng: random.Random, composed: float) -> _Pool:
    scenes = [_pair(rng, composed) for _ in range(_POOL_PAIRS)]
    images = np.empty((_POOL_PAIRS, 2, 64, 64, 3), dtype=np.uint8)
    for index, pair in enumerate(scenes):
        images[index] = [pixels(scene) for scene in pair]
    return _Pool(scenes, images, composed)


def _refresh(pool: _Pool, rng: random.Random) -> None:
    for _ in range(_FRESH_PAIRS):
        index = rng.randrange(_POOL_PAIRS)
        pool.scenes[index] = _pair(rng, pool.composed)
        pool.images[index] = [pixels(scene) for scene in pool.scenes[index]]


def normalised(images: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """[batch, 64, 64, 3] bytes -> [batch, 3, 64, 64] as the CLIP's own preprocessing makes them."""
    tensor = torch.as_tensor(images).to(device).permute(0, 3, 1, 2).float() / 255
    return (tensor - _MEAN) / _STD


def _fact_loss(logits: Tensor, classes: Tensor) -> Tensor:
    parts = torch.split(logits.float(), list(FACT_SIZES), dim=1)
    return torch.stack([F.cross_entropy(part, classes[:, index]) for index, part in enumerate(parts)]).mean()


def _contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, confusable: Tensor) -> Tensor:
    """CLIP's symmetric loss; `confusable[i, j]` says that text i also fits image j, which is then no negative."""
    logits = scale.exp().clamp(max=100) * F.normalize(text.float(), dim=1) @ F.normalize(image.float(), dim=1).T
    logits = logits.masked_fill(confusable, -1e4)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _confusable(classes: Tensor) -> Tensor:
    """[batch, facts], background ignored where the text leaves it out -> [batch, batch], False on the diagonal."""
    same = (classes[:, None, :-1] == classes[None, :, :-1]).all(dim=2)
    silent = classes[:, None, -1] == NO_BACKGROUND
    background = classes[:, None, -1] == classes[None, :, -1]
    eye = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    return same & (background | silent | silent.T) & ~eye


def train_further(folder: Path, budget: Budget, device: torch.device) -> None:
    """Trains the vision tower of the CLIP in this folder on, and writes the CLIP back."""
    torch.manual_seed(6)
    model = ClipWithHeads().to(device)
    model.clip.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False)
    _freeze_text(model)
    _run("clip-further", model, FURTHER_RECIPE, budget, load_tokenizer(folder), device)
    export(model, folder)


def _freeze_text(model: ClipWithHeads) -> None:
    for part in (model.clip.transformer, model.clip.token_embedding, model.clip.ln_final):
        cast(nn.Module, part).requires_grad_(False)
    cast(Tensor, model.clip.positional_embedding).requires_grad_(False)
    cast(Tensor, model.clip.text_projection).requires_grad_(False)


def train(folder: Path, budgets: tuple[Budget, Budget], device: torch.device) -> None:
    """Trains both towers, then the vision tower alone; writes the CLIP into `folder`."""
    torch.manual_seed(1)
    save_tokenizer(folder)
    model = ClipWithHeads().to(device)
    model.place_head.requires_grad_(False)
    model.place_norm.requires_grad_(False)
    first = _run("clip", model, RECIPE, budgets[0], load_tokenizer(folder), device)
    model.requires_grad_(True)
    model.fact_head.requires_grad_(False)
    _freeze_text(model)
    export(model, folder)
    _run("clip-eyes", model, EYES_RECIPE, budgets[1], load_tokenizer(folder), device)
    export(model, folder)
    print(f"clip: {first.num_steps} steps, then the vision tower alone", flush=True)


def _run(name: str, model: ClipWithHeads, recipe: Recipe, budget: Budget, tokenizer: Any, device: torch.device) -> Loop:
    loop = Loop(name, model, recipe, budget)
    alone = name != "clip"
    rng = random.Random(1_000 + loop.num_steps)
    pool = _draw_pool(rng, _COMPOSED if alone else 0.0) if loop.progress < 1 else _Pool([], np.empty(0, np.uint8), 0)

    def step(_: int) -> dict[str, Tensor]:
        _refresh(pool, rng)
        chosen = rng.sample(range(_POOL_PAIRS), recipe.batch_size // 2)
        scenes = [scene for index in chosen for scene in pool.scenes[index]]
        images = normalised(pool.images[chosen].reshape(-1, 64, 64, 3), device)
        return _losses(model, tokenizer, scenes, images, rng, alone)

    loop.run(step)
    loop.trained().train()
    return loop


def _losses(
    model: ClipWithHeads, tokenizer: Any, scenes: list[Scene], images: Tensor, rng: random.Random, alone: bool
) -> dict[str, Tensor]:
    device = images.device
    texts = [wording(scene.facts, rng) if rng.random() < 0.8 else scene.facts.canonical() for scene in scenes]
    tokens = tokenizer(texts, padding="longest", max_length=MAX_LENGTH, truncation=True, return_tensors="pt").input_ids
    classes = torch.tensor([fact_classes(scene.facts) for scene in scenes], device=device)
    said = classes.clone()
    said[[index for index, text in enumerate(texts) if not states_background(text)], -1] = NO_BACKGROUND
    slots = torch.tensor([slot_classes(scene.facts) for scene in scenes], device=device)
    image, words, places = model.image(images)
    with torch.set_grad_enabled(not alone):
        text = model.text(tokens.to(device))
        text_facts = model.fact_head(text)
    word = F.cross_entropy(words.flatten(0, 1), slots.flatten())
    fact = _fact_loss(model.fact_head(image), classes) + 0.3 * _fact_loss(text_facts, said)
    contrast = _contrastive_loss(image, text, cast(Tensor, model.clip.logit_scale), _confusable(said))
    right = (words.argmax(2) == slots).all(dim=1).float().mean()
    loss = word * 2 + fact + 0.3 * contrast
    shown = {"words": word, "facts": fact, "contrast": contrast, "right": right}
    if alone:
        where = place_loss(places, scenes)
        return {"loss": loss + where, "places": where, **shown}
    return {"loss": loss, **shown}


def export(model: ClipWithHeads, folder: Path) -> None:
    """Writes the open_clip folder: config, weights as fp16, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(model_config(), indent=2) + "\n")
    kept = {name: value for name, value in model.clip.state_dict().items() if name != "attn_mask"}
    weights = {name: value.detach().cpu().half().contiguous() for name, value in kept.items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
