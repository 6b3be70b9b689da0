"""Settings: precedence, origins, secrets, and what is said about a setting that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.settings import MASK, SettingsError, load_settings, setting_keys

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("server.settings.CONFIG_PATHS", (Path("vecmirror.toml"),))


def _origin(key: str) -> str:
    return next(row.origin for row in load_settings().rows() if row.key == key)


def test_flags_win_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().settings.server.port == 8410
    assert _origin("server.port") == "default"
    (tmp_path / "vecmirror.toml").write_text("[server]\nport = 1\nmax_k = 5\n")
    assert load_settings().settings.server.port == 1
    assert _origin("server.port") == "file vecmirror.toml"
    monkeypatch.setenv("VECMIRROR_SERVER__PORT", "2")
    assert load_settings().settings.server.port == 2
    assert _origin("server.port") == "environment VECMIRROR_SERVER__PORT"
    loaded = load_settings({"server.port": 3, "server.host": None})
    assert loaded.settings.server.port == 3
    assert loaded.origins["server.port"] == "flag"
    assert loaded.settings.server.max_k == 5  # the other keys of the section stay


def test_the_named_file_wins_and_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vecmirror.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "other.toml").write_text("[server]\nport = 7\n")
    monkeypatch.setenv("VECMIRROR_CONFIG", "other.toml")
    assert load_settings().settings.server.port == 7
    monkeypatch.setenv("VECMIRROR_CONFIG", "gone.toml")
    with pytest.raises(SettingsError, match=r"there is no configuration file gone\.toml"):
        load_settings()


def test_secrets_come_from_files_and_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dsn").write_text("host=db password=hunter2\n")
    (tmp_path / "keys").write_text("first\nsecond\n")
    monkeypatch.setenv("VECMIRROR_SOURCE__DSN_FILE", "dsn")
    monkeypatch.setenv("VECMIRROR_AUTH__READ_KEYS", "a, b")
    (tmp_path / "vecmirror.toml").write_text('[auth]\nadmin_keys_file = "keys"\n')
    loaded = load_settings()
    assert loaded.settings.source.dsn is not None
    assert loaded.settings.source.dsn.get_secret_value() == "host=db password=hunter2"
    auth = loaded.settings.auth
    assert [key.get_secret_value() for key in auth.admin_keys] == ["first", "second"]
    assert [key.get_secret_value() for key in auth.read_keys] == ["a", "b"]
    shown = {row.key: row.value for row in loaded.rows()}
    assert shown["source.dsn"] == MASK
    assert shown["auth.admin_keys"] == [MASK, MASK]
    for secret in ("hunter2", "first"):
        assert secret not in repr(loaded)


def test_a_secret_and_its_file_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECMIRROR_SOURCE__DSN", "host=a")
    monkeypatch.setenv("VECMIRROR_SOURCE__DSN_FILE", "dsn")
    with pytest.raises(SettingsError, match="not both"):
        load_settings()


def test_a_missing_secret_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECMIRROR_SYNC__API_KEY_FILE", "/nowhere/key")
    with pytest.raises(SettingsError, match="the file /nowhere/key cannot be read"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("VECMIRROR_SERVER__PROT", "did you mean server.port"),
        ("VECMIRROR_SERVER_PORT", "names look like VECMIRROR_SERVER__PORT"),
        ("VECMIRROR_SERVICE__PORT", "is not a setting"),
        ("vecmirror_server__port_file", "there is no such setting"),
    ],
)
def test_an_unknown_variable_is_an_error(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=re.escape(says)):
        load_settings()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[server]\nprot = 1\n", "server.prot (file vecmirror.toml): there is no such setting"),
        ("[sever]\nport = 1\n", "there is no section 'sever'"),
        ("server = 1\n", "there is no section 'server'"),
        ("[server\n", "cannot be read as TOML"),
        ("[server]\nport = 70000\n", "server.port (file vecmirror.toml)"),
        ("[index]\nmetric = 'dot'\n", "index.metric (file vecmirror.toml)"),
    ],
)
def test_a_wrong_file_is_explained(toml: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "vecmirror.toml").write_text(toml)
    with pytest.raises(SettingsError, match=re.escape(says)):
        load_settings()


def test_kubernetes_service_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECMIRROR_PORT", "tcp://10.0.0.1:8410")
    monkeypatch.setenv("VECMIRROR_PORT_8410_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("VECMIRROR_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("VECMIRROR_SERVICE_PORT_HTTP", "8410")
    assert load_settings().settings.server.port == 8410


def test_an_error_never_shows_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECMIRROR_SERVER__PORT", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_the_documentation_lists_exactly_the_settings_there_are() -> None:
    documented = re.findall(r"^\| `([a-z_.]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert documented == setting_keys()
