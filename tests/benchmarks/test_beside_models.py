import pytest

from benchmarks.overhead.beside_models import broken_down


def _entry(stage: str, queue_s: float, run_s: float, ended_s: float) -> dict[str, object]:
    return {"stage": f"model.{stage}", "queue_s": queue_s, "run_s": run_s, "device_s": run_s / 2, "ended_s": ended_s}


def test_parts_add_up_to_what_the_models_did_not_take() -> None:
    stages = [_entry("text_encoder", 0.001, 0.01, 0.02), _entry("denoiser", 0.0, 0.5, 0.53)]
    found = broken_down(0.56, {"total_s": 0.55, "stages": stages})
    assert found.beside_s == pytest.approx(0.05)
    assert sum(found.parts.values()) == pytest.approx(found.beside_s)
    assert found.parts == pytest.approx(
        {
            "hop to text_encoder": 0.009,
            "waiting for text_encoder": 0.001,
            "hop to denoiser": 0.01,
            "waiting for denoiser": 0.0,
            "answer": 0.02,
            "HTTP": 0.01,
        }
    )
    assert found.beside_device_s == pytest.approx(0.56 - 0.255)


def test_what_was_asked_for_at_once_counts_once_as_the_slowest() -> None:
    stages = [_entry("text_encoder", 0.0, 0.01, 0.02), _entry("text_encoder", 0.0, 0.0, 0.012)]
    found = broken_down(0.03, {"total_s": 0.025, "stages": stages})
    assert found.beside_s == pytest.approx(0.02)
    assert found.parts["hop to text_encoder"] == pytest.approx(0.01)
