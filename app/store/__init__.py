"""Everything that is kept: environments, items, preferences, refits, models, keys and the queue, in PostgreSQL.

Each public coroutine is one whole transaction on a `Database`.
"""

from app.store.activity import Bucket, feedback_activity, list_users
from app.store.audit import COMMAND, AuditEntry, actor, list_audit, note_failure
from app.store.backup import Manifest, back_up, restore
from app.store.binary_rows import prepare as prepare_import
from app.store.current import Current
from app.store.database import Database, Notice
from app.store.embedded import EmbeddedPostgres
from app.store.environments import (
    EnvironmentState,
    EnvironmentSummary,
    delete_environment,
    environment_summary,
    get_environment,
    list_environments,
    put_environment,
)
from app.store.events import EVENT_LIFETIME, find_event, note_event, record_event
from app.store.health import EnvironmentAge, Installation, installation
from app.store.importing import Imported, draw_numbers, import_item_preferences, import_preferences
from app.store.items import Upserted, all_items, item_features, list_items, retire_item, upsert_items
from app.store.keys import authenticate, create_key, list_keys, revoke_key, rotate_key
from app.store.loading import load_preferences, user_comparisons
from app.store.migration import (
    SchemaBehindError,
    SchemaState,
    migrate,
    require_current_schema,
    schema_state,
    server_connections,
)
from app.store.models import (
    AdapterPage,
    NewModel,
    StoredAdapter,
    adapter_count,
    adapter_of,
    adapter_pages,
    erasure_count,
    get_model,
    list_models,
    load_model,
    promote_model,
    publish_model,
    stored_adapter,
)
from app.store.notices import Notices, announce
from app.store.preferences import record_preferences, refresh_statistics
from app.store.queue import QUEUE, REFIT_TASK, pull_forward, queue_app, retry_stalled_jobs, retry_unheard_jobs
from app.store.refits import (
    begin_refit,
    cancel_refit,
    due_environments,
    finish_refit,
    get_refit,
    list_refits,
    report_progress,
    request_refit,
)
from app.store.users import (
    Erased,
    ExportedAdapter,
    ExportedEvent,
    ServingState,
    UserCount,
    UserState,
    erase_user,
    export_derived,
    export_user,
    serving_state,
    user_count,
    user_state,
)
from app.store.writer import Recorder, Writer

__all__ = [
    "COMMAND",
    "EVENT_LIFETIME",
    "QUEUE",
    "REFIT_TASK",
    "AdapterPage",
    "AuditEntry",
    "Bucket",
    "Current",
    "Database",
    "EmbeddedPostgres",
    "EnvironmentAge",
    "EnvironmentState",
    "EnvironmentSummary",
    "Erased",
    "ExportedAdapter",
    "ExportedEvent",
    "Imported",
    "Installation",
    "Manifest",
    "NewModel",
    "Notice",
    "Notices",
    "Recorder",
    "SchemaBehindError",
    "SchemaState",
    "ServingState",
    "StoredAdapter",
    "Upserted",
    "UserCount",
    "UserState",
    "Writer",
    "actor",
    "adapter_count",
    "adapter_of",
    "adapter_pages",
    "all_items",
    "announce",
    "authenticate",
    "back_up",
    "begin_refit",
    "cancel_refit",
    "create_key",
    "delete_environment",
    "draw_numbers",
    "due_environments",
    "environment_summary",
    "erase_user",
    "erasure_count",
    "export_derived",
    "export_user",
    "feedback_activity",
    "find_event",
    "finish_refit",
    "get_environment",
    "get_model",
    "get_refit",
    "import_item_preferences",
    "import_preferences",
    "installation",
    "item_features",
    "list_audit",
    "list_environments",
    "list_items",
    "list_keys",
    "list_models",
    "list_refits",
    "list_users",
    "load_model",
    "load_preferences",
    "migrate",
    "note_event",
    "note_failure",
    "prepare_import",
    "promote_model",
    "publish_model",
    "pull_forward",
    "put_environment",
    "queue_app",
    "record_event",
    "record_preferences",
    "refresh_statistics",
    "report_progress",
    "request_refit",
    "require_current_schema",
    "restore",
    "retire_item",
    "retry_stalled_jobs",
    "retry_unheard_jobs",
    "revoke_key",
    "rotate_key",
    "schema_state",
    "server_connections",
    "serving_state",
    "stored_adapter",
    "upsert_items",
    "user_comparisons",
    "user_count",
    "user_state",
]
