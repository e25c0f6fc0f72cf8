"""The wire forms of tools that people already use; one file a tool."""

from app.api.compat import openrlhf, personalizer, rerank, slime

ROUTERS = (openrlhf.router, slime.router, rerank.router, personalizer.router)

__all__ = ["ROUTERS"]
