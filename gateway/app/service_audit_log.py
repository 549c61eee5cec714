"""Owns the audit log of the service, and records starts, stops, commands and configuration changes in it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway import __version__
from gateway.app.changed_config_keys import changed_config_keys
from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.audit_log.writer import MISCONFIGURED, AuditLogWriter
from gateway.config import Config
from gateway.config.sections import AuditLogSection
from gateway.contracts.states import ConfigTrigger
from gateway.errors import ConfigError, ConfigOrigin, GatewayError
from gateway.relay.unix_sockets import PeerCredentials

_OPEN_TIMEOUT = 2.0
"""Maximum time, in seconds, to wait until the writer's thread has opened the audit log. After this time, the gateway
continues, and the thread keeps trying to open the file."""
_CLOSE_TIMEOUT = 2.0
"""Maximum time, in seconds, for closing a writer. After this time, the gateway drops the remaining events."""
_POLL = 0.005


class ServiceAuditLog:
    """The audit log of the service. Owns an `AuditLogWriter`, which writes the events in a thread.

    Args:
        instance: This gateway's name.
    """

    def __init__(self, instance: str) -> None:
        self.recorder = AuditLogRecorder()
        self._instance = instance
        self._section = AuditLogSection()
        self._writer: AuditLogWriter | None = None
        self._closing: list[AuditLogWriter] = []
        self._dropped = 0
        """Number of events that the closed writers dropped."""

    @property
    def dropped(self) -> int:
        """Number of events that were dropped since the service started."""
        return self._dropped + sum(each.dropped for each in (*self._closing, self._writer) if each is not None)

    @property
    def warnings(self) -> list[str]:
        """One message that explains why the writer cannot write events; empty if the writer works."""
        fault = self._writer.fault if self._writer else None
        return [fault] if fault else []

    async def prepare(self, section: AuditLogSection) -> AuditLogWriter | None:
        """Open a writer for the settings in `section`. If `section` has not changed, return the current writer.

        Returns:
            The writer; None if the audit log is disabled. Pass it to `switch` or `discard`.

        Raises:
            GatewayError: The file cannot be opened.
        """
        return self._writer if section == self._section else await _open(section, self._instance)

    def discard(self, writer: AuditLogWriter | None) -> None:
        """Close a writer from `prepare` instead of using it. The current writer stays open."""
        if writer is not None and writer is not self._writer:
            writer.begin_close()

    async def switch(self, section: AuditLogSection, writer: AuditLogWriter | None) -> None:
        """Replace the current writer with `writer`, and close the previous writer.

        Events that the previous writer does not write within two seconds are dropped. In this case, `writer` records
        the number of dropped events.

        Args:
            section: The configuration of `writer`.
            writer: The result of `prepare` for `section`. `ServiceAuditLog` takes ownership of the writer.
        """
        if writer is self._writer:
            return
        self.recorder.flush()
        before, self._writer, self._section = self._writer, writer, section
        self.recorder.sink = writer
        if before is not None:
            self._closing.append(before)
            try:
                await _close(before)
            finally:
                self._closing.remove(before)
                self._dropped += before.dropped
            if writer is not None and before.lost:
                self.recorder.record("dropped", count=before.lost, reason="not_written")

    async def open(self, section: AuditLogSection) -> None:
        """Start writing the audit log.

        Raises:
            GatewayError: The file cannot be opened.
        """
        await self.switch(section, await self.prepare(section))

    async def close(self) -> None:
        """Close the audit log. Drop the queued events that are not written within two seconds."""
        await self.switch(AuditLogSection(), None)

    def reopen(self) -> None:
        """Reopen the file before the next write, because the file might have been rotated."""
        if self._writer is not None:
            self._writer.reopen()

    def started(self) -> None:
        """Record the start of the service."""
        self.recorder.record("start", version=__version__, pid=os.getpid())

    def stopped(self, seconds: float) -> None:
        """Record the stop of the service.

        Args:
            seconds: Seconds since the start of the service.
        """
        self.recorder.flush()
        self.recorder.record("stop", pid=os.getpid(), seconds=round(seconds, 3), dropped=self.dropped)

    def command(self, command: str, peer: PeerCredentials | None, result: str) -> None:
        """Record an admin command or a signal.

        Args:
            command: The path of the command, or the name of the signal.
            peer: The process that sent the command; None for a signal, whose sender is not known.
            result: The result of the command.
        """
        who = peer._asdict() if peer else {"pid": None, "uid": None, "gid": None}
        self.recorder.record("admin", command=command[:MAX_TEXT], **who, result=result)

    def configured(self, old: Config, new: Config, trigger: ConfigTrigger) -> None:
        """Record a change of the configuration.

        Args:
            old: The previous configuration.
            new: The configuration that is now in effect.
            trigger: Why the configuration was loaded.
        """
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
                **changed_config_keys(old, new),
            )

    def refused(self, error: Exception, trigger: ConfigTrigger, origin: ConfigOrigin | None) -> None:
        """Record that a configuration was rejected, and where its errors are.

        Values are omitted, because they can be secret.

        Args:
            error: Why the configuration was rejected.
            trigger: Why the configuration was loaded.
            origin: The sources of the configuration; None if they are not known.
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
async def recording(config: Config) -> AsyncIterator[AuditLogRecorder]:
    """Open the audit log for one command, and yield a recorder.

    If the log is a standard stream, the recorder discards events, because the command prints its output there.

    Raises:
        GatewayError: The file cannot be opened.
    """
    auditing = ServiceAuditLog(config.gateway.instance)
    if isinstance(config.audit.log, Path):
        await auditing.open(config.audit)
    try:
        yield auditing.recorder
    finally:
        await auditing.close()


async def _open(section: AuditLogSection, instance: str) -> AuditLogWriter | None:
    """Create a writer, wait for its first attempt to open the file, and return the writer.

    Return None if the audit log is disabled.
    """
    if section.log is None:
        return None
    writer = AuditLogWriter(section.log, instance, section.queue)
    deadline = asyncio.get_running_loop().time() + _OPEN_TIMEOUT
    # Poll `writer.opened` with a deadline, because opening the file can block the writer's thread forever.
    while not writer.opened.is_set() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
    error = writer.error
    if error is not None and error.errno in MISCONFIGURED:
        writer.begin_close()
        raise GatewayError(
            f"audit.log: cannot open {section.log} ({error.strerror}): set audit.log to a writable file"
        )
    return writer


async def _close(writer: AuditLogWriter) -> None:
    """Close `writer`. Drop the events that it does not write within two seconds."""
    writer.begin_close()
    deadline = asyncio.get_running_loop().time() + _CLOSE_TIMEOUT
    while writer.alive and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - polls on purpose
        await asyncio.sleep(_POLL)
    if writer.alive:
        writer.abandon()
