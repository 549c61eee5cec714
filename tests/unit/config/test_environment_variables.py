import pytest

from gateway.config.environment_variables import (
    OTHER_VARIABLES,
    setting_names,
    unknown_variables,
    url_variables,
    variable_of,
)


def test_every_variable_that_something_reads_is_known() -> None:
    settings = {variable_of(name) for name in setting_names()}
    environment = dict.fromkeys([*settings, *OTHER_VARIABLES, "GATEWAY_TUNNEL_A", "GATEWAY_BACKEND_B"], "x")
    assert list(unknown_variables(environment, ())) == []
    assert list(unknown_variables({"GATEWAY_DB_HOST": "x", "OTHER": "y"}, {"GATEWAY_DB_HOST"})) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GATEWAY_BACKENDS_MY_DB", "unknown variable; did you mean GATEWAY_BACKEND_MY_DB?"),
        ("GATEWAY_TUNEL_X", "unknown variable; did you mean GATEWAY_TUNNEL_X?"),
        ("GATEWAY_TUNNEL_", "unknown variable: add the name of the tunnel, as in GATEWAY_TUNNEL_NAME"),
        ("GATEWAY_LOG_LEVL", "unknown variable; did you mean GATEWAY_LOG_LEVEL?"),
    ],
)
def test_a_misspelled_variable_has_a_suggestion(name: str, message: str) -> None:
    (problem,) = unknown_variables({name: "x"}, ())
    assert (problem.place, problem.message) == (name, message)


def test_variables_of_a_kubernetes_service_are_ignored_only_with_its_host() -> None:
    service = {"GATEWAY_TUNNEL_DB_SERVICE_HOST": "10.0.0.1", "GATEWAY_TUNNEL_DB_PORT": "tcp://10.0.0.1:1"}
    assert (list(unknown_variables(service, ())), url_variables(service, "tunnel")) == ([], [])
    assert url_variables({"GATEWAY_TUNNEL_DB_PORT": "ssh://u@h"}, "tunnel") == ["GATEWAY_TUNNEL_DB_PORT"]
