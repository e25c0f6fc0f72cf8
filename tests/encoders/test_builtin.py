import subprocess
import sys

import anyio
import numpy as np
import pytest

from app.domain import EncoderSpec, InvalidInputError
from app.encoders import BUILTIN_DIM, BuiltinEncoder, encoder_for


def encode(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return anyio.run(BuiltinEncoder().encode, texts)


def test_texts_become_rows_of_unit_length_in_their_order() -> None:
    texts = ["cheap and local", "a well-known company"]
    rows = encode(texts)
    assert rows.shape == (2, BUILTIN_DIM)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encode(texts[::-1]), rows[::-1])


def test_a_text_does_not_depend_on_its_company() -> None:
    alone = encode(["short"])
    beside = encode(["short", "a very much longer text that pads the batch by a good number of tokens"])
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-6)


def test_similar_texts_are_nearer_than_unrelated_ones() -> None:
    cat, kitten, tax = encode(["a cat sleeps", "a kitten is sleeping", "quarterly tax return"])
    assert cat @ kitten > cat @ tax


def test_a_text_without_a_token_is_zero_not_nan() -> None:
    np.testing.assert_array_equal(encode([""]), np.zeros((1, BUILTIN_DIM)))


def test_no_texts_are_no_rows() -> None:
    assert encode([]).shape == (0, BUILTIN_DIM)


def test_weights_are_not_loaded_before_the_first_text() -> None:
    code = "import sys, app.encoders; app.encoders.BuiltinEncoder(); sys.exit('wordllama' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_encoder_for_gives_the_same_builtin_each_time() -> None:
    spec = EncoderSpec(kind="builtin", dim=BUILTIN_DIM)
    assert encoder_for(spec) is encoder_for(EncoderSpec(kind="builtin", dim=BUILTIN_DIM))
    assert encoder_for(spec).dim == BUILTIN_DIM


def test_the_builtin_has_one_width() -> None:
    with pytest.raises(InvalidInputError, match="256 dimensions; found 12"):
        encoder_for(EncoderSpec(kind="builtin", dim=12))
