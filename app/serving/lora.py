"""A user's adapter as a LoRA of a linear reward head, in the files that PEFT reads.

The head is `Linear(in_features=1 + context_dim, out_features=item_dim, bias=False)`: for the input [1, context] its
output is the vector whose inner product with an item's raw features is the item's reward, but for a constant. Its
weight is the population's, Theta_0, and the adapter adds `lora_B @ lora_A` with lora_B = B, the basis that all users
share, and lora_A = W_i. The model's own centring and scaling are folded into the three matrices. A decision process has
one feature a state and one an action: `Linear(actions, states)`.
"""

import io
import json
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from app.domain import InvalidInputError
from app.learning import FeatureMap
from app.serving.snapshot import Ground

Real = NDArray[np.float64]

MODULE = "reward_head"


def adapter_archive(ground: Ground, user: str) -> bytes:
    """A zip of `adapter_model.safetensors`, `adapter_config.json` and `reward_head.safetensors`, the base weight.

    Raises
    ------
    InvalidInputError
        The model has rank 0: nobody has an adapter.
    """
    model, rank = ground.model, ground.model.width
    if rank == 0:
        raise InvalidInputError("the published model has rank 0: users do not differ in it, and have no adapters.")
    rows, columns = _maps(model.features)
    metadata = {
        "format": "pt",
        "user": user,
        "model_version": str(ground.snapshot.version),
        "feedback_seen": str(ground.user.feedback_seen),
    }
    adapter = {
        f"base_model.model.{MODULE}.lora_A.weight": _single(ground.adapter.mean @ columns),
        f"base_model.model.{MODULE}.lora_B.weight": _single(rows[:, None] * model.B),
    }
    base = {f"{MODULE}.weight": _single(rows[:, None] * model.Theta_0 @ columns)}
    files = {
        "adapter_model.safetensors": save(adapter, metadata=metadata),
        "adapter_config.json": json.dumps(_config(rank), indent=2).encode(),
        f"{MODULE}.safetensors": save(base, metadata=metadata),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content)
    return archive.getvalue()


def _maps(features: FeatureMap) -> tuple[Real, Real]:
    """(d1,) factors of an item's raw features, and (d2, 1 + c) from [1, raw context] to the model's columns."""
    if features.tabular:
        return np.ones(features.d1), np.eye(features.d2)
    columns = np.zeros((features.d2, 1 + len(features.context_centre)))
    columns[0, 0] = 1.0
    if features.d2 > 1:
        columns[1:, 0] = -features.context_centre @ features.context_basis
        columns[1:, 1:] = features.context_basis.T
    return 1.0 / features.scale, columns


def _config(rank: int) -> dict[str, Any]:
    """`lora_alpha` = r: the product is added as it is."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "target_modules": [MODULE],
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }


def _single(matrix: Real) -> NDArray[np.float32]:
    return np.ascontiguousarray(matrix, dtype=np.float32)
