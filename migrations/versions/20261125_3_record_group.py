"""A function that records a group of the most usual preferences: one statement, one round trip, one transaction.

Runs before the new code. What the function does is described in app/store/usual.py, its one caller; a change of it is
a new function, for processes of two versions run side by side.
"""

from alembic import op

revision = "20261125_3_record_group"
down_revision = "20261125_2_lean_preferences"
branch_labels = None
depends_on = None

RECORD = """
CREATE FUNCTION record_item_preferences_1(names text[], said json, channel text, notice_bytes integer)
RETURNS TABLE (name text, environment_id bigint, "position" bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    n bigint;
    here bigint[];
    counts bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(one, 0)) FROM unnest(names) AS one;

    WITH given AS MATERIALIZED (
        SELECT nextval('preferences_id_seq') AS id, rows.* FROM (
            SELECT environments.id AS environment_id, chosen.id AS chosen_key, rejected.id AS rejected_key,
                   r.u AS user_id, COALESCE(r.l, 1) AS label, COALESCE(r.w, 1) AS weight,
                   COALESCE(r.t, now()) AS occurred_at, r.i AS client_id
            FROM ROWS FROM (json_to_recordset(said) AS (
                e text, u text, c text, d text, l double precision, w double precision, t timestamptz, i text
            )) WITH ORDINALITY AS r
            JOIN environments ON environments.name = r.e
            JOIN items AS chosen
                ON chosen.environment_id = environments.id AND chosen.item_id = r.c AND chosen.retired_at IS NULL
            JOIN items AS rejected
                ON rejected.environment_id = environments.id AND rejected.item_id = r.d AND rejected.retired_at IS NULL
            ORDER BY r.ordinality
        ) AS rows
    ), whole AS MATERIALIZED (
        SELECT * FROM given WHERE (SELECT count(*) FROM given) = json_array_length(said)
    ), sayers AS (
        INSERT INTO users AS known (environment_id, user_id, feedback_count, first_at, last_at)
        SELECT environment_id, user_id, count(*), min(occurred_at), max(occurred_at)
        FROM whole GROUP BY environment_id, user_id ORDER BY environment_id, user_id COLLATE "C"
        ON CONFLICT (environment_id, user_id) DO UPDATE SET
            feedback_count = known.feedback_count + excluded.feedback_count,
            first_at = LEAST(known.first_at, excluded.first_at),
            last_at = GREATEST(known.last_at, excluded.last_at)
        RETURNING known.id, known.environment_id, known.user_id
    ), written AS (
        INSERT INTO preferences (
            id, environment_id, user_key, chosen_key, rejected_key, label, weight, occurred_at, client_id
        )
        SELECT whole.id, whole.environment_id, sayers.id, chosen_key, rejected_key, label, weight, occurred_at,
               client_id
        FROM whole JOIN sayers ON sayers.environment_id = whole.environment_id AND sayers.user_id = whole.user_id
        ORDER BY client_id COLLATE "C", whole.id
        RETURNING environment_id
    ), counted AS (
        SELECT environment_id, count(*) AS n FROM written GROUP BY environment_id
    )
    SELECT sum(counted.n), array_agg(environment_id), array_agg(counted.n) INTO n, here, counts FROM counted;
    IF n IS NULL THEN
        RETURN;
    END IF;

    WITH held AS (
        SELECT id FROM environments WHERE id = ANY (here) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE environments SET preference_count = preference_count + counted.n
    FROM held JOIN unnest(here, counts) AS counted (id, n) USING (id)
    WHERE environments.id = held.id;

    RETURN QUERY
    WITH at AS MATERIALIZED (
        SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS position,
               CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS horizon
    ), heard AS MATERIALIZED (
        SELECT environments.name, environments.id, string_agg(DISTINCT r.u, ' ') AS users,
               row_number() OVER (ORDER BY environments.id DESC) AS left_to_tell
        FROM json_to_recordset(said) AS r (e text, u text) JOIN environments ON environments.name = r.e
        GROUP BY environments.name, environments.id
        ORDER BY environments.id
    ), told AS MATERIALIZED (
        SELECT heard.name, heard.id, at.position, pg_notify(channel, concat(
            'u ', CASE WHEN left_to_tell = 1 THEN at.position ELSE 0 END, ' ', at.horizon, ' ', heard.id, ' ',
            CASE WHEN octet_length(heard.users) <= notice_bytes THEN heard.users ELSE '*' END
        ))
        FROM at CROSS JOIN heard ORDER BY heard.id
    )
    SELECT told.name, told.id, told.position FROM told;
END
$$
"""


def upgrade() -> None:
    op.execute(RECORD)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
