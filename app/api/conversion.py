"""JSON becomes domain objects here, once; nothing below checks it again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from app.api.decoding import WireContent, WirePreference
from app.api.mdps import TrajectoryReader
from app.api.schemas.options import ContextBody, FeaturesBody, ItemBody, OptionBody, TextBody, TrajectoryBody
from app.api.schemas.preferences import CatalogItemBody, PreferenceBody
from app.domain import (
    CatalogEnvironment,
    Context,
    EncoderSpec,
    Environment,
    FeaturesOption,
    InvalidInputError,
    Item,
    ItemOption,
    MdpEnvironment,
    Option,
    Preference,
    TextOption,
    TrajectoryOption,
)
from app.encoders import Encoder

EncoderFor = Callable[[EncoderSpec], Encoder]

TextFeatures = Mapping[str, NDArray[np.float32]]
"""(d,) features by text."""


class Reader:
    """Reads options, contexts, preferences and items of one environment, once their texts are encoded."""

    def __init__(self, environment: Environment, texts: TextFeatures) -> None:
        self._environment = environment
        self._texts = texts
        self._trajectories = TrajectoryReader(environment) if isinstance(environment, MdpEnvironment) else None

    def preference(self, body: PreferenceBody | WirePreference, pointer: str) -> Preference:
        chosen = self.option(body.chosen, f"{pointer}/chosen")
        rejected = self.option(body.rejected, f"{pointer}/rejected")
        if same_option(chosen, rejected):
            raise InvalidInputError(
                f"{pointer}/rejected: expected another option than the chosen one; found the same.",
                pointer=f"{pointer}/rejected",
            )
        return Preference(
            user=body.user,
            chosen=chosen,
            rejected=rejected,
            context=self.context(body.context, f"{pointer}/context"),
            label=body.label,
            weight=body.weight,
            occurred_at=body.moment if isinstance(body, WirePreference) else body.occurred_at,
            id=body.id,
        )

    def option(self, body: OptionBody | WireContent, pointer: str) -> Option:
        environment = self._environment
        kind, value = _named(body)
        if kind == "trajectory":
            if self._trajectories is None:
                raise InvalidInputError(
                    f'{pointer}: options of a catalogue are {{"item"}}, {{"features"}} or {{"text"}}; '
                    "found a trajectory.",
                    pointer=pointer,
                )
            return self._trajectories.read(value, f"{pointer}/trajectory")
        if isinstance(environment, MdpEnvironment):
            raise InvalidInputError(
                f'{pointer}: options of an MDP are {{"trajectory": [[state, action], ...]}}.', pointer=pointer
            )
        match kind:
            case "item":
                return ItemOption(value)
            case "features":
                return FeaturesOption(_vector(value, environment.item_dim, "item_dim", f"{pointer}/features"))
            case "text":
                return TextOption(value, self._encoded(value, f"{pointer}/text"))
            case _:
                assert_never(kind)

    def context(self, body: ContextBody | WireContent | None, pointer: str) -> Context | None:
        if body is None:
            return None
        environment = self._environment
        if isinstance(environment, MdpEnvironment) or environment.context_dim is None:
            raise InvalidInputError(
                f"{pointer}: environment {environment.name} is defined without context_dim, so it has no contexts.",
                pointer=pointer,
            )
        kind, value = _named(body)
        if kind == "features":
            return Context(_vector(value, environment.context_dim, "context_dim", f"{pointer}/features"))
        features = self._encoded(value, f"{pointer}/text")
        if len(features) != environment.context_dim:
            raise InvalidInputError(
                f"{pointer}/text: the encoder makes {len(features)} features of a text, but the environment's "
                f"context_dim is {environment.context_dim}.",
                pointer=f"{pointer}/text",
            )
        return Context(features, text=value)

    def item(self, body: CatalogItemBody, pointer: str) -> Item:
        if body.features is not None:
            dim = _catalog(self._environment).item_dim
            features = _vector(body.features, dim, "item_dim", f"{pointer}/features")
        elif body.text is not None:
            features = self._encoded(body.text, f"{pointer}/text")
        else:
            raise InvalidInputError(f"{pointer}: expected features or a text; found neither.", pointer=pointer)
        return Item(id=body.id, features=features, text=body.text, title=body.title)

    def _encoded(self, text: str, pointer: str) -> NDArray[np.float32]:
        if text not in self._texts:
            raise InvalidInputError(
                f"{pointer}: environment {self._environment.name} is defined without an encoder, so options are given "
                "as an item or by features.",
                pointer=pointer,
            )
        return self._texts[text]


async def reader_for(environment: Environment, bodies: Iterable[Any], encoder_for: EncoderFor) -> Reader:
    """A reader of these bodies: whatever text they hold is encoded now, in one call."""
    texts = sorted(set(_texts_of(bodies)))
    if not texts or not isinstance(environment, CatalogEnvironment) or environment.encoder is None:
        return Reader(environment, {})
    rows = await encoder_for(environment.encoder).encode(texts)
    return Reader(environment, dict(zip(texts, rows, strict=True)))


async def options_and_context(
    environment: Environment,
    options: Sequence[OptionBody],
    context: ContextBody | None,
    encoder_for: EncoderFor,
) -> tuple[list[Option], Context | None]:
    """What a question about rewards names, its texts encoded."""
    reader = await reader_for(environment, [*options, context], encoder_for)
    read = [reader.option(option, f"/options/{index}") for index, option in enumerate(options)]
    return read, reader.context(context, "/context")


def _texts_of(bodies: Iterable[Any]) -> Iterable[str]:
    for body in bodies:
        match body:
            case PreferenceBody() | WirePreference():
                yield from _texts_of((body.chosen, body.rejected, body.context))
            case TextBody(text=text) | WireContent(text=str(text)):
                yield text
            case CatalogItemBody(features=None, text=str(text)):
                yield text
            case _:
                pass


def _named(body: OptionBody | WireContent) -> tuple[Literal["item", "features", "text", "trajectory"], Any]:
    """What an option or context is given by, and its value."""
    match body:
        case WireContent():
            return _named_on_the_wire(body)
        case ItemBody():
            return "item", body.item
        case FeaturesBody():
            return "features", body.features
        case TextBody():
            return "text", body.text
        case TrajectoryBody():
            return "trajectory", body.trajectory
        case _:
            assert_never(body)


def _named_on_the_wire(body: WireContent) -> tuple[Literal["item", "features", "text", "trajectory"], Any]:
    if body.item is not UNSET:
        return "item", body.item
    if body.features is not UNSET:
        return "features", body.features
    if body.text is not UNSET:
        return "text", body.text
    return "trajectory", body.trajectory


def same_option(one: Option, other: Option) -> bool:
    match one, other:
        case ItemOption(), ItemOption():
            return one.item == other.item
        case TrajectoryOption(), TrajectoryOption():
            return one == other
        case (FeaturesOption() | TextOption(), FeaturesOption() | TextOption()):
            return bool(np.array_equal(one.features, other.features))
        case _:
            return False


def _catalog(environment: Environment) -> CatalogEnvironment:
    if isinstance(environment, MdpEnvironment):
        raise InvalidInputError(f"environment {environment.name} is an MDP, and has no items.")
    return environment


def _vector(values: Sequence[float], dim: int, name: str, pointer: str) -> NDArray[np.float32]:
    if len(values) != dim:
        raise InvalidInputError(
            f"{pointer}: expected {dim} numbers, the environment's {name}; found {len(values)}.", pointer=pointer
        )
    return np.array(values, dtype=np.float32)
