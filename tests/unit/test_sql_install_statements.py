"""What ``sql-install`` says, without a database: names, keys, columns, order."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.table import FILTER_TYPES, ColumnSpec, TableSpec
from server.spec import IndexSpec
from server.sql.install import (
    BaseTable,
    ClientFacts,
    Existing,
    Options,
    PortAddress,
    install_statements,
    removal_statements,
)
from server.sql.install.facts import Kind
from server.sql.install.foreign import declared_type
from server.sql.install.names import NAME_LIMIT_BYTES, IndexNames, read_tag, tag
from server.sql.tables import table_of

SECRET = "it's-a-key"
ADDRESS = PortAddress(host="vm.internal", port=8411)
TABLE = TableSpec(
    schema="public",
    table="items",
    relation_id=1,
    vector_column="embedding",
    vector_type="vector",
    dim=3,
    key=(ColumnSpec("id", "int8"),),
    columns=(ColumnSpec("price", "float8"), ColumnSpec("k", "text")),
)
SPEC = IndexSpec(name="items", table=TABLE)
BASE = BaseTable(schema="public", table="items", columns=("id", "k", "embedding"))


def texts(
    spec: IndexSpec = SPEC,
    wanted: Options | None = None,
    facts: ClientFacts | None = None,
    address: PortAddress = ADDRESS,
) -> list[str]:
    """Return what would be shown."""
    made = install_statements(spec, address, wanted or Options(), facts or ClientFacts())
    return [statement.shown for statement in made]


def declared(spec: IndexSpec, facts: ClientFacts) -> dict[str, str]:
    """Return column -> type of the foreign tables."""
    columns = table_of(spec).columns.values()
    return {column.name: declared_type(column, facts).as_string(None) for column in columns}


def after(spec: IndexSpec, wanted: Options, facts: ClientFacts) -> ClientFacts:
    """Return what a database has after the statements ran, as far as comments tell."""
    found = []
    for statement in install_statements(spec, ADDRESS, wanted, facts):
        comment = re.fullmatch(
            r'COMMENT ON (VIEW|FUNCTION|FOREIGN TABLE) "(\w+)"\."([^"]+)"(?:\((.*)\))? IS \'(.*)\'',
            statement.shown,
        )
        if comment:
            tagged = read_tag(comment[5])
            assert tagged
            kind: Kind = comment[1]  # type: ignore[assignment]
            found.append(
                Existing(
                    kind=kind,
                    schema=comment[2],
                    name=comment[3],
                    arguments=comment[4] or "",
                    index=tagged[0],
                    digest=tagged[1],
                    readers=("app",) if kind == "VIEW" else (),
                )
            )
    return ClientFacts(
        looked=True,
        base=facts.base,
        schema_exists=True,
        missing_extensions=(),
        server_options={**_server_options(spec, wanted)},
        mappings={"me": {"user": "vecmirror", **({"password": SECRET} if wanted.key else {})}},
        current_user="me",
        existing=tuple(found),
    )


def _server_options(spec: IndexSpec, wanted: Options) -> dict[str, str]:
    (create,) = [each for each in texts(spec, wanted) if each.startswith("CREATE SERVER")]
    return dict(re.findall(r"\"(\w+)\" '([^']*)'", create.split("OPTIONS")[1]))


def test_the_key_is_run_and_never_shown() -> None:
    made = install_statements(SPEC, ADDRESS, Options(key=SECRET), ClientFacts())
    run = "\n".join(statement.run.as_string(None) for statement in made)
    shown = "\n".join(statement.shown for statement in made)
    assert "it''s-a-key" in run
    assert "s-a-key" not in shown
    assert ":'vecmirror_key'" in shown
    assert SECRET not in repr(Options(key=SECRET))
    assert SECRET not in repr(ClientFacts(mappings={"me": {"password": SECRET}}))


def test_the_foreign_server_lets_the_index_price_plans_and_takes_no_writes() -> None:
    values = _server_options(SPEC, Options())
    assert values["use_remote_estimate"] == "true"
    assert (values["updatable"], values["truncatable"]) == ("false", "false")
    assert values["extensions"] == "vector"
    assert (values["host"], values["port"], values["sslmode"]) == ("vm.internal", "8411", "disable")


def test_without_pgvector_the_vectors_are_text() -> None:
    facts = ClientFacts(looked=True, vector_schema=None)
    columns = declared(SPEC, facts)
    assert columns["query"] == columns["embedding"] == 'text COLLATE "C"'
    assert not any("extensions" in each for each in texts(facts=facts))


def test_a_light_column_gives_way_to_a_mirrored_one_of_its_name() -> None:
    columns = list(declared(SPEC, ClientFacts()))
    assert columns[:4] == ["id", "price", "k", "embedding"]
    assert columns[4:] == [
        *("query", "vm_k", "distance", "filter", "recall_target", "min_lsn", "consistency")
    ]


@pytest.mark.parametrize("kind", sorted(FILTER_TYPES))
def test_every_mirrored_type_has_a_name_in_sql(kind: str) -> None:
    table = dataclasses.replace(TABLE, columns=(ColumnSpec("c", kind),))
    shown = declared(IndexSpec(name="items", table=table), ClientFacts())["c"]
    assert ('COLLATE "C"' in shown) == kind.startswith("text")


def test_a_second_installation_says_nothing() -> None:
    for wanted in (Options(), Options(key=SECRET)):
        first = ClientFacts(base=BASE)
        assert texts(SPEC, wanted, after(SPEC, wanted, first)) == []


def test_another_key_changes_the_mapping_only() -> None:
    there = after(SPEC, Options(key=SECRET), ClientFacts(base=BASE))
    assert texts(SPEC, Options(key="another"), there) == [
        'ALTER USER MAPPING FOR CURRENT_USER SERVER "vecmirror"'
        " OPTIONS (SET password :'vecmirror_key')"
    ]


def test_a_moved_port_changes_the_server_only() -> None:
    there = after(SPEC, Options(), ClientFacts(base=BASE))
    moved = PortAddress(host="elsewhere", port=8411, root_certificate="system")
    assert texts(SPEC, Options(), there, moved) == [
        'ALTER SERVER "vecmirror" OPTIONS (SET "host" \'elsewhere\')',
        'ALTER SERVER "vecmirror" OPTIONS (ADD "sslrootcert" \'system\')',
    ]


def test_another_column_replaces_the_objects_of_the_index_and_keeps_its_readers() -> None:
    there = after(SPEC, Options(), ClientFacts(base=BASE))
    columns = (*TABLE.columns, ColumnSpec("tags", "text[]"))
    wider = IndexSpec(name="items", table=dataclasses.replace(TABLE, columns=columns))
    said = texts(wider, Options(), there)
    kinds = [" ".join(each.split()[:2]) for each in said]
    assert kinds[0] == "DROP VIEW"
    assert kinds.count("CREATE FOREIGN") == 2
    assert kinds[-1] == "GRANT SELECT"
    assert said[-1] == 'GRANT SELECT ON "vecmirror"."items_rows" TO "app"'
    assert not any("SERVER" in each and each.startswith("DROP") for each in said)


def test_readers_are_granted_the_view_and_nothing_else() -> None:
    said = texts(SPEC, Options(readers=("app",)), ClientFacts(base=BASE))
    assert [each for each in said if each.startswith("GRANT")] == [
        'GRANT USAGE ON SCHEMA "vecmirror" TO "app"',
        'GRANT SELECT ON "vecmirror"."items_rows" TO "app"',
    ]


def test_where_rows_are_hidden_the_view_takes_every_column_from_the_base_table() -> None:
    (hidden,) = [t for t in texts(facts=ClientFacts(base=BASE)) if t.startswith("CREATE VIEW")]
    shown = dataclasses.replace(BASE, row_security=False)
    (open_view,) = [t for t in texts(facts=ClientFacts(base=shown)) if t.startswith("CREATE VIEW")]
    assert '"b"."embedding"' in hidden
    assert '"f"."embedding"' in open_view
    assert '"b"."id"' in open_view


def test_the_last_index_takes_the_shared_objects_with_it() -> None:
    there = after(SPEC, Options(), ClientFacts(base=BASE))
    server = Existing(kind="SERVER", schema=None, name="vecmirror", index=None, digest="server")
    schema = Existing(kind="SCHEMA", schema=None, name="vecmirror", index=None, digest="schema")
    facts = dataclasses.replace(there, existing=(*there.existing, server, schema))
    said = [each.shown for each in removal_statements("items", Options(), facts)]
    assert said[-3:] == [
        'DROP USER MAPPING IF EXISTS FOR "me" SERVER "vecmirror"',
        'DROP SERVER IF EXISTS "vecmirror"',
        'DROP SCHEMA IF EXISTS "vecmirror"',
    ]
    other = dataclasses.replace(there.existing[-1], index="other", name="other_rows")
    facts = dataclasses.replace(facts, existing=(*facts.existing, other))
    kept = [each.shown for each in removal_statements("items", Options(), facts)]
    assert not any("SERVER" in each or 'search"(text' in each for each in kept)
    assert kept


def test_nothing_without_our_comment_is_dropped() -> None:
    assert removal_statements(None, Options(), ClientFacts(looked=True)) == []


@given(st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,62}", fullmatch=True))
def test_names_fit_and_tags_come_back(index: str) -> None:
    names = IndexNames.of(index)
    parts = (names.table, names.light, names.search, names.row, names.view)
    assert len(set(parts)) == 5
    assert max(map(len, parts)) <= NAME_LIMIT_BYTES
    assert read_tag(tag(index, "0123abc")) == (index, "0123abc")


def test_a_comment_of_somebody_else_is_no_tag() -> None:
    assert read_tag("made by hand for index items, 12") is None
    assert read_tag(tag(None, "x") + " and more") is None


def test_a_name_with_quotes_stays_a_name() -> None:
    nasty = "a\"b'; DROP TABLE x; --"
    table = dataclasses.replace(TABLE, key=(ColumnSpec(nasty, "text"),))
    said = "\n".join(texts(IndexSpec(name="items", table=table), facts=ClientFacts(base=BASE)))
    assert '"a""b\'' in said.replace("''", "'")
    broken = dataclasses.replace(TABLE, key=(ColumnSpec("$vecmirror$", "text"),))
    with pytest.raises(ValueError, match="ends the body"):
        texts(IndexSpec(name="items", table=broken))
