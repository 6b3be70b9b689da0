"""The settings as a whole: how they are read, and where each value came from.

Precedence, strongest first: flags, environment, file, default. ``load_settings`` reads all of them
and remembers the origin of each value; constructing ``Settings`` directly reads nothing but its
arguments.

- File: TOML; the first that exists of $VECMIRROR_CONFIG, ./vecmirror.toml and
  /etc/vecmirror/vecmirror.toml. A $VECMIRROR_CONFIG that does not exist is an error.
- Environment: VECMIRROR_SECTION__KEY. Keys of one value take text; lists are separated by commas.
- Secrets: ``key_file`` (VECMIRROR_SECTION__KEY_FILE) names a file that holds the value, as Docker
  and Kubernetes mount them; lists have one entry a line.
- A key nobody knows is an error in each of them: a mistyped setting must not be silently ignored.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .sections import (
    AuthSection,
    IndexSection,
    ReadySection,
    ServerSection,
    SourceSection,
    SqlSection,
    SyncSection,
)

PREFIX = "VECMIRROR_"
CONFIG_VARIABLE = "VECMIRROR_CONFIG"
#: Variables that are no settings: the engine reads its own when it is loaded.
_READ_ELSEWHERE = {
    CONFIG_VARIABLE,
    "VECMIRROR_CPU_KERNELS",
    "VECMIRROR_CPU_THREADS",
    "VECMIRROR_CPU_TRAINING_THREADS",
}
CONFIG_PATHS = (Path("vecmirror.toml"), Path("/etc/vecmirror/vecmirror.toml"))
MASK = "********"

#: Kubernetes sets these for a Service called "vecmirror" in every pod of its namespace.
_KUBERNETES = re.compile(r"VECMIRROR_(SERVICE_(HOST|PORT.*)|PORT(_\d+_(TCP|UDP|SCTP).*)?)")


class SettingsError(Exception):
    """A setting is unknown, malformed or out of range; the message names it and its origin."""


class Settings(BaseSettings):
    """The whole tree. ``load_settings`` fills it from file, environment and flags."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        hide_input_in_errors=True,
    )

    server: ServerSection = ServerSection()
    sql: SqlSection = SqlSection()
    source: SourceSection = SourceSection()
    auth: AuthSection = AuthSection()
    sync: SyncSection = SyncSection()
    index: IndexSection = IndexSection()
    ready: ReadySection = ReadySection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments only: ``load_settings`` runs the other sources one by one."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of ``vecmirror config show``; ``value`` is masked where it is a secret."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and, for each dotted key that is not at its default, where the value came from."""

    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> list[SettingRow]:
        """Return every key in the order of the tree."""
        return [
            SettingRow(key, _shown(value), self.origins.get(key, "default"))
            for key, value in _leaves(self.settings)
        ]


def setting_keys() -> list[str]:
    """Return the dotted names of all settings."""
    return [key for key, _ in _leaves(Settings())]


def load_settings(
    flags: Mapping[str, object] | None = None, config: Path | None = None
) -> LoadedSettings:
    """Read file, environment and ``flags`` (dotted key -> value; None means not given).

    ``config`` overrides the search for the file. Raise SettingsError with a sentence that names the
    key and where it stands.
    """
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for label, tree in _layers(flags or {}, config):
        for section, key, value, origin in _resolved(label, tree):
            values.setdefault(section, {})[key] = value
            origins[f"{section}.{key}"] = origin
    try:
        return LoadedSettings(Settings(**values), origins)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_sentence(error, origins)) from None


def _layers(
    flags: Mapping[str, object], config: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (label, section -> key -> value), the weakest first."""
    path = _config_path(config)
    if path is not None:
        yield f"file {path}", _read_file(path)
    _refuse_unknown_variables()
    yield "environment", EnvSettingsSource(Settings)()
    yield "flag", _nested(flags)


def _config_path(config: Path | None) -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    if config is None and named:
        config = Path(named)
    if config is None:
        return next((path for path in CONFIG_PATHS if path.is_file()), None)
    if not config.is_file():
        raise SettingsError(f"there is no configuration file {config}")
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return TomlConfigSettingsSource(Settings, toml_file=path)()
    except (ValueError, OSError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from error


def _nested(flags: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flags.items():
        if value is not None:
            section, _, key = dotted.partition(".")
            tree.setdefault(section, {})[key] = value
    return tree


def _refuse_unknown_variables() -> None:
    """Raise for a variable with our prefix that no section has; sections check their own keys."""
    for name in os.environ:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in _READ_ELSEWHERE:
            continue
        if _KUBERNETES.fullmatch(upper):
            continue
        section, separator, _ = upper.removeprefix(PREFIX).partition("__")
        if not separator or section.lower() not in Settings.model_fields:
            raise SettingsError(
                f"the environment variable {name} is not a setting: "
                f"names look like {PREFIX}SERVER__PORT (section, two underscores, key)"
            )


def _resolved(label: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (section, key, value, origin) of one layer, with secrets read from their files."""
    for section, keys in tree.items():
        if section not in Settings.model_fields or not isinstance(keys, Mapping):
            known = ", ".join(Settings.model_fields)
            raise SettingsError(f"{label}: there is no section {section!r}; sections are {known}")
        for key, value in keys.items():
            origin = (
                f"environment {PREFIX}{section}__{key}".upper() if label == "environment" else label
            )
            origin = origin.replace("ENVIRONMENT ", "environment ")
            base = key.removesuffix("_file")
            if base == key or not _is_secret(section, base):
                yield section, key, value, origin
            elif base in keys:
                raise SettingsError(f"{origin}: give {section}.{base} or its file, not both")
            else:
                yield section, base, _read_secret(Path(str(value)), origin), f"{origin} ({value})"


def _is_secret(section: str, key: str) -> bool:
    model = Settings.model_fields[section].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return False
    field = model.model_fields.get(key)
    return field is not None and "SecretStr" in str(field.annotation)


def _read_secret(path: Path, origin: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{origin}: the file {path} cannot be read") from error


def _leaves(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in Settings.model_fields:
        part: BaseModel = getattr(settings, section)
        for key in type(part).model_fields:
            yield f"{section}.{key}", getattr(part, key)


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return [_shown(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Return one line for each wrong setting, without its value: it may be a secret."""
    lines = []
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in found["loc"][:2])
        reason = _unknown(key) if found["type"] == "extra_forbidden" else found["msg"]
        lines.append(f"{key} ({origins.get(key, 'argument')}): {reason}")
    return "; ".join(lines)


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, setting_keys(), n=1)
    guess = f"did you mean {near[0]}?" if near else "see docs/configuration.md"
    return f"there is no such setting; {guess}"
