from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.docker import inspection_cache
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.inspection_cache import InspectionCache


async def test_a_container_has_the_problem_of_the_last_inspection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection_cache, "RETRY", 0)
    errors = [
        EngineError(EngineErrorKind.FAILED, "no such file"),
        EngineError(EngineErrorKind.TIMEOUT, "no response"),
        TimeoutError(),
        EngineError(EngineErrorKind.FAILED, "input/output error"),
    ]

    async def get(*_: object, **__: object) -> Any:
        raise errors.pop(0)

    cache, engine = InspectionCache(), cast("Any", SimpleNamespace(flavor=DOCKER, get=get))
    cache.begin((), ())
    problems = []
    while errors:
        assert await cache.inspect(engine, "app") is None
        problems.append(cache.problem("app"))
    assert problems == ["no such file", "", "", "input/output error"]
