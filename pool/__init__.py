"""The instance pool: its state, its rules of choice and its store. Knows no Celery, Flask or HTTP."""
