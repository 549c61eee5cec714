"""Warns about existing networks that differ from the configuration. An engine cannot change an existing network."""

import ipaddress
from collections.abc import Iterator

from gateway.docker.options import NetworkOptions
from gateway.docker.planning.gateway_container_egress import NOT_INTERNAL, is_only_egress_network
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import ENCRYPTED, MTU, NetworkInfo


def differing(builder: PlanBuilder, options: NetworkOptions, there: NetworkInfo) -> Iterator[str]:
    """Yield a warning for each difference between an existing network and its configured options.

    Each warning contains two remedies: keep the network, or replace it.
    """
    ours, command = builder.is_ours(there.labels), builder.observed.flavor.command
    for differs, keep in _differences(builder, options, there, ours=ours):
        if ours:
            builder.outdated.add(there.name)
            alone = keep == NOT_INTERNAL and is_only_egress_network(builder, there.name)
            first = "attach the gateway's container to another network that is not internal, then " if alone else ""
            yield (
                f"network {there.name}: {differs}: set {keep} to keep it; to replace it, {first}give this network "
                "another name in docker.networks (the gateway then creates the new network, moves containers to it "
                "and removes the old one), or disconnect every container, the gateway's container last, and run "
                f"{command} network rm {there.name}"
            )
        else:
            yield (
                f"network {there.name} was not created by this gateway, and {differs}: set {keep} to accept this, or "
                "recreate the network with other options"
            )


def _differences(
    builder: PlanBuilder, options: NetworkOptions, there: NetworkInfo, *, ours: bool
) -> Iterator[tuple[str, str]]:
    """Yield each difference between a network and its options: a message, and the setting that matches the network.

    If another program created the network (`ours` is False), ignore properties that are not configured.
    """
    driver = builder.driver(options)
    if there.driver != driver and (ours or options.driver != "auto"):
        yield f"its driver is {there.driver} instead of {driver}", f"driver: {there.driver}"
    if options.internal and not there.internal:
        route = "" if builder.observed.gateway_priority else ", and it can become their default route"
        yield f"it is not internal: containers reach external networks through it{route}", NOT_INTERNAL
    if ours and there.internal and not options.internal:
        yield "it is internal: containers reach no external networks through it", "internal: true"
    encrypted = ENCRYPTED in there.options
    if options.encrypted and there.driver == "overlay" and not encrypted:
        yield "it is not encrypted between nodes", "encrypted: false"
    if ours and encrypted and not options.encrypted:
        yield "it is encrypted between nodes", "encrypted: true"
    if ours and there.driver == "overlay" and options.attachable and not there.attachable:
        yield "it is not attachable: only services can join it", "attachable: false"
    if options.subnet is not None and there.subnets and not any(_within(each, options) for each in there.subnets):
        yield (
            f"its subnet is {', '.join(there.subnets)} instead of {options.subnet}",
            f"subnet: {there.subnets[0]}",
        )
    if options.ip_range is not None and str(options.ip_range) not in there.ip_ranges:
        given = ", ".join(there.ip_ranges)
        yield (
            f"its IP range is {given or 'the whole subnet'} instead of {options.ip_range}",
            f"ip_range: {given}" if given else "no ip_range",
        )
    if options.mtu is not None and there.options.get(MTU) != str(options.mtu):
        mtu = there.options.get(MTU)
        yield (
            f"its MTU is {mtu or 'the default of its driver'} instead of {options.mtu}",
            f"mtu: {mtu}" if mtu else "no mtu",
        )


def _within(subnet: str, options: NetworkOptions) -> bool:
    """Return whether a subnet equals the configured subnet or, with `per: project`, lies within it."""
    configured, found = options.subnet, ipaddress.ip_network(subnet, strict=False)
    if configured is None or options.per is None or configured.version != found.version:
        return configured == found
    return int(configured[0]) <= int(found[0]) and int(found[-1]) <= int(configured[-1])
