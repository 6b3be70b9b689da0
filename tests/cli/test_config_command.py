"""``vecmirror config show``, and what holds for every command: help, versions, exit codes."""

from __future__ import annotations

import pytest

from tests.cli.conftest import RunCli

COMMANDS = (
    *("demo", "serve", "sync", "attach", "detach"),
    *("doctor", "status", "verify", "search", "warmup"),
)


def test_shows_where_each_value_came_from(cli: RunCli) -> None:
    done = cli("config", "show", VECMIRROR_SERVER__PORT="8999")
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("server.port")]
    assert line.split(maxsplit=2) == ["server.port", "8999", "environment VECMIRROR_SERVER__PORT"]


def test_json_has_every_setting_and_no_secret(cli: RunCli) -> None:
    done = cli("config", "show", "--json", VECMIRROR_AUTH__ADMIN_KEYS="tell-nobody")
    rows = {row["key"]: row for row in done.json["settings"]}
    assert rows["auth.admin_keys"]["origin"].startswith("environment")
    assert rows["server.port"] == {"key": "server.port", "value": 8410, "origin": "default"}
    assert "tell-nobody" not in done.out


def test_mistyped_setting_ends_with_2(cli: RunCli) -> None:
    done = cli("config", "show", "--json", VECMIRROR_SERVER__PROT="1")
    assert done.code == 2
    assert done.json["exit_code"] == 2
    assert "server.port" in done.json["error"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_the_command(cli: RunCli, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert f"{command} " in done.out
    assert "--json" in done.out


def test_help_names_the_exit_codes(cli: RunCli) -> None:
    assert "3 Postgres cannot be reached" in " ".join(cli("--help").out.split())


def test_unknown_option_ends_with_2(cli: RunCli) -> None:
    done = cli("status", "--colour")
    assert done.code == 2
    assert "--colour" in done.err


def test_version(cli: RunCli) -> None:
    done = cli("--version")
    assert done.code == 0
    assert done.out.startswith("vecmirror 0.")
