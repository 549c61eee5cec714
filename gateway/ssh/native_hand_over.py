"""Moves an SSH connection from the asyncio transport to the native engine."""

import asyncio

import asyncssh

from gateway.relay.native_engine_runner import native_engines
from gateway.ssh import flow_control
from gateway.ssh.asyncssh_internals import has_strict_kex
from gateway.ssh.asyncssh_transport import transport_of
from gateway.ssh.native_transport import NativeTransport
from gateway.ssh.ssh_connection import SshConnection

_RETRY_SECONDS = 0.005
"""Seconds between attempts to pass the connection to the native engine."""


async def hand_over(conn: SshConnection, tunnel: object = None) -> None:
    """Pass the connection to the native engine. Do nothing if the native engine does not support the ciphers.

    Args:
        conn: A connection from `log_in` that has no channels. This function replaces the transport of the
            connection. Do not use the previous transport afterward.
        tunnel: An object that identifies the tunnel. The connections of a tunnel are distributed evenly over the
            native engines. None if the connection belongs to no tunnel.

    Raises:
        asyncssh.ConnectionLost: The connection was lost.
    """
    transport = transport_of(conn)
    if transport is None or conn.cipher_keys() is None:
        return
    conn.allow_packet_size(flow_control.MAX_RECEIVE_PACKET)
    # The native engine can take over the connection only if asyncssh has sent all queued packets, has processed all
    # received packets, and performs no key exchange.
    while not transport.can_release():
        if conn.transport_closed or transport.is_closing():
            raise asyncssh.ConnectionLost("the connection was lost after the login")
        await asyncio.sleep(_RETRY_SECONDS)
    keys = conn.cipher_keys()
    if keys is None:
        return
    seal, open_ = keys
    names = {name: transport.get_extra_info(name) for name in ("sockname", "peername")}
    native_transport = NativeTransport(conn, native_engines().runner(tunnel), names, tunnel)
    sock = transport.release()
    native_transport.runner.engine.connection(
        native_transport.token,
        sock.detach(),
        (*seal, conn.send_number),
        (*open_, conn.receive_number),
        conn.max_packet_length,
        has_strict_kex(conn),
        conn.rekey_bytes,
        flow_control.CONNECTION_GROWTH_BYTES,
        flow_control.MAX_WINDOW,
        flow_control.ADJUST_BYTES,
    )
    conn.use_native_engine(native_transport)
