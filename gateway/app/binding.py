"""The listeners of a configuration, bound before anything else."""

from gateway.app.activation import PassedSockets
from gateway.config import Config
from gateway.forwarding.listener import BindError, ListenAddress, Listener


def bind_all(
    config: Config, kept: dict[ListenAddress, Listener], passed: PassedSockets
) -> dict[ListenAddress, Listener]:
    """Return a listener for every address of `config`.

    Args:
        config: The configuration.
        kept: The listeners that are bound already.
        passed: The sockets that systemd bound.

    Raises:
        BindError: One cannot be bound; those made here are closed again.
    """
    bound: dict[ListenAddress, Listener] = {}
    try:
        for spec in config.backends.values():
            for address in spec.listen:
                bound[address] = kept.get(address) or _listener(address, passed)
    except BaseException:
        for address, listener in bound.items():
            if address not in kept:
                listener.close()
        raise
    return bound


def _listener(address: ListenAddress, passed: PassedSockets) -> Listener:
    try:
        sockets = passed.duplicates(address)
    except OSError as error:
        raise BindError(f"cannot use the socket that systemd passed for {address}: {error.strerror}") from error
    return Listener(address, sockets)


def narrow(config: Config, bound: dict[ListenAddress, Listener]) -> None:
    """Set the mode of the unix sockets that `config` does not open to every process."""
    for address in bound.keys() - _open_to_all(config):
        bound[address].set_mode(open_to_all=False)


def widen(config: Config, bound: dict[ListenAddress, Listener]) -> None:
    """Set the mode of the unix sockets that every process may open, whose peers' credentials decide.

    Only for a configuration that is in force: the rules of the one before may ask for no credentials.
    """
    for address in bound.keys() & _open_to_all(config):
        bound[address].set_mode(open_to_all=True)


def _open_to_all(config: Config) -> set[ListenAddress]:
    return {each.unix for spec in config.backends.values() for each in spec.sockets if each.uid or each.gid}
