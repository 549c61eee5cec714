"""Tests the command line of Compose for the project of an existing container."""

import pytest

from gateway.docker.compose_command_line import ENVIRONMENT, FILES, FOLDER, compose_command
from gateway.docker.grants import PROJECT, SERVICE

LABELS = {PROJECT: "shop", SERVICE: "web", FILES: "/srv/a.yaml,/srv/b.yaml"}


def test_the_command_has_the_options_that_the_project_was_created_with() -> None:
    labels = {**LABELS, FOLDER: "/srv/shop", ENVIRONMENT: "/srv/base.env,/srv/site.env"}
    assert compose_command(labels, cli="podman", overrides=["/srv/audit.yaml"]) == (
        "podman", "compose", "-p", "shop", "--project-directory", "/srv/shop",
        "--env-file", "/srv/base.env", "--env-file", "/srv/site.env",
        "-f", "/srv/a.yaml", "-f", "/srv/b.yaml", "-f", "/srv/audit.yaml",
    )  # fmt: skip
    assert compose_command(LABELS) == ("docker", "compose", "-p", "shop", "-f", "/srv/a.yaml", "-f", "/srv/b.yaml")


@pytest.mark.parametrize("labels", [{}, {SERVICE: "web"}, {**LABELS, FILES: "-"}, {**LABELS, FILES: ""}])
def test_there_is_no_command_without_the_labels_or_for_a_file_from_standard_input(labels: dict[str, str]) -> None:
    assert compose_command(labels) == ()
