"""docs/deploy.md: its commands run, its names exist."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from server.settings import PREFIX, load_settings, setting_keys

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
DEPLOY_TEXTS = [
    PAGE,
    *(
        path.read_text()
        for path in (ROOT / "deploy").rglob("*")
        if path.suffix != ".sql"
        if path.is_file() and "secrets" not in path.parts and path.name != ".env"
    ),
]


def blocks(language: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Run the page's first block in an empty checkout; return the folder of secrets."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, as the page does")
    (tmp_path / "deploy").mkdir()
    subprocess.run(["sh", "-euc", blocks("sh")[0]], cwd=tmp_path, check=True)
    return tmp_path / "deploy" / "secrets"


def test_the_recipe_makes_every_secret_compose_mounts(secrets: Path) -> None:
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    mounted = set(re.findall(r"\?[^}]*\}/(\w+)$", compose, re.MULTILINE))
    assert {path.name for path in secrets.iterdir()} == mounted
    assert (secrets.parent / ".env").read_text() == "SECRETS_DIR=./secrets\n"
    ignored = (ROOT / "deploy" / ".gitignore").read_text().split()
    assert ignored == ["/secrets/", "/.env"]


def test_only_its_owner_can_reach_the_secrets(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_the_recipe_gives_settings_that_agree(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECMIRROR_SOURCE__DSN_FILE", str(secrets / "source_dsn"))
    monkeypatch.setenv("VECMIRROR_AUTH__ADMIN_KEYS_FILE", str(secrets / "admin_key"))
    monkeypatch.setenv("VECMIRROR_AUTH__READ_KEYS_FILE", str(secrets / "read_key"))
    monkeypatch.setenv("VECMIRROR_SYNC__API_KEY_FILE", str(secrets / "admin_key"))
    empty = tmp_path / "vecmirror.toml"
    empty.touch()
    settings = load_settings(config=empty).settings
    assert settings.sync.api_key in settings.auth.admin_keys
    assert settings.auth.admin_keys != settings.auth.read_keys
    assert settings.source.dsn is not None
    password = (secrets / "postgres_password").read_text().strip()
    assert f"vecmirror:{password}@postgres" in settings.source.dsn.get_secret_value()


def test_every_variable_named_is_a_setting() -> None:
    known = {PREFIX + key.replace(".", "__").upper() for key in setting_keys()}
    known |= {f"{name}_FILE" for name in known if re.search("DSN|KEY", name)}
    named = set(re.findall(rf"\b{PREFIX}\w+__\w+", "\n".join(DEPLOY_TEXTS)))
    assert "VECMIRROR_SYNC__SERVER_URL" in named
    assert named - known == set()


def test_every_variable_of_compose_is_on_the_page() -> None:
    used = set(re.findall(r"\$\{(\w+):[-?]", "\n".join(DEPLOY_TEXTS[1:])))
    assert {"SECRETS_DIR", "ACCEL", "SERVER_PORT"} <= used
    for variable in used:
        assert f"`{variable}`" in PAGE
