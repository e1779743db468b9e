"""From a stage's description to the loaded stage, through the table of kinds of stage.

Decides what comes before loading, the same for every kind: which files, which dtype, and whether it can fit. What is a kind's own it
tells in the `kinds.py` of its folder. Model libraries are imported only when a stage that needs them is loaded, so that a process
that hosts a text encoder never imports open_clip.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from stages.checkpoints.checkpoint import Contents, LoadOptions, Source, fingerprint, resolve
from stages.checkpoints.memory_estimate import refuse_if_too_large, weights_need
from stages.checkpoints.part_files import PartFiles, Weights
from stages.checkpoints.safetensors_headers import stored_dtype
from stages.checkpoints.stage_kind import Part, Stage, StageKind
from stages.contract.errors import ConfigurationError
from stages.contract.limits import BatchLimits, QueueLimits
from stages.device.device_memory import free_bytes
from stages.device.dtypes import AUTO, choose_dtype
from stages.device.openmp import on_passing_thread
from stages.diffusion.kinds import KINDS as DIFFUSION
from stages.engine.health import MAX_STEP_S
from stages.llm.kinds import KINDS as LLM
from stages.vision.kinds import KINDS as VISION

MAX_LOAD_S = 3600.0

Kinds: TypeAlias = Mapping[tuple[str, str], StageKind]
"""By kind and loader."""


def table_of(*kinds: StageKind) -> Kinds:
    """Raises `ConfigurationError` for two of one kind and loader."""
    table = {(kind.name, kind.loader): kind for kind in kinds}
    if len(table) != len(kinds):
        raise ConfigurationError("two kinds of stage have the same name and loader")
    return MappingProxyType(table)


KINDS = table_of(*VISION, *LLM, *DIFFUSION)
"""A new kind of stage is a module, and one entry here."""

PROJECTOR_FILES = PartFiles(("config.json",), (Weights("", ("model.safetensors",)),))


@dataclass(frozen=True, slots=True)
class StageSpec:
    """All that a process must know to load and run one stage. `max_load_s`: what its process may take to load it. `settings`: of the
    kind's own. `deployed`: what the source held where it was deployed from (None: it isn't there, or a hub's commit says it); a process
    that finds something else refuses it."""

    name: str
    kind: str
    loader: str
    source: Source
    options: LoadOptions
    batch: BatchLimits
    queue: QueueLimits
    max_step_s: float = MAX_STEP_S
    max_load_s: float = MAX_LOAD_S
    projector: Source | None = None
    settings: object | None = None
    deployed: Contents | None = None

    def whole(self, kinds: Kinds = KINDS) -> str:
        """Hex digest of the weights and settings files that this part is loaded from, on this machine. Raises `ConfigurationError` where
        they are not what was deployed."""
        found = self._digest(part_files(self, kinds), PROJECTOR_FILES)
        return self._as_deployed(found, self.deployed.whole if self.deployed is not None else None)

    def settings_read(self, kinds: Kinds = KINDS) -> str:
        """The same of the files without the weights."""
        found = self._digest(part_files(self, kinds).without_weights(), PROJECTOR_FILES.without_weights())
        return self._as_deployed(found, self.deployed.settings if self.deployed is not None else None)

    def contents(self, kinds: Kinds = KINDS) -> Contents:
        """Both. Raises `ConfigurationError` where they are not what was deployed."""
        return Contents(self.settings_read(kinds), self.whole(kinds))

    def _digest(self, part: PartFiles, projector: PartFiles) -> str:
        own = fingerprint(self.source, part)
        return own if self.projector is None else own + fingerprint(self.projector, projector)

    def _as_deployed(self, found: str, deployed: str | None) -> str:
        if deployed is not None and found != deployed:
            raise ConfigurationError(
                f"{self.name}: {self._sources()} holds other files on this machine than where it was deployed from; put those here, "
                "or deploy again to serve these"
            )
        return found

    def _sources(self) -> str:
        return " or ".join(str(source) for source in (self.source, self.projector) if source is not None)


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """A part on its device. `dtype` is what it computes in: "float32", "bfloat16" or "float16"."""

    stage: Stage
    dtype: str


def part_files(spec: StageSpec, kinds: Kinds = KINDS) -> PartFiles:
    """Which files of the checkpoint make this part. Raises `ConfigurationError`."""
    return _kind(spec, kinds).files


def sizes_vary(specs: Iterable[StageSpec], kinds: Kinds = KINDS) -> bool:
    """Whether there are some, and each of them computes with other sizes in every step. Raises `ConfigurationError`."""
    return {_kind(spec, kinds).sizes_vary for spec in specs} == {True}


def load(spec: StageSpec, kinds: Kinds = KINDS) -> LoadedStage:
    """Loads the part's weights onto its device. Raises `ConfigurationError` where source and loader don't fit."""
    return on_passing_thread(lambda: _loaded(spec, kinds))


def memory_needs(spec: StageSpec, kinds: Kinds = KINDS) -> tuple[int, int]:
    """Bytes of its weights, and of what is taken at load for each of its rows (an LLM's slots), as its files tell. Raises
    `ConfigurationError`."""
    kind, part = _kind(spec, kinds), _part(spec, kinds)
    weights = weights_need(part.checkpoint.folder, part.files, part.options.dtype, kind.files.holds)
    slots = next((need.num_bytes for need in kind.needs(part)), 0)
    return weights.num_bytes, slots // spec.batch.max_items


def prepare(spec: StageSpec, kinds: Kinds = KINDS) -> None:
    """What loading the part will need on this machine's disk: its files, and what it makes of them there. Raises
    `ConfigurationError`."""
    kind, part = _kind(spec, kinds), _part(spec, kinds)
    if kind.unpacks is not None:
        kind.unpacks(part)


def _loaded(spec: StageSpec, kinds: Kinds) -> LoadedStage:
    kind, part = _kind(spec, kinds), _part(spec, kinds)
    weights = weights_need(part.checkpoint.folder, part.files, part.options.dtype, kind.files.holds)
    device = part.options.device
    refuse_if_too_large(spec.name, [weights, *kind.needs(part)], free_bytes(device), device)
    return LoadedStage(kind.load(part), part.options.dtype)


def _kind(spec: StageSpec, kinds: Kinds) -> StageKind:
    kind = kinds.get((spec.kind, spec.loader))
    if kind is None:
        loaders = ", ".join(loader for name, loader in kinds if name == spec.kind) or "none"
        raise ConfigurationError(f"{spec.name}: loader {spec.loader!r} cannot load a {spec.kind}; those that can: {loaders}")
    return kind


def _part(spec: StageSpec, kinds: Kinds) -> Part:
    """Fetches what is not on this machine yet."""
    kind = _kind(spec, kinds)
    checkpoint = resolve(spec.source, kind.files)
    files = checkpoint.files(kind.files)
    options = _on_device(spec.options)
    if options.dtype == AUTO:
        stored = stored_dtype(files)
        options = replace(options, dtype=choose_dtype(options.device, stored, packed=kind.packs_layers))
    options = replace(options, dtype=kind.dtype(checkpoint, options.dtype))
    projector = None if spec.projector is None else resolve(spec.projector, PROJECTOR_FILES)
    return Part(spec.name, checkpoint, files, options, projector, spec.settings)


def _on_device(options: LoadOptions) -> LoadOptions:
    """ "auto" is the GPU that the cluster gave this process, or else the CPU."""
    if options.device != AUTO:
        return options
    import torch

    return replace(options, device="cuda" if torch.cuda.is_available() else "cpu")
