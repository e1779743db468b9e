"""The one shape of every error. Knows no error classes: `pipelines/ingress/request/errors.py` maps them."""

from pipelines.ingress.schemas.strict import ResponseBody


class ErrorDetail(ResponseBody):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseBody):
    error: ErrorDetail
