import pytest

from app.store import COMMAND, Database, actor, list_audit, note_failure

pytestmark = pytest.mark.anyio


async def test_entries_are_read_page_by_page_from_the_newest(db: Database, environment_name: str) -> None:
    by_command = actor.set((COMMAND, None))
    for action in ("first", "second", "third"):
        await note_failure(db, action, environment_name, "refused")
    await note_failure(db, "elsewhere", f"{environment_name}-b", "refused")
    actor.reset(by_command)
    await note_failure(db, "by nobody", environment_name, "refused")
    newest = await list_audit(db, environments=[environment_name], limit=2)
    assert [entry.action for entry in newest] == ["third", "second"]
    rest = await list_audit(db, environments=[environment_name], limit=2, before=newest[-1].id)
    assert [(entry.action, entry.outcome) for entry in rest] == [("first", "refused")]
