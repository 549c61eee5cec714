"""Opens and closes the audit log of a running gateway, and records the service's own events in it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway import __version__
from gateway.app.changed_keys import changed_keys
from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import Recorder
from gateway.audit_log.writer import MISCONFIGURED, AuditWriter
from gateway.config import Config
from gateway.config.model import AuditSection
from gateway.errors import ConfigError, GatewayError, Origin
from gateway.relay.sockets import PeerCredentials

_OPEN = 2.0
"""Seconds to wait until the writer's thread has opened the file. After that, the gateway continues meanwhile."""
_CLOSE = 2.0
_POLL = 0.005


class Auditing:
    """Owns the writer of the audit log.

    Args:
        instance: This gateway's name.
    """

    def __init__(self, instance: str) -> None:
        self.recorder = Recorder()
        self._instance = instance
        self._section = AuditSection()
        self._writer: AuditWriter | None = None
        self._closing: list[AuditWriter] = []
        self._dropped = 0
        """Number of events that the writers of earlier configurations dropped."""

    @property
    def dropped(self) -> int:
        """Number of events since the start that are missing from the log."""
        return self._dropped + sum(each.dropped for each in (*self._closing, self._writer) if each is not None)

    @property
    def trouble(self) -> list[str]:
        """The error that keeps the writer from writing events; empty: no error, or no audit log."""
        trouble = self._writer.fault if self._writer else None
        return [trouble] if trouble else []

    async def prepare(self, section: AuditSection) -> AuditWriter | None:
        """Return the writer for a section `audit`: the current writer if the section is the same, or else a new one.

        Pass the writer to `switch` or to `discard`. None: the section has no audit log.

        Raises:
            GatewayError: The file cannot be opened.
        """
        return self._writer if section == self._section else await _opened(section, self._instance)

    def discard(self, writer: AuditWriter | None) -> None:
        """Close a writer that `prepare` has returned and that is not used."""
        if writer is not None and writer is not self._writer:
            writer.begin_close()

    async def switch(self, section: AuditSection, writer: AuditWriter | None) -> None:
        """Replace the current writer with the one that `prepare` has returned, and close the previous writer."""
        if writer is self._writer:
            return
        self.recorder.flush()
        before, self._writer, self._section = self._writer, writer, section
        self.recorder.sink = writer
        if before is not None:
            self._closing.append(before)
            try:
                await _closed(before)
            finally:
                self._closing.remove(before)
                self._dropped += before.dropped

    async def open(self, section: AuditSection) -> None:
        """Open the audit log of a section `audit` when the service or a command starts.

        Raises:
            GatewayError: The file cannot be opened.
        """
        await self.switch(section, await self.prepare(section))

    async def close(self) -> None:
        """Write the queued events and close the audit log; give up after two seconds."""
        await self.switch(AuditSection(), None)

    def reopen(self) -> None:
        """Reopen the file, because another program may have rotated it."""
        if self._writer is not None:
            self._writer.reopen()

    def started(self) -> None:
        """Record that the service starts."""
        self.recorder.record("start", version=__version__, pid=os.getpid())

    def stopped(self, seconds: float) -> None:
        """Record that the service stops, `seconds` after its start."""
        self.recorder.flush()
        self.recorder.record("stop", pid=os.getpid(), seconds=round(seconds, 3), dropped=self.dropped)

    def command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """Record an admin command or a signal.

        Args:
            command: The path, or the signal's name.
            peer: The process that sent the command; None: it is not known, as for a signal.
            result: The result of the command.
        """
        who = peer._asdict() if peer else {"pid": None, "uid": None, "gid": None}
        self.recorder.record("admin", command=command[:MAX_TEXT], **who, result=result)

    def configured(self, old: Config, new: Config, trigger: str) -> None:
        """Record that the configuration `new` has replaced `old`."""
        if self.recorder.enabled:
            origin = new.origin
            self.recorder.record(
                "configuration",
                trigger=trigger,
                result="ok",
                file=origin.file,
                sha256=origin.sha256,
                environment=list(origin.environment),
                flags=list(origin.flags),
                **changed_keys(old, new),
            )

    def refused(self, error: Exception, trigger: str, origin: Origin | None) -> None:
        """Record that a configuration was refused.

        The record has the places and keys of the problems, but no values, because values may be secret.

        Args:
            error: The reason for the refusal.
            trigger: What requested the reload: `admin`, `signal` or `file`.
            origin: The sources of the configuration; None: not known.
        """
        problems = error.problems if isinstance(error, ConfigError) else []
        places = [": ".join(part for part in (each.place, each.key) if part) for each in problems]
        self.recorder.record(
            "configuration",
            trigger=trigger,
            result="error",
            file=origin.file if origin else None,
            sha256=origin.sha256 if origin else None,
            detail="the configuration has errors" if places else str(error)[:MAX_TEXT],
            problems=places,
        )


@asynccontextmanager
async def recording(config: Config) -> AsyncIterator[Recorder]:
    """Yield a recorder for one command, which appends to the audit log's file.

    If the audit log of `config` is not a file, the recorder is disabled.

    Raises:
        GatewayError: The file cannot be opened.
    """
    auditing = Auditing(config.gateway.instance)
    if isinstance(config.audit.log, Path):
        await auditing.open(config.audit)
    try:
        yield auditing.recorder
    finally:
        await auditing.close()


async def _opened(section: AuditSection, instance: str) -> AuditWriter | None:
    if section.log is None:
        return None
    writer = AuditWriter(section.log, instance, section.queue)
    deadline = asyncio.get_running_loop().time() + _OPEN
    # Opening the file in the writer's thread may block without limit. Polling is the simplest way to bound the wait.
    while not writer.opened.is_set() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
    error = writer.error
    if error is not None and error.errno in MISCONFIGURED:
        writer.begin_close()
        raise GatewayError(f"audit.log: {section.log}: {error.strerror}")
    return writer


async def _closed(writer: AuditWriter) -> None:
    """Write the queued events and close a writer; abandon it after two seconds."""
    writer.begin_close()
    deadline = asyncio.get_running_loop().time() + _CLOSE
    while writer.alive and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - as above
        await asyncio.sleep(_POLL)
    if writer.alive:
        writer.abandon()
