"""The SQL port in the settings: who may reach it without a key, and where it listens."""

from __future__ import annotations

import pytest

from server.auth import Scope, UnsafeExposure, api_keys, refuse_unsafe_exposure
from server.main import CannotListen, sql_listening
from server.settings import Settings


def _settings(**sections: dict[str, object]) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "db.example.org"])
def test_an_open_sql_port_that_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(UnsafeExposure, match=r"sql\.host is .*auth\.admin_keys"):
        refuse_unsafe_exposure(_settings(sql={"host": host}))
    refuse_unsafe_exposure(_settings(sql={"host": host, "enabled": False}))
    refuse_unsafe_exposure(_settings(sql={"host": host}, auth={"admin_keys": "boss"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_open_sql_port_on_loopback_is_allowed(host: str) -> None:
    refuse_unsafe_exposure(_settings(sql={"host": host}))


def test_the_sql_port_listens_where_http_does_unless_it_has_a_host() -> None:
    def host_of(**sections: dict[str, object]) -> str:
        sections["sql"] = {"port": 0, **sections.get("sql", {})}
        with sql_listening(_settings(**sections)) as listener:
            assert listener is not None
            return str(listener.getsockname()[0])

    assert host_of() == "127.0.0.1"
    assert host_of(server={"host": "127.0.0.2"}) == "127.0.0.2"
    assert host_of(server={"host": "127.0.0.2"}, sql={"host": "127.0.0.3"}) == "127.0.0.3"
    assert host_of(server={"host": "0.0.0.0", "tcp": False}) == "127.0.0.1"


def test_a_port_that_is_taken_says_what_to_set() -> None:
    with sql_listening(_settings(sql={"port": 0})) as listener:
        assert listener is not None
        taken = _settings(sql={"port": listener.getsockname()[1]})
        with pytest.raises(CannotListen, match=r"set sql\.port, or sql\.enabled"):
            sql_listening(taken).__enter__()


def test_a_port_that_is_off_opens_nothing() -> None:
    with sql_listening(_settings(sql={"enabled": False})) as listener:
        assert listener is None


def test_http_and_sql_take_the_same_keys() -> None:
    keys = api_keys(_settings(auth={"read_keys": "a,b", "admin_keys": "c"}))
    assert keys == [("a", Scope.READ), ("b", Scope.READ), ("c", Scope.ADMIN)]
