import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import TunnelError
from gateway.vpn.runtime_directory import RuntimeDirectory


def test_a_directory_without_a_lock_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if str(path).endswith("lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(
        TunnelError, match="No space left on device: make the directory for temporary files"
    ) as caught:
        RuntimeDirectory("gateway-test-")
    assert not caught.value.fatal
    assert not list(tmp_path.iterdir())
