"""The first steps of every request: who asks, until when it matters, and what its body says.

Knows headers and settings; knows no routes and no pipelines.
"""

import math
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TypeVar

from fastapi import Request

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import DIGEST, read_json, shown
from pipelines.ingress.body.forms import Form, read_form
from pipelines.ingress.kept.kept_values import Owner
from pipelines.ingress.proxy.proxy_headers import OWN_HEADER, SHARED_HEADER
from pipelines.ingress.request.disconnect import in_time
from pipelines.ingress.request.offline import offline_of
from pipelines.ingress.request.own_models import OwnModels
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.tracing import trace_within
from pipelines.ingress.request.traffic import model_for
from pipelines.ingress.schemas.strict import WholeBody
from pipelines.ingress.tenants.meter import METERED, Meter, refused
from pipelines.jobs import ModelCard, Service
from pipelines.threads import Threads
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import InvalidRequest, NotAuthorized

B = TypeVar("B", bound=WholeBody)
T = TypeVar("T")

TIMEOUT_HEADER = SHARED_HEADER
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Opens requests."""

    service: Service
    settings: IngressSettings
    threads: Threads
    meter: Meter

    def open(self, request: Request) -> RequestContext:
        """Raises `NotAuthorized`, `InvalidRequest` for a timeout header that is not a number within the bounds, and `QuotaExceeded`."""
        caller = self.identify(request)
        context = RequestContext(id=request.state.request_id, tenant=caller.tenant, salt=caller.salt)
        if (offline := offline_of(request)) is not None:
            context.deadline = offline.deadline
        else:
            context.deadline = context.created + self._timeout_s(
                request.headers.get(TIMEOUT_HEADER, request.headers.get(OWN_HEADER))
            )
        metered = self.meter.begin(context, is_waited_for=offline is None)
        setattr(request.state, METERED, metered)  # for `RequestLog`, which ends it
        if metered.refusal is not None:
            raise refused(metered.refusal)
        return context

    def identify(self, request: Request) -> Owner:
        """Raises `NotAuthorized`."""
        offline = offline_of(request)
        caller: Owner = (
            offline.owner if offline is not None else self.settings.key_ring().identify(request.headers.get("authorization"))
        )
        request.state.tenant = caller.tenant  # for `RequestLog`, which counts
        TENANT.set(caller.tenant)
        return caller

    def asks(self, request: Request, model: str | None, context: RequestContext) -> None:
        """Notes for `RequestLog` which model is asked; but none that isn't served: a name is the client's to choose."""
        if model is None or all(card.id != model for card in self.service.models()):
            return
        request.state.model = model
        context.trace = trace_within(request.scope, model, context)

    def served(self, tenant: str) -> Service:
        """What a tenant may ask."""
        own = self.settings.models.get(tenant)
        return self.service if own is None else OwnModels(self.service, own)

    def seen(self, request: Request) -> Service:
        """What whoever asks may ask. Raises `NotAuthorized`."""
        return self.served(self.identify(request).tenant)

    def seen_by_anyone(self, request: Request) -> Service | None:
        """What whoever asks may ask; None: who that is, is not known."""
        try:
            return self.seen(request)
        except NotAuthorized:
            return None

    async def read(self, request: Request, model: type[B], context: RequestContext) -> B:
        """The checked body. Raises `InvalidRequest`, `TooLarge` and `DeadlineExceeded`."""
        body = await self._read(
            read_json(request, model, self.threads.parsing, max_bytes=self.settings.limits.body_bytes), context
        )
        return self._understood(request, body, context)

    async def read_form(
        self, request: Request, model: type[B], context: RequestContext, *, files: Mapping[str, int]
    ) -> Form[B]:
        """The checked body of a multipart form, and its files. Raises as `read` does."""
        form = await self._read(
            read_form(request, model, self.threads.parsing, files=files, max_bytes=self.settings.limits.body_bytes), context
        )
        return replace(form, body=self._understood(request, form.body, context))

    async def _read(self, reading: Awaitable[T], context: RequestContext) -> T:
        try:
            async with in_time(context):
                return await reading
        except InvalidRequest as error:
            if error.param != "model":
                raise
            raise InvalidRequest(
                f"{error.message}; models: {_listed(self.served(context.tenant).models())}", param="model"
            ) from None

    def _understood(self, request: Request, body: B, context: RequestContext) -> B:
        """With the model that is to answer. Notes what the whole request is to know of its body. Raises `InvalidRequest` for a priority
        that is not the client's to choose."""
        context.asked = _known_as(getattr(request.state, DIGEST, ""), context)
        body = self._shared(body, context)
        request.state.asked_as = body.asked_as()
        self.asks(request, getattr(body, "model", None), context)
        for name, why in body.without_effect().items():
            context.note(name, why)
        priority, offline = self._priority(body, context), offline_of(request)
        context.priority = priority if offline is None else offline.priority
        return body

    def _shared(self, body: B, context: RequestContext) -> B:
        asked = getattr(body, "model", None)
        if not asked or not body.is_run or asked not in self.settings.traffic:
            return body
        own = self.settings.models.get(context.tenant)
        if own is not None and asked not in own:
            return body  # it is refused, whoever would answer
        may_ask = own if own is not None else {card.id for card in self.service.models()}
        key = f"{context.tenant}\0{body.belongs_to() or context.id}"
        model = model_for(asked, self.settings.traffic, key, may_ask)
        if model == asked:
            return body
        context.asked_model = asked
        context.note("model", f"{model} answers: a share of the requests for {asked} goes there (traffic)")
        return body.model_copy(update={"model": model})

    def _priority(self, body: WholeBody, context: RequestContext) -> int:
        """Of a request that says none it is what its tenant may have, and its receipt tells so. Raises `InvalidRequest`."""
        priority, quota = body.asked_priority(), self.settings.quotas.get(context.tenant)
        highest = quota.highest_priority if quota is not None else None
        if priority is not None and highest is None and priority < 0 and self.settings.keys:
            raise InvalidRequest(
                f"triptych.priority {priority}: under 0 is allowed only where one tenant is served (no auth.keys), or where "
                "auth.quotas.*.highest_priority says so",
                param="triptych.priority",
            )
        if priority is not None and highest is not None and priority < highest:
            raise InvalidRequest(
                f"triptych.priority {priority}: more urgent than {highest}, which is as urgent as this tenant's requests may be "
                "(auth.quotas.*.highest_priority)",
                param="triptych.priority",
            )
        if priority is None and highest is not None and highest > 0:
            context.note(
                "triptych.priority", f"at most {highest} for this tenant, where 0 is usual (auth.quotas.*.highest_priority)"
            )
            return highest
        return priority or 0

    def _timeout_s(self, header: str | None) -> float:
        if header is None:
            return self.settings.limits.default_request_s
        seconds = float(header) if _SECONDS.fullmatch(header) else math.nan
        limit = self.settings.limits.max_request_s
        if not 0 < seconds <= limit:
            raise InvalidRequest(
                f"{TIMEOUT_HEADER} must be a number of seconds over 0 and at most {limit:g} (limits.max_request_s); "
                f"given: {shown(header)}",
                param=TIMEOUT_HEADER,
            )
        return seconds


def _known_as(digest: str, context: RequestContext) -> str:
    """Of a body, and of how long it may take: nothing that tells others what it is."""
    asked = f"{digest} {context.deadline - context.created:.3f}".encode()
    return blake2b(asked, key=context.salt.encode()[:64], digest_size=16).hexdigest() if digest else ""


def _listed(cards: Sequence[ModelCard]) -> str:
    return ", ".join(card.id for card in cards) or "none"
