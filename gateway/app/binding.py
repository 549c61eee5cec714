"""The listeners of a configuration, bound before anything else."""

from gateway.config import Config
from gateway.forwarding.listener import Address, Listener


def bind_all(config: Config, kept: dict[Address, Listener]) -> dict[Address, Listener]:
    """A listener for every address of `config`, taking from `kept` what is bound already.

    Raises:
        BindError: One cannot be bound; those made here are closed again.
    """
    bound: dict[Address, Listener] = {}
    try:
        for spec in config.backends.values():
            open_to_all = {each.unix for each in spec.sockets if each.uid or each.gid}
            for address in spec.listen:
                bound[address] = kept.get(address) or Listener(address)
                bound[address].set_mode(open_to_all=address in open_to_all)
    except BaseException:
        for address, listener in bound.items():
            if address not in kept:
                listener.close()
        raise
    return bound
