"""The HTTP surface: which routes there are, and what they promise in /openapi.json. What each does is in its own module.

Knows `Service` and nothing behind it: no tensors, no Ray, of stages their messages only.
"""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from cache.store import MemoryStore, Store
from pipelines.ingress.body.body_budget import BodyBudget, BoundedBodies, count_fetched
from pipelines.ingress.body.early_body import TakesBodiesAlong
from pipelines.ingress.images.image_store import ImageStore
from pipelines.ingress.images.image_url import ImageSource
from pipelines.ingress.kept.kept_values import KeptValues
from pipelines.ingress.kept.work import KeptWork
from pipelines.ingress.playground import add_playground
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.errors import json_response, routing_error_handler, triptych_error_handler
from pipelines.ingress.request.local_caller import LocalCallersOnly
from pipelines.ingress.request.metrics import CONTENT_TYPE, RequestMetrics, Surfaces
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.recent_receipts import RecentReceipts
from pipelines.ingress.request.request_log import RequestLog
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.tracing import NO_REQUEST_TRACER, RequestTracer
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.api_description import (
    EVENTS,
    POST_ERRORS,
    ApiDescription,
    asking,
    describe,
    error_answers,
    operation,
)
from pipelines.ingress.routes.batches.added import add_batches, add_files
from pipelines.ingress.routes.batches.built import batch_routes
from pipelines.ingress.routes.chat import ChatRoute
from pipelines.ingress.routes.chat_question import ChatQuestions
from pipelines.ingress.routes.embeddings import EmbeddingsRoute
from pipelines.ingress.routes.models import ModelsRoute
from pipelines.ingress.routes.painting.images import ImagesRoute
from pipelines.ingress.routes.painting.job_paths import FILES, add_image_jobs, image_jobs
from pipelines.ingress.routes.responses.added import add_responses
from pipelines.ingress.routes.responses.route import ResponsesRoute
from pipelines.ingress.routes.texts.added import add_completions, add_tokens
from pipelines.ingress.routes.texts.completions import CompletionsRoute
from pipelines.ingress.routes.texts.tokens import TokensRoute
from pipelines.ingress.routes.usage import UsageRoute
from pipelines.ingress.schemas.batches import BatchBody, FileBody
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.ingress.schemas.chats.answer import ChatCompletion
from pipelines.ingress.schemas.completions import CompletionsBody
from pipelines.ingress.schemas.embeddings import EmbeddingsAnswer, EmbeddingsBody
from pipelines.ingress.schemas.image_jobs import JobBody, JobForm
from pipelines.ingress.schemas.images import EditBody, EditJson, ImagesAnswer, ImagesBody, VariationBody
from pipelines.ingress.schemas.models import Health, ModelEntry, ModelList, Readiness
from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.responses import ResponsesBody
from pipelines.ingress.schemas.tokens import DetokenizeBody, TokenizeBody
from pipelines.ingress.schemas.usage import UsageList
from pipelines.ingress.tenants.meter import LIMIT, REMAINING, RESET, Meter
from pipelines.ingress.tenants.shared_counts import SharedCounts
from pipelines.ingress.tenants.shared_places import SharedPlaces
from pipelines.jobs import Service
from pipelines.routing.waitlist import Waitlist
from pipelines.settings.derived import body_bytes_in_flight
from pipelines.settings.schema.config import LimitsConfig
from pipelines.threads import Threads
from stages.contract.errors import TriptychError

CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["*"],  # clients' libraries have headers of their own
    "expose_headers": ["x-request-id", "retry-after", "retry-after-ms", "x-should-retry", LIMIT, REMAINING, RESET],
    "max_age": 600,
}
"""No credentials: keys are sent by whoever has them, and there are no cookies."""
DESCRIPTION = "Images and language in OpenAI's shapes. Fields of Triptych's own live under `triptych` and are optional."


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives a change of settings: counters, what clients come back for, threads, what bodies weigh, the latest receipts, what
    tenants have used, here and elsewhere, places of who was refused, and who records spans. `live`: what answers requests by the newest
    settings, whichever app that is."""

    metrics: RequestMetrics
    values: KeptValues
    jobs: KeptWork
    batches: KeptWork
    threads: Threads
    bodies: BodyBudget
    receipts: RecentReceipts
    meter: Meter
    shared: SharedCounts
    places: SharedPlaces
    live: ASGIApp | None = None
    tracer: RequestTracer = NO_REQUEST_TRACER

    @classmethod
    def new(
        cls,
        settings: IngressSettings,
        threads: Threads | None = None,
        store: Store | None = None,
        live: ASGIApp | None = None,
        surfaces: Surfaces | None = None,
        tracer: RequestTracer = NO_REQUEST_TRACER,
        waitlist: Waitlist | None = None,
    ) -> "Kept":
        """`threads` None: some of its own. `store`: of what clients come back for; None: this process's memory. `live` None: each app
        answers what was asked of it. `surfaces`: all replicas of the HTTP surface; None: this is the only one. `waitlist`: of
        who was refused here; None: nobody is."""
        threads = threads if threads is not None else Threads.new()
        values = KeptValues(MemoryStore(settings.kept.memory_bytes), threads.kept)
        values.keep_in(store)
        jobs, batches = KeptWork("imgjob", values), KeptWork("batch", values)
        metrics = RequestMetrics(surfaces)
        meter = Meter(metrics.used)
        shared = SharedCounts(meter, values, settings.server())
        places = SharedPlaces(waitlist if waitlist is not None else Waitlist(), values, settings.server())
        kept = cls(
            metrics,
            values,
            jobs,
            batches,
            threads,
            BodyBudget(0),
            RecentReceipts(),
            meter,
            shared,
            places,
            live=live,
            tracer=tracer,
        )
        kept.limit(settings.limits, is_shared=len(set(settings.keys.values())) > 1)
        return kept

    def keep_in(self, store: Store | None) -> None:
        """Where what clients come back for is from now on. What is elsewhere is not found any more. None: this process's memory."""
        self.values.keep_in(store)

    def tend(self) -> None:
        """Does what is to be done and no connection waits for, from now on. Idempotent; on the event loop."""
        self.jobs.tend()
        self.batches.tend()
        self.shared.tend()
        self.places.tend()

    async def close(self) -> None:
        """What is under way is left to other processes."""
        await self.jobs.close()
        await self.batches.close()
        await self.shared.close()
        await self.places.close()

    def limit(self, limits: LimitsConfig, *, is_shared: bool = False) -> None:
        """Judges what comes from now on by these; `is_shared`: by several tenants. On the event loop, once they are in use."""
        self.bodies.limit(body_bytes_in_flight(limits), largest=limits.body_bytes, is_shared=is_shared)


def create_app(service: Service, settings: IngressSettings, kept: Kept | None = None) -> FastAPI:
    """The whole surface over a service. Starts nothing, reads no environment, and may run on any thread. `kept`: of the app before
    it, which goes on as it is."""
    kept = kept if kept is not None else Kept.new(settings)
    threads = kept.threads
    images = ImageSource(settings.limits, settings.fetch, threads, held=count_fetched)

    app = FastAPI(
        title="Triptych",
        version=settings.fingerprint,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # ours asks for a key where there are any
        redirect_slashes=False,
    )
    app.add_exception_handler(TriptychError, triptych_error_handler)
    app.add_exception_handler(HTTPException, routing_error_handler)
    app.add_middleware(BoundedBodies, budget=kept.bodies)
    app.add_middleware(TakesBodiesAlong)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=sorted(settings.cors_origins), **CORS)
    if not settings.keys:
        app.add_middleware(LocalCallersOnly, origins=settings.cors_origins)
    app.add_middleware(
        RequestLog, metrics=kept.metrics, meter=kept.meter, tracer=kept.tracer, adds_id=settings.adds_request_id
    )
    arrival = Arrival(service, settings, threads, kept.meter)
    receipts = ReceiptPrinter(settings.sees_all, kept.receipts)
    keyed = bool(settings.keys)
    questions = ChatQuestions(service, settings, images, threads)
    _add_chat(app, ChatRoute(arrival, settings, questions, receipts, threads))
    add_responses(app, ResponsesRoute(arrival, settings, receipts, questions, threads))
    add_completions(app, CompletionsRoute(arrival, settings, receipts, threads))
    add_tokens(app, TokensRoute(arrival, settings, questions, threads))
    limits = settings.kept
    store = ImageStore(kept.values, settings.server(), keep_s=limits.image_s, tenant_bytes=limits.image_bytes)
    _add_images(app, ImagesRoute(arrival, settings, images, receipts, store, threads))
    add_image_jobs(app, image_jobs(kept.jobs, kept.values, arrival, images, receipts), keyed=keyed)
    _add_embeddings(app, EmbeddingsRoute(arrival, settings, images, receipts, threads))
    files, batches = batch_routes(kept.live or app, arrival, settings, kept.values, kept.batches, threads)
    add_files(app, files, keyed=keyed)
    add_batches(app, batches, keyed=keyed)
    _add_models(app, ModelsRoute(service), arrival, keyed=keyed)
    _add_receipts(app, receipts, arrival, keyed=keyed)
    _add_usage(app, UsageRoute(arrival, kept.shared), keyed=keyed)
    add_playground(app)
    painters = [card for card in service.models() if card.pipeline == "text_to_image"]
    ids: dict[type[BaseModel], tuple[str, ...]] = {
        ChatBody: _ids(service, "image_text"),
        CompletionsBody: _ids(service, "image_text"),
        ResponsesBody: _ids(service, "image_text"),
        TokenizeBody: _ids(service, "image_text"),
        DetokenizeBody: _ids(service, "image_text"),
        FileBody: (),
        BatchBody: (),
        ImagesBody: tuple(card.id for card in painters),
        **dict.fromkeys((EditBody, EditJson, VariationBody), tuple(card.id for card in painters if card.accepts_images)),
        **dict.fromkeys((JobForm, JobBody), tuple(card.id for card in painters)),
        EmbeddingsBody: _ids(service, "embed"),
    }
    if settings.models:  # each tenant has its own; the description is for all
        ids = dict.fromkeys(ids, ())
    description = describe(app, ids)
    _add_operations(app, kept.metrics, description, arrival, keyed=keyed)
    kept.shared.owner = kept.places.owner = settings.server()
    kept.meter.limit(settings.quotas)
    return app


def _ids(service: Service, pipeline: str) -> tuple[str, ...]:
    return tuple(card.id for card in service.models() if card.pipeline == pipeline)


def _add_chat(app: FastAPI, route: ChatRoute) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=None,
        responses={200: {"model": ChatCompletion, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(ChatBody, route.settings),
    )
    async def chat_completions(request: Request) -> Response:
        """Answers a chat, with images where the model sees them; whole, or as server-sent events."""
        return await route(request)


def _add_images(app: FastAPI, route: ImagesRoute) -> None:
    @app.post(
        "/v1/images/generations",
        response_model=None,
        responses={200: {"model": ImagesAnswer, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(ImagesBody, route.settings),
    )
    async def images_generations(request: Request) -> Response:
        """Paints images from a sentence; whole, or as server-sent events with previews."""
        return await route.generate(request)

    @app.post(
        "/v1/images/edits",
        response_model=None,
        responses={200: {"model": ImagesAnswer, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(EditJson, route.settings, form=EditBody),
    )
    async def images_edits(request: Request) -> Response:
        """Paints over an image as a sentence says; whole, or as server-sent events with previews."""
        return await route.edit(request)

    @app.post(
        "/v1/images/variations",
        response_model=None,
        responses={200: {"model": ImagesAnswer, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(None, route.settings, form=VariationBody),
    )
    async def images_variations(request: Request) -> Response:
        """Paints an image again, otherwise: an edit that no sentence steers."""
        return await route.vary(request)

    @app.get(
        "/v1/images/files/{key}",
        response_class=Response,
        responses={200: {"content": FILES}, **error_answers(403, 404, 503)},
        openapi_extra=operation(),
    )
    async def images_files(key: str) -> Response:
        """An image made with `response_format: "url"`. Its address is its key: it cannot be guessed, and is good for a
        while."""
        image = await route.store.get(key)
        if image is None:
            raise HTTPException(404)
        headers = {"cache-control": "private, max-age=60", "content-security-policy": "default-src 'none'"}
        return WholeAnswer([image.data], media_type=image.media_type, headers=headers)


def _add_embeddings(app: FastAPI, route: EmbeddingsRoute) -> None:
    @app.post(
        "/v1/embeddings",
        response_model=None,
        responses={200: {"model": EmbeddingsAnswer}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(EmbeddingsBody, route.settings),
    )
    async def embeddings(request: Request) -> Response:
        """Puts texts and images into one space."""
        return await route(request)


def _add_models(app: FastAPI, route: ModelsRoute, arrival: Arrival, *, keyed: bool) -> None:
    @app.get(
        "/v1/models",
        response_model=None,
        responses={200: {"model": ModelList}, **error_answers(401, 403)},
        openapi_extra=operation(keyed=keyed),
    )
    async def models(request: Request) -> Response:
        """What can be asked, and the stages behind each model."""
        return json_response((await route.listed(arrival.seen(request))).to_json())

    @app.get(
        "/v1/models/{model:path}",
        response_model=None,
        responses={200: {"model": ModelEntry}, **error_answers(401, 403, 404)},
        openapi_extra=operation(keyed=keyed),
    )
    async def model(request: Request, model: str) -> Response:
        return json_response((await route.one(model, arrival.seen(request))).to_json())

    @app.get(
        "/health", response_model=None, responses={200: {"model": Health}, **error_answers(403)}, openapi_extra=operation()
    )
    async def health() -> Response:
        """Whether this process answers."""
        return json_response(Health(status="ok").to_json())

    @app.get(
        "/ready",
        response_model=None,
        responses={
            200: {"model": Readiness},
            503: {"model": Readiness, "description": "a stage has no live replica"},
            **error_answers(403),
        },
        openapi_extra=operation(),
    )
    async def ready(request: Request) -> Response:
        """Whether every stage that a model needs has a live replica. Which have none is told where no key is needed, and with a key."""
        readiness = await route.readiness(arrival.seen_by_anyone(request))
        return json_response(readiness.to_json(), status=200 if readiness.ready else 503)


def _add_receipts(app: FastAPI, receipts: ReceiptPrinter, arrival: Arrival, *, keyed: bool) -> None:
    @app.get(
        "/v1/receipts/{request_id}",
        response_model=None,
        responses={200: {"model": Receipt}, **error_answers(401, 403, 404)},
        openapi_extra=operation(keyed=keyed),
    )
    async def receipt(request: Request, request_id: str) -> Response:
        """The receipt of one of the latest requests that this process answered: what ran where, and why there."""
        found = receipts.again(request_id, arrival.identify(request).tenant)
        if found is None:
            raise HTTPException(404)
        return json_response(found.to_json())


def _add_usage(app: FastAPI, route: UsageRoute, *, keyed: bool) -> None:
    @app.get(
        "/v1/usage",
        response_model=None,
        responses={200: {"model": UsageList}, **error_answers(400, 401, 403, 503)},
        openapi_extra=operation(keyed=keyed),
    )
    async def usage(request: Request, days: str = "1") -> Response:
        """What a tenant has used, by the day (UTC), today first, of the last 1 to 90 days; operators see all tenants."""
        return await route(request, days)


def _add_operations(
    app: FastAPI, metrics: RequestMetrics, description: ApiDescription, arrival: Arrival, *, keyed: bool
) -> None:
    writing = arrival.threads.answers

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        arrival.identify(request)
        return WholeAnswer([await writing.run(description.to_json)])

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **error_answers(401, 403)},
        openapi_extra=operation(keyed=keyed),
    )
    async def prometheus(request: Request) -> Response:
        """Prometheus text: requests by route, and every stage's counters; where several tenants are served, the tenant's own requests,
        and all only for operators."""
        tenant = arrival.identify(request).tenant
        whole = arrival.settings.sees_all(tenant)
        page = await metrics.page(arrival.service, writing) if whole else metrics.own_page(tenant)
        return WholeAnswer([page], media_type=CONTENT_TYPE)
