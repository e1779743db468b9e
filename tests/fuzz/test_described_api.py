"""What /openapi.json promises, put to the test by generated requests: statuses, content types, bodies, and no 5xx.

One check is left out: that whatever the description allows is accepted. A generated address leads to no image, and fields
that go together only in certain ways ask for more than a description can say.
"""

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from tests.fuzz.effort import effort
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.surface import from_this_machine

pytestmark = pytest.mark.slow

schema = schemathesis.openapi.from_asgi("/openapi.json", from_this_machine(create_app(FakeService(), IngressSettings())))


@schema.parametrize()  # type: ignore[untyped-decorator]
@effort(20)
def test_every_answer_is_as_described(case: schemathesis.Case) -> None:
    response = case.call()
    excluded = [positive_data_acceptance] + ([not_a_server_error] if response.status_code == 504 else [])
    case.validate_response(response, excluded_checks=excluded)
