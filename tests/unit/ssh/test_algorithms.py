"""Tests which SSH algorithms the gateway proposes and accepts, and on which it agrees with a server."""

from collections.abc import Sequence

import asyncssh
import pytest
from asyncssh.packet import NameList, SSHPacket, String
from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh import algorithms
from gateway.ssh.host_keys import TrustedHostKeys
from gateway.ssh.known_hosts import KnownHostEntries
from gateway.ssh.options import SshOptions

WEAK = (
    "sha1",
    "md5",
    "umac-64",
    "ssh-rsa",
    "dss",
    "group1-",
    "group-exchange",
    "-96",
    "cbc",
    "arcfour",
    "3des",
    "rsa1024",
)
PLAIN = SshOptions(host="h", user="u")


def security_key() -> asyncssh.SSHKey:
    """Return a public key of the type that OpenSSH uses for FIDO devices (PROTOCOL.u2f)."""
    inner = asyncssh.generate_private_key("ssh-ed25519").public_data[-32:]
    blob = String("sk-ssh-ed25519@openssh.com") + String(inner) + String("ssh:")
    return asyncssh.public_key.decode_ssh_public_key(blob)


KEYS = {
    **{
        kind: asyncssh.generate_private_key(kind).convert_to_public()
        for kind in ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
    },
    "sk-ssh-ed25519@openssh.com": security_key(),
}


@pytest.mark.parametrize("key", algorithms.DEFAULTS)
def test_the_defaults_contain_no_weak_algorithm(key: str) -> None:
    for name in algorithms.DEFAULTS[key]:
        assert not any(weak in name for weak in WEAK), name
    assert getattr(PLAIN, key) == algorithms.DEFAULTS[key]


def test_hybrid_key_exchanges_are_proposed_first() -> None:
    hybrid = [name.startswith(("mlkem", "sntrup")) for name in algorithms.KEX]
    assert hybrid == sorted(hybrid, reverse=True)
    assert hybrid[0]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("kex", "diffie-hellman-group1-sha1"),
        ("ciphers", "aes128-cbc"),
        ("macs", "hmac-md5"),
        ("host_key_algorithms", "ssh-rsa"),
        ("host_key_algorithms", "ssh-dss"),
    ],
)
def test_old_algorithms_can_be_configured(key: str, name: str) -> None:
    assert getattr(SshOptions(host="h", user="u", **{key: (name,)}), key) == (name,)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", algorithms.DEFAULTS)
def test_an_unknown_algorithm_is_reported_with_the_known_ones(key: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{key}: 'rot13' is not a known algorithm: use one of .*{algorithms.DEFAULTS[key][-1]}"
    ):
        SshOptions(host="h", user="u", **{key: ("rot13",)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"^{key}: this machine supports none of the listed algorithms"):
        SshOptions(host="h", user="u", **{key: ()})  # type: ignore[arg-type]


def test_an_unavailable_default_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(algorithms._SUPPORTED, "kex", lambda: [b"curve25519-sha256", b"gss-group14-sha256"])
    SshOptions(host="h", user="u")
    assert algorithms.usable("kex", algorithms.KEX) == ["curve25519-sha256"]
    with pytest.raises(
        ValueError, match=r"this machine supports none of the listed algorithms: use one of curve25519-sha256$"
    ):
        SshOptions(host="h", user="u", kex=("mlkem768x25519-sha256",))


# Tests of the host key algorithms and their order.


@pytest.mark.parametrize(
    ("algorithm", "signature", "kind", "blob"),
    [
        ("rsa-sha2-512", "rsa-sha2-512", "ssh-rsa", "ssh-rsa"),
        ("ssh-rsa", "ssh-rsa", "ssh-rsa", "ssh-rsa"),
        ("rsa-sha2-256-cert-v01@openssh.com", "rsa-sha2-256", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com"),
        ("ecdsa-sha2-nistp384",) * 2 + ("ecdsa-sha2-nistp384",) * 2,
        (
            "sk-ssh-ed25519-cert-v01@openssh.com",
            "sk-ssh-ed25519@openssh.com",
            "sk-ssh-ed25519@openssh.com",
            "sk-ssh-ed25519-cert-v01@openssh.com",
        ),
        (
            "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
            "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
            "sk-ecdsa-sha2-nistp256@openssh.com",
            "sk-ecdsa-sha2-nistp256@openssh.com",
        ),
    ],
)
def test_a_host_key_algorithm_maps_to_key_type_and_signature_algorithm(
    algorithm: str, signature: str, kind: str, blob: str
) -> None:
    assert algorithms.signature_algorithm_of(algorithm) == signature
    assert algorithms.key_type_of(algorithm) == kind
    assert algorithms.key_blob_type(algorithm) == blob


@pytest.mark.parametrize("certified", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp521"])
@pytest.mark.parametrize("sign", ["ssh-ed25519", "rsa-sha2-512", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_the_signature_algorithm_of_a_certificate_is_read(certified: str, sign: str) -> None:
    authority = asyncssh.generate_private_key(algorithms.key_type_of(sign))
    key = asyncssh.generate_private_key(certified)
    made = authority.generate_host_certificate(key, "id", principals=["a", "b"], sig_alg=sign)
    read = asyncssh.import_certificate(made.export_certificate())
    assert algorithms.ca_signature_algorithm(read) == sign


@given(
    st.sets(st.sampled_from(sorted(KEYS))),
    st.booleans(),
    st.none() | st.sampled_from(sorted(KEYS)),
    st.sets(st.sampled_from(sorted(KEYS))),
    st.permutations(algorithms.HOST_KEYS),
)
def test_trusted_key_types_are_requested_first(
    known: set[str], authority: bool, remembered: str | None, refused: set[str], allowed: Sequence[str]
) -> None:
    listed = KnownHostEntries(authorities=(KEYS["ssh-ed25519"],) if authority else ())
    order = TrustedHostKeys(keys=tuple(KEYS[kind] for kind in known), listed=listed).propose(
        allowed, remembered, refused
    )
    kinds = [algorithms.key_type_of(each) for each in order]
    assert set(order) == {each for each in allowed if algorithms.key_type_of(each) not in refused}
    if remembered in kinds:
        assert kinds[0] == remembered
        order = [each for each in order if algorithms.key_type_of(each) != remembered]

    def trusted(name: str) -> bool:
        return (authority and algorithms.is_certificate(name)) or algorithms.key_type_of(name) in known

    assert [trusted(each) for each in order] == sorted(map(trusted, order), reverse=True)
    if authority:
        certified = [algorithms.is_certificate(each) for each in order]
        assert certified == sorted(certified, reverse=True)
    # Certificate algorithms that are equally trusted keep the configured order.
    for alike in (True, False):
        same = [each for each in order if algorithms.is_certificate(each) and trusted(each) == alike]
        if authority or not known:
            assert same == [each for each in allowed if each in same]


# Tests of the algorithms on which the gateway and a server agree.


def proposal(kex: str, keys: str, ciphers: tuple[str, str], macs: tuple[str, str]) -> SSHPacket:
    lists = [kex, keys, *ciphers, *macs, "none", "none", "", ""]
    return SSHPacket(b"".join(NameList(each.encode().split(b",") if each else []) for each in lists))


OURS = {
    "kex": [b"curve25519-sha256"],
    "host_key_algorithms": [b"ssh-ed25519", b"rsa-sha2-512"],
    "ciphers": [b"aes128-gcm@openssh.com", b"aes128-ctr"],
    "macs": [b"hmac-sha2-256"],
}
GCM, CTR, CURVE = "aes128-gcm@openssh.com", "aes128-ctr", "curve25519-sha256"


def test_the_first_algorithm_of_the_client_that_the_server_offers_is_agreed() -> None:
    agreed = algorithms.negotiate(
        proposal(CURVE, "rsa-sha2-512,x,ssh-ed25519", (CTR, GCM), ("hmac-sha2-256", "")), OURS
    )
    assert agreed == ("ssh-ed25519", ["rsa-sha2-512", "x", "ssh-ed25519"])
    agreed = algorithms.negotiate(proposal(CURVE, "rsa-sha2-512", (GCM, GCM), ("", "")), OURS)
    assert agreed == ("rsa-sha2-512", ["rsa-sha2-512"])


@pytest.mark.parametrize(
    ("packet", "key", "offered"),
    [
        (proposal("old", "ssh-ed25519", (GCM, GCM), ("", "")), "kex", "old"),
        (proposal(CURVE, "ssh-rsa,ssh-dss", (GCM, GCM), ("", "")), "host_key_algorithms", "ssh-rsa, ssh-dss"),
        (proposal(CURVE, "ssh-ed25519", ("arcfour", GCM), ("", "")), "ciphers", "arcfour"),
        (proposal(CURVE, "ssh-ed25519", (GCM, ""), ("", "")), "ciphers", "none"),
        (proposal(CURVE, "ssh-ed25519", (CTR, GCM), ("hmac-md5", "")), "macs", "hmac-md5"),
        (proposal(CURVE, "ssh-ed25519", (GCM, CTR), ("", "hmac-md5")), "macs", "hmac-md5"),
    ],
)
def test_without_a_common_algorithm_the_error_names_the_key_and_both_offers(
    packet: SSHPacket, key: str, offered: str
) -> None:
    with pytest.raises(algorithms.NoCommonAlgorithmError, match=rf"the server offers {offered}; .* to {key}$"):
        algorithms.negotiate(packet, OURS)


def test_control_characters_in_offered_algorithms_are_not_printed() -> None:
    with pytest.raises(algorithms.NoCommonAlgorithmError) as caught:
        algorithms.negotiate(proposal("\x1b]0;x\x07\n" + "y" * 5000, "", ("", ""), ("", "")), OURS)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 600
