"""Binds the listeners of a configuration: TCP sockets, and unix sockets with their file modes."""

import errno

from gateway.app.socket_activation import PassedSockets
from gateway.config import BackendSpec, Config
from gateway.contracts.config_types import HostPort, unix_host_port
from gateway.forwarding.listener import BindError, Listener


def bind_listeners(
    config: Config, existing: dict[HostPort, Listener], passed: PassedSockets, *, free_bind: bool
) -> dict[HostPort, Listener]:
    """Bind a listener for each address of `config`.

    Args:
        config: The configuration.
        existing: The listeners that are already bound. This function reuses them; the caller still owns them.
        passed: The sockets that systemd bound.
        free_bind: Whether to bind addresses that the host does not have yet. True only at startup: on a reload, a
            wrong address must raise an error, so that the previous listeners continue.

    Returns:
        The listeners by address. The caller owns the new listeners.

    Raises:
        BindError: An address cannot be bound. The listeners that this call created are closed.
    """
    bound: dict[HostPort, Listener] = {}
    try:
        for spec in config.backends.values():
            for address in spec.listen:
                try:
                    bound[address] = existing.get(address) or _listener(address, passed, free_bind=free_bind)
                except BindError as error:
                    raise _with_place(error, spec, address, config, existing, free_bind=free_bind) from error
    except BaseException:
        for address, listener in bound.items():
            if address not in existing:
                listener.close()
        raise
    return bound


def _with_place(
    error: BindError,
    spec: BackendSpec,
    address: HostPort,
    config: Config,
    existing: dict[HostPort, Listener],
    *,
    free_bind: bool,
) -> BindError:
    """Return a copy of `error` that also names the place in the configuration file and, for some causes, a remedy."""
    key = f"backends.{spec.name}.listen"
    place = config.places.get(f"{key}[{spec.listen.index(address)}]") or config.places.get(key, "")
    own = next(
        (each for each in existing if not each.is_unix and not address.is_unix and each.port == address.port),
        None,
    )
    number, hint = getattr(error.__cause__, "errno", None), ""
    if number == errno.EADDRINUSE and own is not None:
        hint = f"; this gateway listens on {own}: remove that address in a separate reload first"
    elif number == errno.EADDRNOTAVAIL and not free_bind:
        hint = ", or restart the gateway: a restart also binds addresses that the host does not have yet"
    return BindError(": ".join(filter(None, (place, key, f"{error}{hint}"))))


def _listener(address: HostPort, passed: PassedSockets, *, free_bind: bool) -> Listener:
    try:
        sockets = passed.duplicates(address)
    except OSError as error:
        raise BindError(f"cannot use the socket that systemd passed for {address}: {error.strerror}") from error
    return Listener(address, sockets, free_bind=free_bind)


def restrict_sockets(config: Config, listeners: dict[HostPort, Listener]) -> None:
    """Permit only the owner and group of each unix socket to connect.

    Do not change the sockets that `open_sockets` opens to all users.
    """
    for address in listeners.keys() - _open_to_all(config):
        listeners[address].set_mode(open_to_all=False)


def open_sockets(config: Config, listeners: dict[HostPort, Listener]) -> None:
    """Permit all users to connect to the unix sockets on which the gateway checks each client's user or group.

    The gateway makes these checks only after `config` has been applied, so do not call this function earlier.
    """
    for address in listeners.keys() & _open_to_all(config):
        listeners[address].set_mode(open_to_all=True)


def _open_to_all(config: Config) -> set[HostPort]:
    return {
        unix_host_port(each.unix)
        for spec in config.backends.values()
        for each in spec.sockets
        if each.uid or each.gid
    }
