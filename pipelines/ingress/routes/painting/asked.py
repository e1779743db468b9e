"""What is asked of a painter, whichever route and form it came by: from bodies and files to a `PaintJob`, and how its images are to be
handed over. Knows no HTTP but the request's fields, and no stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import is_json
from pipelines.ingress.images.image_url import GivenFile, ImageSource, WantedImage
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.limits import check_count, check_length, check_value
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.painting.image_answers import ImageOutput
from pipelines.ingress.schemas.images import (
    EditBody,
    EditExtras,
    EditJson,
    EventTypes,
    GivenAddress,
    PaintBody,
    PaintExtras,
    TrunkExtras,
    VariationBody,
)
from pipelines.jobs import GivenImage, ModelCard, PaintJob, Service, Trunk
from stages.contract.errors import InvalidRequest

V = TypeVar("V")

MAX_FILES = 16
"""Of one field of a form: as OpenAI takes them."""
MAX_EDITED = 1
"""Images that a model makes one of: none of those that are served takes more."""


@dataclass(frozen=True, slots=True)
class Given:
    """What an edit is given, in any form; at least one image."""

    images: Sequence[GivenFile | WantedImage]
    mask: GivenFile | WantedImage | None = None

    @property
    def param(self) -> str:
        """What the images are called together."""
        return self.images[0].param.partition("[")[0]


async def asked_edit(arrival: Arrival, request: Request, context: RequestContext) -> tuple[EditBody, Given]:
    """Of a form, or of JSON. Raises `InvalidRequest`, `TooLarge`, `DeadlineExceeded`."""
    if is_json(request):
        asked = await arrival.read(request, EditJson, context)
        return asked, addresses(asked.images, asked.mask)
    form = await arrival.read_form(request, EditBody, context, files={"image": MAX_FILES, "mask": 1})
    return form.body, files_of(form.files)


async def asked_variation(arrival: Arrival, request: Request, context: RequestContext) -> tuple[VariationBody, Given]:
    """Of a form. Raises as `asked_edit` does."""
    form = await arrival.read_form(request, VariationBody, context, files={"image": MAX_FILES})
    return form.body, files_of(form.files)


def addresses(images: Sequence[GivenAddress], mask: GivenAddress | None) -> Given:
    wanted = [WantedImage(one.image_url, f"images[{at}].image_url") for at, one in enumerate(images)]
    return Given(wanted, WantedImage(mask.image_url, "mask.image_url") if mask is not None else None)


def files_of(files: Mapping[str, Sequence[bytes]]) -> Given:
    """Raises `InvalidRequest` where there is no image."""
    images, masks = ([GivenFile(data, name) for data in files.get(name, ())] for name in ("image", "mask"))
    if not images:
        raise InvalidRequest("image is required", param="image")
    return Given(images, masks[0] if masks else None)


async def given_image(body: EditBody, given: Given, images: ImageSource, settings: IngressSettings) -> GivenImage:
    """Raises `InvalidRequest` for what is no image within the limits, and for several."""
    check_count(len(given.images), settings.limits, "images_per_request", param=given.param, holds="images")
    if len(given.images) > MAX_EDITED:
        raise InvalidRequest(
            f"{given.param}: {len(given.images)} images are given; every model here edits {MAX_EDITED} at a time",
            param=given.param,
        )
    strength = _one_of(body.strength, (body.triptych or EditExtras()).strength, "strength")
    image, *masks = await images.load([one for one in (given.images[0], given.mask) if one is not None])
    return GivenImage(image, strength, masks[0] if masks else None)


def painter_of(body: PaintBody, served: Service, *, edits: bool) -> str:
    """The model that was asked for, or the one that there is. Raises `InvalidRequest` where several would do, or none."""
    return body.model or _only_painter(served.models(), edits=edits)


def _only_painter(cards: Sequence[ModelCard], *, edits: bool) -> str:
    able = [card.id for card in cards if card.pipeline == "text_to_image" and (card.accepts_images or not edits)]
    if len(able) != 1:
        raise InvalidRequest(
            f"model is required; models that {'edit' if edits else 'paint'}: {', '.join(able) or 'none'}", param="model"
        )
    return able[0]


def paint_job(body: PaintBody, settings: IngressSettings, init: GivenImage | None) -> PaintJob:
    """Raises `InvalidRequest`."""
    n = body.n or 1
    check_value(n, settings.limits, "max_images", param="n")
    extras = body.triptych or PaintExtras()
    if body.says_what and not body.prompt.strip():
        raise InvalidRequest("prompt is blank; say what is to be painted", param="prompt")
    negative_prompt = _one_of(body.negative_prompt, extras.negative_prompt, "negative_prompt")
    check_length(len(body.prompt), settings.limits, param="prompt")
    check_length(len(negative_prompt or ""), settings.limits, param="negative_prompt")
    width, height = _size(body.size)
    return PaintJob(
        prompt=body.prompt,
        n=n,
        width=width,
        height=height,
        negative_prompt=negative_prompt,
        steps=_one_of(body.num_inference_steps, extras.num_inference_steps, "num_inference_steps"),
        guidance_scale=_one_of(body.guidance_scale, extras.guidance_scale, "guidance_scale"),
        seed=_one_of(body.seed, extras.seed, "seed"),
        sampler=_one_of(body.scheduler, extras.scheduler, "scheduler"),
        partial_images=body.partial_images or 0,
        init=init,
        trunk=_trunk(extras.trunk, settings),
    )


def _trunk(given: TrunkExtras | None, settings: IngressSettings) -> Trunk | None:
    """Raises `InvalidRequest`."""
    if given is None:
        return None
    if not given.prompt.strip():
        raise InvalidRequest(
            "triptych.trunk.prompt is blank; say what is to be painted at first", param="triptych.trunk.prompt"
        )
    check_length(len(given.prompt), settings.limits, param="triptych.trunk.prompt")
    return Trunk(given.prompt, given.part)


def image_output(body: PaintBody, events: EventTypes) -> ImageOutput:
    """How the images are to be handed over. Raises `InvalidRequest` for settings that would have no effect."""
    format = body.output_format or "png"
    if body.output_compression is not None and format == "png" and body.output_compression != 100:
        raise InvalidRequest(
            f"output_compression {body.output_compression} needs output_format jpeg or webp (given: png)",
            param="output_compression",
        )
    if not body.stream:
        for name, value in (
            ("partial_images", body.partial_images),
            ("triptych.progress", body.triptych and body.triptych.progress),
        ):
            if value:
                raise InvalidRequest(f"{name} is allowed only with stream: true", param=name)
    elif body.response_format == "url":
        raise InvalidRequest(
            'response_format "url" is not allowed with stream: true; events carry b64_json', param="response_format"
        )
    return ImageOutput(
        format,
        quality=max(1, body.output_compression or 0) if body.output_compression is not None else 90,
        as_url=body.response_format == "url",
        events=events,
    )


def _one_of(top: V | None, own: V | None, name: str) -> V | None:
    if top is not None and own is not None:
        raise InvalidRequest(f"{name} and triptych.{name} mean the same; give one", param=f"triptych.{name}")
    return own if top is None else top


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None or text == "auto":
        return None, None
    width, _, height = text.partition("x")
    return int(width), int(height)
