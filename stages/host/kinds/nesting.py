"""Which stages are sent recipes of which others' results, and therefore wait for them. Pure; knows kinds of stage by their name.

A deployment that waits for another must not, even through a third, be waited for by it: each would hold the places that the other
needs. What lives in one deployment is resolved in its process and holds no place.
"""

from collections.abc import Collection, Mapping

NEEDS: Mapping[str, tuple[str, ...]] = {
    "llm": ("vision_encoder",),  # stages/llm/messages.py, Generate
    "denoiser": ("text_encoder", "vae_encoder"),  # stages/diffusion/messages.py, Denoise
}
"""By kind, whose results its payload may hold recipes of. One-shot kinds never need an iterative one's."""


def needed_by(stage: str, stages: Collection[str]) -> tuple[str, ...]:
    """Of `stages` (MODEL.PART), those of the same model that `stage` may wait for."""
    model, _, part = stage.rpartition(".")
    return tuple(name for kind in NEEDS.get(part, ()) if (name := f"{model}.{kind}") in stages)


def cycle(deployments: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """`deployments`: by name, the stages (MODEL.PART) that live there; a stage may live in several, any of which may be asked. Names
    around a cycle of waiting, the first one again at the end; () where there is none."""
    waits_for = {name: _others(name, deployments) for name in deployments}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name) :], name)
        if name in done:
            return ()
        for other in waits_for[name]:
            if found := walk(other, (*path, name)):
                return found
        done.add(name)
        return ()

    return next((found for name in deployments if (found := walk(name, ()))), ())


def _others(name: str, deployments: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    own, everywhere = deployments[name], {stage for stages in deployments.values() for stage in stages}
    needed = [need for stage in own for need in needed_by(stage, everywhere) if need not in own]
    return tuple(dict.fromkeys(other for need in needed for other, stages in deployments.items() if need in stages))
