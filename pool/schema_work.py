"""The tables of the workflow: what is watched, the lanes, the effect ledger, orders, the trail. As `pool.schema`."""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text, and_, literal_column, text

from pool.schema import Id, Json, Moment, metadata

#: What the workflow knows of an issue or pull request beside what the forge says of it.
work = Table(
    "work",
    metadata,
    Column("repo", String(255), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # Of a pull request: the issue that it is for.
    Column("issue", BigInteger),
    Column("held_by", Text),
    Column("held_at", Moment),
    # Since then nothing counts towards a cap: a person acted.
    Column("reset_at", Moment),
    # When the workflow looks at it on the forge again, and why; NULL: nothing is due.
    Column("look_at", Moment),
    Column("look_why", String(16)),
    Column("look_tries", Integer, nullable=False, server_default="0"),
    Column("looked_at", Moment),
    # Since when the forge has said, of this head on this base, that it cannot be merged.
    Column("unmergeable_since", Moment),
    Column("unmergeable_at", Text),
    # When the workflow first saw this head: a head without checks may still get some.
    Column("head_sha", String(64)),
    Column("head_since", Moment),
    Index(
        "ix_work_look_at",
        "look_at",
        "repo",
        "number",
        sqlite_where=text("look_at IS NOT NULL"),
        postgresql_where=text("look_at IS NOT NULL"),
    ),
    Index("ix_work_issue", "repo", "issue"),
)

_OPEN = text("state IN ('waiting', 'active', 'parked')")
_HOLDS = text("state IN ('active', 'parked')")
_ENDED = text("ended_at IS NOT NULL")

#: The lanes. Two indexes keep the promise: one merge at a time in a lane, one open entry for a pull request.
merges = Table(
    "merges",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repo", String(255), nullable=False),
    Column("base", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("step", String(16)),
    Column("link", Integer, nullable=False, server_default="0"),
    Column("head_sha", String(64), nullable=False),
    Column("approved_sha", String(64), nullable=False),
    Column("base_sha", String(64)),
    Column("merge_sha", String(64)),
    Column("code", String(32)),
    Column("reason", Text, nullable=False, server_default=""),
    Column("approved_at", Moment, nullable=False),
    Column("entered_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("look_at", Moment),
    Column("ended_at", Moment),
    Index("uq_merges_lane", "repo", "base", unique=True, sqlite_where=_HOLDS, postgresql_where=_HOLDS),
    Index("uq_merges_pull", "repo", "number", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_merges_open", "repo", "base", "approved_at", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_merges_pull", "repo", "number", "id"),
    Index("ix_merges_ended", "ended_at", "id", sqlite_where=_ENDED, postgresql_where=_ENDED),
    sqlite_autoincrement=True,
)
holds_lane = merges.c.state.in_([literal_column("'active'"), literal_column("'parked'")])
is_open_merge = merges.c.state.in_([literal_column(f"'{state}'") for state in ("waiting", "active", "parked")])

_OWED = text("done_at IS NULL AND given_up_at IS NULL")
_DONE, _GIVEN_UP = text("done_at IS NOT NULL"), text("given_up_at IS NOT NULL")

#: The effect ledger: what is to be written to the forge, noted in the transaction that decides it.
effects = Table(
    "effects",
    metadata,
    Column("id", Id, primary_key=True),
    # What makes it the same effect; also what is looked for on the forge before it is written there.
    # Names of repositories and branches are in it, and both may be long.
    Column("key", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("repo", String(255), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("type", String(63), nullable=False),
    Column("task", Id),
    Column("body", Json, nullable=False),
    # Raised each time it is owed anew; what is done is done for the version that was read.
    Column("version", Integer, nullable=False, server_default="1"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("due_at", Moment, nullable=False),
    Column("error", Text, nullable=False, server_default=""),
    Column("ref", Text),
    Column("created_at", Moment, nullable=False),
    Column("done_at", Moment),
    Column("given_up_at", Moment),
    Index("uq_effects_key", "key", unique=True),
    Index("ix_effects_owed", "due_at", "id", sqlite_where=_OWED, postgresql_where=_OWED),
    Index("ix_effects_subject", "repo", "number", "id"),
    Index("ix_effects_done", "done_at", "id", sqlite_where=_DONE, postgresql_where=_DONE),
    Index("ix_effects_given_up", "given_up_at", "id", sqlite_where=_GIVEN_UP, postgresql_where=_GIVEN_UP),
    sqlite_autoincrement=True,
)
is_owed = and_(effects.c.done_at.is_(None), effects.c.given_up_at.is_(None))

_UNDONE = text("done_at IS NULL")

#: What people ask for in comments.
orders = Table(
    "orders",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repo", String(255), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("comment", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("verb", String(16), nullable=False),
    Column("argument", String(255), nullable=False, server_default=""),
    Column("by", String(255), nullable=False),
    Column("delivery", Id),
    Column("created_at", Moment, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("done_at", Moment),
    Column("answer", Text, nullable=False, server_default=""),
    Index("uq_orders_comment", "repo", "comment", "line", unique=True),
    Index("ix_orders_due", "id", "due_at", sqlite_where=_UNDONE, postgresql_where=_UNDONE),
    Index("ix_orders_done", "done_at", "id", sqlite_where=_DONE, postgresql_where=_DONE),
    Index("ix_orders_subject", "repo", "number", "id"),
    sqlite_autoincrement=True,
)
is_undone = orders.c.done_at.is_(None)

#: Why the workflow did what it did, beside deliveries and the histories of tasks.
trail = Table(
    "trail",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("repo", String(255), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("source", String(16), nullable=False),
    Column("what", String(64), nullable=False),
    Column("why", Text, nullable=False),
    Index("ix_trail_subject", "repo", "number", "id"),
    Index("ix_trail_at", "at"),
    sqlite_autoincrement=True,
)

#: How far each repository has been asked for what no webhook told.
polls = Table(
    "polls",
    metadata,
    Column("repo", String(255), primary_key=True),
    Column("polled_at", Moment),
    Column("comments_since", Moment),
    Column("error", Text, nullable=False, server_default=""),
)
