"""What may be said of how work is spread: routing, admission, scaling under a budget, and what a model's answers should take. All of it may
be left out.

Decides what may be said and what is meant where nothing is. What is done with it: `pipelines/routing/`, `pipelines/planning/`.
"""

from typing import Annotated

from pydantic import Field

from pipelines.settings.schema.strict import Strict

Devices = dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0)]]
"""By type: an accelerator's as Ray calls it ("L4"), "gpu" where a deployment names none, "cpu"."""


class AdmissionConfig(Strict):
    """What can't be done in time is refused at once. `quantile`: of when it is expected to end. `background_part`: of the time that they
    have, requests with a priority over 0 may count on so much only."""

    quantile: float = Field(0.99, ge=0.5, le=0.999)
    background_part: float = Field(0.5, ge=0, le=1)


class RoutingConfig(Strict):
    """`news_period_s`: how often what a replica does and holds is told to everyone who calls it, beside what goes with its replies.
    `max_candidates`: of more replicas than that a sample is looked at. `admission` null: everything is let in."""

    news_period_s: float = Field(2.0, gt=0, le=60)
    max_candidates: int = Field(16, ge=2)
    admission: AdmissionConfig | None = AdmissionConfig()


class BudgetConfig(Strict):
    """Over all pools, also while replicas start; what is left out has no bound but the deployments' max_replicas."""

    devices: Devices | None = None
    price_per_hour: float | None = Field(None, gt=0)


class ScalingConfig(Strict):
    """`prices`: of a device, an hour. `drain_s`: how soon what waits should be done. `period_s`: how often it is decided."""

    budget: BudgetConfig = BudgetConfig()
    prices: Devices = {}
    target_utilisation: float = Field(0.75, gt=0, le=1)
    drain_s: float = Field(20, gt=0)
    period_s: float = Field(2, gt=0)


class ChatSlo(Strict):
    """Seconds that an answer should take: to its first token, and for each one after that."""

    first_token_s: float | None = Field(None, gt=0)
    token_s: float | None = Field(None, gt=0)


class PaintSlo(Strict):
    """Seconds that an image should take."""

    image_s: float | None = Field(None, gt=0)


class EmbedSlo(Strict):
    """Seconds that an answer should take."""

    answer_s: float | None = Field(None, gt=0)
