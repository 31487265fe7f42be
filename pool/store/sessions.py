"""Conversations of agents: the id that the next task of the same key goes on with."""

from sqlalchemy import insert, select

from pool.schema import sessions
from pool.store.base import Verbs


class SessionVerbs(Verbs):
    """Statements about sessions."""

    def session(self, key: str) -> str | None:
        """Return the stored conversation id of a session key."""
        return self.connection.scalar(select(sessions.c.session_id).where(sessions.c.key == key))

    def keep_session(self, key: str, session_id: str, *, instance: str, task: int) -> None:
        """Store the conversation id for the next task of this key."""
        self.drop_session(key)
        self.connection.execute(
            insert(sessions).values(key=key, session_id=session_id, instance=instance, task=task, updated_at=self.now)
        )

    def drop_session(self, key: str) -> None:
        """Forget a conversation: the next task of this key starts fresh."""
        self.connection.execute(sessions.delete().where(sessions.c.key == key))

    def drop_sessions_of(self, repo: str, number: int) -> None:
        """Forget every conversation about an issue or pull request."""
        suffix = f":{repo}:{number}"
        self.connection.execute(sessions.delete().where(sessions.c.key.endswith(suffix, autoescape=True)))
