"""Embeddings of class names: files of word vectors, text encoders, random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relabel.errors import ConfigError, DataError
from relabel.partial.embeddings import (
    class_embeddings,
    embeddings_identity,
    text_embeddings,
    word_vectors,
    words_of,
)
from relabel.partial.settings import LEARNED
from tests.builders.partial import tiny_clip

GLOVE = """\
traffic 1 0 0
light 0 1 0
dog 0 0 2
hot_dog 5 5 5
"""


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("traffic light", ["traffic", "light"]),
        ("TrafficLight-2", ["traffic", "light", "2"]),
        ("Café/bar_stool", ["café", "bar", "stool"]),
        ("TV", ["tv"]),
    ],
)
def test_words_of_a_name(name: str, words: list[str]) -> None:
    assert words_of(name) == words


def test_a_name_is_its_own_vector_or_the_mean_of_its_words(vectors: Path) -> None:
    found = word_vectors(vectors, ["traffic light", "hot dog", "Dog", "light-blue"])
    expected = [[0.5, 0.5, 0], [5, 5, 5], [0, 0, 2], [0, 1, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_word_that_is_not_there_is_cut_in_two_that_are(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    # By frequency: "a|bcd" is no cut, "ab|cd" has a rarer part than "abc|de" below.
    path.write_text(
        "tv 2 0\npotted 0 2\nplant 4 4\nmonitor 0 4\nabc 1 0\nde 0 1\nab 8 8\ncde 9 9\n"
    )
    found = word_vectors(path, ["tvmonitor", "PottedPlant", "pottedplant", "abcde"])
    expected = [[1, 2], [2, 3], [2, 3], [0.5, 0.5]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    with pytest.raises(DataError, match="no word of the class 'tvx'"):
        word_vectors(path, ["tvx"])


def test_word2vec_has_a_first_line_of_counts(vectors: Path, tmp_path: Path) -> None:
    other = tmp_path / "word2vec.txt"
    other.write_text("4 3\n" + GLOVE)
    names = ["dog", "light"]
    torch.testing.assert_close(word_vectors(other, names), word_vectors(vectors, names))


def test_a_word_with_spaces_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2 3\n. . . 4 5 6\nlight 7 8 9\n")
    assert word_vectors(path, ["light"]).tolist() == [[7, 8, 9]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog 1 2 3\nlight 1 2\n", "2 numbers where the first has 3"),
        ("dog 1 2 x\n", "word vectors"),
        ("dog 1 2 nan\n", "not finite"),
        ("cat 1 2 3\n", "no word of the class 'dog'"),
        ("", "no word of the class"),
    ],
)
def test_a_damaged_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        word_vectors(path, ["dog"])


def test_learned_ones_come_from_the_seed() -> None:
    torch.manual_seed(1)
    first = class_embeddings(LEARNED, ["a", "b"])
    torch.manual_seed(1)
    torch.testing.assert_close(class_embeddings(LEARNED, ["a", "b"]), first)
    assert first.shape == (2, 300)


def test_a_file_is_known_by_its_bytes(vectors: Path) -> None:
    before = embeddings_identity(str(vectors))
    vectors.write_text(GLOVE + "cat 1 1 1\n")
    assert embeddings_identity(str(vectors)) != before
    assert embeddings_identity(LEARNED) == LEARNED


def tiny_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hot", "dog"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return folder


def test_a_text_encoders_states_are_averaged_over_a_names_tokens(tmp_path: Path) -> None:
    from transformers import BertModel

    folder = tiny_bert(tmp_path / "bert")
    found = text_embeddings(str(folder), ["hot dog", "dog"])
    model = BertModel.from_pretrained(folder).eval()
    for row, ids in zip(found, ([2, 5, 6, 3], [2, 6, 3]), strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(row, states.mean(0), rtol=1e-4, atol=1e-5)


def test_clips_text_features_are_taken(tmp_path: Path) -> None:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    folder = tiny_clip(tmp_path / "clip")
    found = class_embeddings(str(folder), ["hot dog", "car"])
    tokens = CLIPTokenizer.from_pretrained(folder)(
        ["hot dog", "car"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        model = CLIPTextModelWithProjection.from_pretrained(folder).eval()
        expected = model(**tokens).text_embeds
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_text_encoder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="text encoder"):
        text_embeddings(str(tmp_path / "empty"), ["dog"])
