"""Every table of the project: this metadata is the truth that the migrations are checked against.

An `id` is the client's own string in `user_id`, `item_id`, `client_id`; a `*_key` is the number of the row that stands
for it. Rows belong to an environment and go with it. Features are little-endian float32 bytes, trajectories
little-endian int32 bytes: both leave the database as they are read into NumPy.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)

# Byte order, so that the order of a listing is the same on every server.
_Name = Text(collation="C")
_Moment = DateTime(timezone=True)


def _key() -> Column[int]:
    return Column("id", BigInteger, Identity(always=False), primary_key=True)


def _environment() -> Column[int]:
    return Column("environment_id", ForeignKey("environments.id", ondelete="CASCADE"), nullable=False)


def _now(name: str) -> Column[object]:
    return Column(name, _Moment, nullable=False, server_default=func.now())


environments = Table(
    "environments",
    metadata,
    _key(),
    Column("name", _Name, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("definition", JSONB, nullable=False),
    Column("item_dim", Integer),
    Column("context_dim", Integer),
    Column("horizon", Integer),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    Column("catalog_revision", BigInteger, nullable=False, server_default="0"),
    Column("preference_count", BigInteger, nullable=False, server_default="0"),
    Column("refit_every_seconds", Double, nullable=False),
    Column("refit_min_new_preferences", BigInteger, nullable=False),
    Column("refit_begun_at", _Moment),
    Column("refit_preference_count", BigInteger, nullable=False, server_default="0"),
    Column("published_version", Integer),
    # How many users were erased so far: a model that was fitted when there were fewer still rests on one of them.
    Column("erasures", BigInteger, nullable=False, server_default="0"),
    _now("created_at"),
)

items = Table(
    "items",
    metadata,
    _key(),
    _environment(),
    # A catalogue's item has an item_id; an option given inline has a content_hash instead.
    Column("item_id", _Name),
    Column("content_hash", LargeBinary),
    Column("features", LargeBinary, nullable=False),
    Column("text", Text),
    Column("title", Text),
    Column("retired_at", _Moment),
    UniqueConstraint("environment_id", "item_id"),
    UniqueConstraint("environment_id", "content_hash"),
)

contexts = Table(
    "contexts",
    metadata,
    _key(),
    _environment(),
    Column("content_hash", LargeBinary, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("text", Text),
    UniqueConstraint("environment_id", "content_hash"),
)

users = Table(
    "users",
    metadata,
    _key(),
    _environment(),
    Column("user_id", _Name, nullable=False),
    Column("feedback_count", BigInteger, nullable=False, server_default="0"),
    Column("first_at", _Moment),
    Column("last_at", _Moment),
    UniqueConstraint("environment_id", "user_id"),
    UniqueConstraint("environment_id", "id"),
    # Counts change with every preference: with room on its page a change touches no index.
    postgresql_with={"fillfactor": 70},
)

preferences = Table(
    "preferences",
    metadata,
    _key(),
    # Nothing that a preference refers to is deleted under it: who writes holds the environment shared, and who erases
    # has it alone and takes the preferences too. Foreign keys would cost a look-up each for every row that is written,
    # the one to users as much as all the rest of it.
    Column("environment_id", BigInteger, nullable=False),
    Column("user_key", BigInteger, nullable=False),
    Column("chosen_key", BigInteger),
    Column("rejected_key", BigInteger),
    Column("context_key", BigInteger),
    Column("chosen_steps", LargeBinary),
    Column("rejected_steps", LargeBinary),
    Column("label", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("occurred_at", _Moment, nullable=False),
    Column("client_id", _Name),
    # Where nothing was said of when it occurred, both moments are the transaction's.
    _now("recorded_at"),
    UniqueConstraint("environment_id", "client_id"),
    Index(None, "environment_id", "user_key"),
    Index(None, "recorded_at", postgresql_using="brin"),
)

refits = Table(
    "refits",
    metadata,
    Column("id", Uuid, primary_key=True),
    _environment(),
    Column("state", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text, nullable=False),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("error", Text),
    Column("model_version", Integer),
    Column("preference_count", BigInteger),
    _now("created_at"),
    Column("started_at", _Moment),
    Column("finished_at", _Moment),
    Index("refits_one_queued_idx", "environment_id", unique=True, postgresql_where=text("state = 'queued'")),
    Index(None, "environment_id", "created_at"),
)

models = Table(
    "models",
    metadata,
    _environment(),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("estimator", Text, nullable=False),
    Column("n_users", BigInteger, nullable=False),
    Column("n_preferences", BigInteger, nullable=False),
    Column("diagnostics", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("refit_id", Uuid),
    # Of the environment, when the model's preferences were loaded.
    Column("erasures", BigInteger, nullable=False, server_default="0"),
    _now("created_at"),
    Column("published_at", _Moment),
    PrimaryKeyConstraint("environment_id", "version"),
    Index("models_one_published_idx", "environment_id", unique=True, postgresql_where=text("status = 'published'")),
)

model_arrays = Table(
    "model_arrays",
    metadata,
    Column("environment_id", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", _Name, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("shape", ARRAY(BigInteger), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("environment_id", "version", "name"),
    ForeignKeyConstraint(
        ["environment_id", "version"], ["models.environment_id", "models.version"], ondelete="CASCADE"
    ),
)

adapters = Table(
    "adapters",
    metadata,
    Column("environment_id", BigInteger, nullable=False),
    Column("user_key", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("feedback_count", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("environment_id", "user_key", "version"),
    ForeignKeyConstraint(["environment_id", "user_key"], ["users.environment_id", "users.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(
        ["environment_id", "version"], ["models.environment_id", "models.version"], ondelete="CASCADE"
    ),
    Index(None, "environment_id", "version"),
)

ranked_events = Table(
    "ranked_events",
    metadata,
    _environment(),
    Column("event_id", _Name, nullable=False),
    Column("user_id", _Name, nullable=False),
    # Options and context as preferences take them on the wire: they become preferences when the reward comes.
    Column("chosen", JSONB, nullable=False),
    Column("others", JSONB, nullable=False),
    Column("context", JSONB(none_as_null=True)),
    Column("active", Boolean, nullable=False),
    Column("reward", Double),
    _now("created_at"),
    Column("expires_at", _Moment, nullable=False),
    PrimaryKeyConstraint("environment_id", "event_id"),
    Index(None, "environment_id", "user_id"),
    Index("ranked_events_expires_at_idx", "environment_id", "expires_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _Name, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("environments", ARRAY(Text)),
    _now("created_at"),
    Column("revoked_at", _Moment),
    Column("expires_at", _Moment),
    # The key that replaces this one, by a rotation.
    Column("successor", _Name),
    Column("requests_per_minute", Integer),
)

# A trigger refuses to change or remove a row.
audit_log = Table(
    "audit_log",
    metadata,
    _key(),
    _now("at"),
    Column("key_id", _Name, nullable=False),
    Column("action", Text, nullable=False),
    # By name: the entries of an environment outlive it.
    Column("environment", _Name),
    Column("target", Text),
    Column("outcome", Text, nullable=False),
    Column("request_id", Text),
    Index("audit_log_environment_id_idx", "environment", "id"),
)
