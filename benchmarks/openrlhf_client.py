"""OpenRLHF's own reward client, as its rollouts use it, fetching rewards from a running service.

OpenRLHF imports PyTorch, DeepSpeed and Ray as soon as it is imported; its reward client needs aiohttp only. The
published package is therefore installed by itself, and its reward client loaded without the packages' own imports:

    pip install --target CLIENT --no-deps openrlhf && pip install --target CLIENT aiohttp
    PSHARELORA_KEY=... python benchmarks/openrlhf_client.py CLIENT replies-simulated simulated-reader-001

The key is one whose only scope is `read`: it travels in the path, since OpenRLHF sends no headers. Prints OpenRLHF's
answer beside that of `POST .../rewards`; they must be the same.
"""

import argparse
import asyncio
import importlib
import os
import sys
import types
from pathlib import Path

PROMPT = "I can't sleep."
REPLIES = ("Breathe out slowly, ten times.", "Oh no! I am so sorry. I am here.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", type=Path, help="the folder that openrlhf was installed into")
    parser.add_argument("environment")
    parser.add_argument("user")
    options = parser.parse_args()
    url = os.environ.get("PSHARELORA_URL", "http://127.0.0.1:8000")
    endpoint = f"{url}/compat/keys/{os.environ['PSHARELORA_KEY']}/openrlhf/{options.environment}/get_reward"
    agent = reward_client(options.client)
    executor = agent.SingleTurnAgentExecutor(endpoint)
    queries = [f"{PROMPT} {reply}" for reply in REPLIES]
    prompts, labels = [f"{PROMPT} "] * len(REPLIES), [options.user] * len(REPLIES)
    (found,) = asyncio.run(executor._fetch_rewards_via_http(queries, prompts, labels))  # noqa: SLF001 - what its rollouts call
    print(found)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from psharelora import Client

    with Client(url) as client:
        asked = client.rewards(options.environment, options.user, [{"text": reply} for reply in REPLIES])
    assert found["rewards"] == [one["reward"] for one in asked["rewards"]], (found["rewards"], asked["rewards"])
    print("the same as POST .../rewards")


def reward_client(folder: Path) -> types.ModuleType:
    """`openrlhf.utils.agent`, without what the packages above it import."""
    sys.path.insert(0, str(folder))
    for name in ("openrlhf", "openrlhf.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("openrlhf.utils.agent")


if __name__ == "__main__":
    main()
