"""Log and metric set-up, the same for every process."""

from app.observability.logs import configure_logging
from app.observability.metrics import HttpMetrics

__all__ = ["HttpMetrics", "configure_logging"]
