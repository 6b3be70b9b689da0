"""Functions over dblink: one round trip, no planner, one kept connection for each session.

A connection that the server closed is noticed by its error and made anew, once: libpq does not
know of it before it is used. Using it a second time has no SQLSTATE of its own, so that error is
told by its text, which is never translated.

Sources: Postgres documentation, F.11 dblink; contrib/dblink/dblink.c (dblink_res_error,
materializeQueryResult).
"""

from __future__ import annotations

from psycopg import sql

from server.spec import IndexSpec
from server.sql.tables import table_of

from .facts import ClientFacts, Options
from .foreign import vector_type
from .names import DEFAULT_NAME, NAME_LIMIT_BYTES, IndexNames, light_name
from .statement import Part, joined, qualified

#: Parameters after the query: name -> type and default.
_PARAMETERS = {
    "k": ("integer", "10"),
    "filter": ("text", "NULL"),
    "min_lsn": ("pg_lsn", "NULL"),
    "consistency": ("text", "NULL"),
    "recall_target": ("double precision", "NULL"),
}

#: Types whose text is a literal as it is; the others are quoted.
_NUMBERS = frozenset({"integer", "double precision"})

_SEARCH_BODY = """
DECLARE
    statement text;
BEGIN
    IF {query} IS NULL THEN
        RAISE EXCEPTION 'the query vector is NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'A row without an embedding has no neighbours: leave such rows out.';
    END IF;
    statement := {statement};
    IF {connection} = ANY ({dblink}.dblink_get_connections()) THEN
        BEGIN
            RETURN QUERY SELECT {outputs}
                FROM {dblink}.dblink({connection}, statement) AS t({types});
            RETURN;
        EXCEPTION
            WHEN connection_exception OR admin_shutdown OR crash_shutdown THEN
                NULL;  -- the server was restarted: connect again, below
            WHEN internal_error THEN
                IF SQLERRM NOT LIKE 'could not send query%' THEN
                    RAISE;
                END IF;
        END;
        PERFORM {dblink}.dblink_disconnect({connection});
    END IF;
    PERFORM {dblink}.dblink_connect({connection}, {server});
    RETURN QUERY SELECT {outputs}
        FROM {dblink}.dblink({connection}, statement) AS t({types});
END
"""

_SEARCH_ANY_BODY = """
DECLARE
    function text := left(search.index, {limit}) || '_search';
    keys text;
    parts integer;
BEGIN
    SELECT string_agg(format('s.%I', name), ', ' ORDER BY place), count(*)
        INTO keys, parts
        FROM pg_catalog.pg_proc AS p,
            unnest(p.proargnames, p.proargmodes) WITH ORDINALITY AS a(name, mode, place)
        WHERE p.pronamespace = {namespace}::regnamespace AND p.proname = function
            AND mode = 't' AND place < cardinality(p.proargnames);
    IF parts = 0 THEN
        RAISE EXCEPTION 'there is no search function for an index "%"', search.index
            USING ERRCODE = 'undefined_object',
            HINT = 'Make it with: vecmirror sql-install ' || search.index;
    END IF;
    RETURN QUERY EXECUTE format(
        CASE WHEN parts = 1 THEN 'SELECT %s::text' ELSE 'SELECT json_build_array(%s)::text' END
        || ', s.distance FROM %I.%I($1, $2, $3, $4, $5, $6) AS s', keys, {schema}, function)
        USING {arguments};
END
"""


def create_search(
    spec: IndexSpec, names: IndexNames, wanted: Options, facts: ClientFacts
) -> sql.Composed:
    """Return the search function of one index: the columns of the key, and the distance."""
    table = table_of(spec)
    taken = frozenset(table.key)
    columns: list[Part] = [
        *(
            sql.Identifier(name) + sql.SQL(f" {table.columns[name].type.spoken}")
            for name in table.key
        ),
        sql.Identifier(light_name("distance", taken)) + sql.SQL(" double precision"),
    ]
    outputs: list[Part] = [
        sql.Identifier("t", name) for name in (*table.key, light_name("distance", taken))
    ]
    body = sql.SQL(_SEARCH_BODY).format(
        query=sql.Identifier(names.search, light_name("query", taken)),
        statement=_statement(spec, names, taken),
        connection=sql.Literal(wanted.server),
        server=sql.Literal(wanted.server),
        dblink=sql.Identifier(facts.dblink_schema),
        outputs=joined(outputs),
        types=joined(columns),
    )
    return _create(names.search, _parameters(taken, facts), columns, body, wanted)


def create_search_any(wanted: Options, facts: ClientFacts) -> sql.Composed:
    """Return ``search(index, query, ..)``: the key as text, as a JSON array if of many columns."""
    arguments: list[Part] = [sql.Identifier("search", name) for name in ("query", *_PARAMETERS)]
    body = sql.SQL(_SEARCH_ANY_BODY).format(
        schema=sql.Literal(wanted.schema),
        namespace=sql.Literal(sql.Identifier(wanted.schema).as_string(None)),
        limit=sql.Literal(NAME_LIMIT_BYTES - len("_search")),
        arguments=joined(arguments),
    )
    parameters = [sql.SQL("index text"), *_parameters(frozenset(), facts)]
    columns: list[Part] = [sql.SQL("key text"), sql.SQL("distance double precision")]
    return _create("search", parameters, columns, body, wanted)


def search_argument_types(facts: ClientFacts) -> str:
    """Return the types that tell an index's search function from others of its name."""
    kinds = [vector_type(facts).as_string(None), *(kind for kind, _ in _PARAMETERS.values())]
    return ", ".join(kinds)


def _parameters(taken: frozenset[str], facts: ClientFacts) -> list[Part]:
    """Return the declarations of the query and of what may be left out."""
    optional: list[Part] = [
        sql.Identifier(light_name(name, taken)) + sql.SQL(f" {kind} DEFAULT {default}")
        for name, (kind, default) in _PARAMETERS.items()
    ]
    query = sql.Identifier(light_name("query", taken))
    return [query + sql.SQL(" ") + vector_type(facts), *optional]


def _create(
    name: str, parameters: list[Part], columns: list[Part], body: sql.Composed, wanted: Options
) -> sql.Composed:
    form = sql.SQL(
        "CREATE FUNCTION {}({})\nRETURNS TABLE ({})\n"
        "LANGUAGE plpgsql VOLATILE ROWS 10 COST 10000 AS $vecmirror${}$vecmirror$"
    )
    if "$vecmirror$" in body.as_string(None):
        raise ValueError("a column name holds $vecmirror$, which ends the body of our functions")
    return form.format(qualified(wanted.schema, name), joined(parameters), joined(columns), body)


def _statement(spec: IndexSpec, names: IndexNames, taken: frozenset[str]) -> sql.Composed:
    """Return the plpgsql expression that gives the statement for the port."""
    table = table_of(spec)
    there = {name: sql.Identifier(column) for name, column in table.light.items()}
    here = {
        name: sql.Identifier(names.search, light_name(name, taken))
        for name in ("query", *_PARAMETERS)
    }
    keys: list[Part] = [sql.Identifier(name) for name in table.key]
    start = sql.SQL("SELECT {}, {} FROM {} WHERE {} = ").format(
        joined(keys), there["distance"], qualified(DEFAULT_NAME, spec.name), there["query"]
    )
    parts: list[Part] = [
        _text(start) + sql.SQL(" || quote_literal({}::text)").format(here["query"])
    ]
    for name, (kind, default) in _PARAMETERS.items():
        form = "{} || {}" if kind in _NUMBERS else "{} || quote_literal({}::text)"
        value = sql.SQL("coalesce({}, {})").format(here[name], sql.SQL(default))
        part = sql.SQL(form).format(
            _text(sql.SQL(" AND {} = ").format(there[name])),
            here[name] if default == "NULL" else value,
        )
        parts.append(part if default != "NULL" else sql.SQL("coalesce({}, '')").format(part))
    parts.append(_text(sql.SQL(" ORDER BY {}").format(there["distance"])))
    return joined(parts, "\n        || ")


def _text(statement: sql.Composed) -> sql.Literal:
    """Return SQL as a literal inside SQL."""
    return sql.Literal(statement.as_string(None))
