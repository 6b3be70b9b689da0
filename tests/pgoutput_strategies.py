"""Hypothesis strategies for pgoutput messages."""

from __future__ import annotations

from hypothesis import strategies as st

from pgsync import messages as m

_u32 = st.integers(0, 2**32 - 1)
_lsns = st.integers(0, 2**64 - 1)
_times = st.integers(-(2**63), 2**63 - 1)
_modifiers = st.integers(-(2**31), 2**31 - 1)
#: Names as C strings: any text without NUL.
_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
_xids = st.none() | _u32

_values = st.one_of(
    st.builds(m.TupleValue, st.sampled_from(["n", "u"])),
    st.builds(m.TupleValue, st.sampled_from(["t", "b"]), st.binary(max_size=20)),
)
_tuples = st.lists(_values, max_size=5).map(tuple)
_columns = st.builds(m.RelationColumn, _names, _u32, _modifiers, st.booleans())

_updates = st.one_of(
    st.builds(m.Update, _u32, st.none(), st.none(), _tuples, _xids),
    st.builds(m.Update, _u32, st.sampled_from(["K", "O"]), _tuples, _tuples, _xids),
)
_aborts = st.one_of(
    st.builds(m.StreamAbort, _u32, _u32),
    st.builds(m.StreamAbort, _u32, _u32, _lsns, _times),
)

#: Any message of protocol 1 to 4. Those with an ``xid`` that is not None come from a stream block.
messages: st.SearchStrategy[m.PgOutputMessage] = st.one_of(
    st.builds(m.Begin, _lsns, _times, _u32),
    st.builds(m.Commit, _lsns, _lsns, _times),
    st.builds(m.Origin, _lsns, _names),
    st.builds(
        m.Relation,
        _u32,
        _names,
        _names,
        st.sampled_from(["d", "n", "f", "i"]),
        st.lists(_columns, max_size=4).map(tuple),
        _xids,
    ),
    st.builds(m.Type, _u32, _names, _names, _xids),
    st.builds(m.Insert, _u32, _tuples, _xids),
    _updates,
    st.builds(m.Delete, _u32, st.sampled_from(["K", "O"]), _tuples, _xids),
    st.builds(
        m.Truncate, st.lists(_u32, max_size=4).map(tuple), st.booleans(), st.booleans(), _xids
    ),
    st.builds(m.Message, st.booleans(), _lsns, _names, st.binary(max_size=20), _xids),
    st.builds(m.StreamStart, _u32, st.booleans()),
    st.just(m.StreamStop()),
    st.builds(m.StreamCommit, _u32, _lsns, _lsns, _times),
    _aborts,
    st.builds(m.BeginPrepare, _lsns, _lsns, _times, _u32, _names),
    st.builds(m.Prepare, _lsns, _lsns, _times, _u32, _names),
    st.builds(m.CommitPrepared, _lsns, _lsns, _times, _u32, _names),
    st.builds(m.RollbackPrepared, _lsns, _lsns, _times, _times, _u32, _names),
    st.builds(m.StreamPrepare, _lsns, _lsns, _times, _u32, _names),
)

_WITH_XID = (m.Relation, m.Type, m.Insert, m.Update, m.Delete, m.Truncate, m.Message)


def in_stream(message: m.PgOutputMessage) -> bool:
    """Return whether the message has the form it takes inside a stream block."""
    return isinstance(message, _WITH_XID) and message.xid is not None
