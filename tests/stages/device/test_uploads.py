"""Small things arrive as they are."""

import pytest
import torch

from stages.device.uploads import uploaded


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
@pytest.mark.parametrize("values", [[1, -2, 2**40], [[0.5, float("-inf")]], []])
def test_what_arrives_is_what_was_sent(device: str, values: list[object]) -> None:
    sent = torch.tensor(values)
    found = uploaded(sent, torch.device(device))
    assert found.device.type == device
    assert torch.equal(found.cpu(), sent)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nobody_waits_for_what_the_device_has_yet_to_do() -> None:
    sent, device = torch.arange(8), torch.device("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        uploaded(sent, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
