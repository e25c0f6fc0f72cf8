"""The refit worker: load, evaluate, fit, publish; on request and on schedule."""

from app.worker.runner import run_worker

__all__ = ["run_worker"]
