"""Defines the reasons why an attachment to a network does not match the desired state."""

from enum import StrEnum


class AttachmentObstacle(StrEnum):
    """Why the gateway does not attach a container or service to a network, or why an attachment is not as desired.

    The status shows this reason for attachments in the state `blocked` or `drifted`.
    """

    SHARED_NETWORK = "shared_namespace"
    HOST_NETWORK = "host_network"
    NO_NETWORK = "no_network"
    SWARM_TASK = "swarm_task"
    NOT_ATTACHABLE = "not_attachable"
    IP_EXHAUSTED = "ip_exhausted"
    ADDRESS_REFUSED = "address_refused"
    NOT_MANAGER = "not_a_manager"
    ALIAS_CONFLICT = "alias_conflict"
    NAME_CONFLICT = "name_conflict"
    UNKNOWN_NETWORK = "unknown_network"
    NOT_GRANTED = "not_granted"
    LOCAL_NETWORK = "local_network"
    SERVICES_OFF = "services_off"
    REFUSED = "refused"
