"""pyloop.opentelemetry against the real API and SDK."""

import asyncio
import gc
import time
import weakref

import pytest
from support import connected, run_script, spin

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is missing")
pytestmark = pytest.mark.usefixtures("pyloop_only")


@pytest.fixture
def collected():
    """(provider, function: {name: [(attributes, value)]})."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def collect():
        data = reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "pyloop"
                for metric in scope.metrics:
                    found[metric.name] = [
                        (
                            dict(point.attributes),
                            getattr(point, "value", None)
                            if hasattr(point, "value")
                            else (point.count, point.sum),
                        )
                        for point in metric.data.data_points
                    ]
        return found

    yield provider, collect
    provider.shutdown()


def instrument(loop, provider, **options):
    from pyloop.opentelemetry import instrument

    return instrument(loop, meter_provider=provider, **options)


def slow():
    time.sleep(0.02)


def test_metrics(loop, collected):
    provider, collect = collected
    stop = instrument(loop, provider, attributes={"loop": "main"})
    loop.call_later(1000, int)
    loop.call_soon(int)
    spin(loop)
    found = collect()
    stats = loop.stats()
    for name, points in found.items():
        ((attributes, value),) = points
        assert attributes == {"loop": "main"}
        assert value == getattr(stats, name.removeprefix("pyloop."))
    assert found["pyloop.timers"] == [({"loop": "main"}, 1)]
    assert found["pyloop.turns"] == [({"loop": "main"}, 1)]
    assert len(found) == 14
    stop()
    assert not any(collect().values())


async def test_transports(collected):
    provider, collect = collected
    stop = instrument(asyncio.get_running_loop(), provider)
    async with connected():
        assert collect()["pyloop.transports"] == [({}, 2)]
        assert collect()["pyloop.listeners"] == [({}, 1)]
    assert collect()["pyloop.transports"] == [({}, 0)]
    stop()


def test_slow_callbacks(loop, collected):
    provider, collect = collected
    stop = instrument(loop, provider, slow_threshold=0.01)

    async def work():
        slow()

    loop.call_soon(slow)
    loop.call_soon(int)
    loop.run_until_complete(work())
    points = collect()["pyloop.slow_callback.duration"]
    kinds = {point[0]["pyloop.kind"]: point[1] for point in points}
    assert sorted(kinds) == ["Handle", "Task"]
    for count, total in kinds.values():
        assert count == 1 and total >= 0.02
    stop()
    assert loop.get_slow_callback_hook() is None


def test_beside_another_hook(loop, collected):
    """Each with its own threshold; afterwards the first is as it was."""
    provider, collect = collected
    calls = []
    hook = lambda subject, duration: calls.append(duration)  # noqa: E731
    loop.set_slow_callback_hook(0.01, hook)
    stop = instrument(loop, provider, slow_threshold=10)
    loop.call_soon(slow)
    spin(loop)
    assert len(calls) == 1
    assert "pyloop.slow_callback.duration" not in collect()
    stop()
    assert loop.get_slow_callback_hook() == (0.01, hook)


def test_loop_that_is_gone(loop_factory, collected):
    provider, collect = collected
    loop = loop_factory()
    stop = instrument(loop, provider, slow_threshold=None)
    assert collect()
    loop.close()
    assert not any(collect().values())
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None
    assert not any(collect().values())
    stop()


def test_without_the_packages(loop_name):
    """The error says what to install."""
    done = run_script(
        loop_name,
        """
        sys.modules["opentelemetry"] = None
        try:
            import pyloop.opentelemetry
        except ImportError as exc:
            say(exc)
        """,
    )
    assert done.stdout == (
        "pyloop.opentelemetry needs the OpenTelemetry API: "
        "pip install 'pyloop[opentelemetry]'\n"
    )
