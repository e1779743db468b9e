"""The one shape of every error. Knows no error classes: `pipelines/http_errors.py` maps them."""

from pipelines.schemas.strict import ResponseBody


class ErrorDetail(ResponseBody):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseBody):
    error: ErrorDetail
