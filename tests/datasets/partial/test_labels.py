"""The type, and hiding by the published protocol."""

import os

import numpy as np
import pytest
from scipy.sparse import csr_array

from relabel.datasets.partial import labels as module
from relabel.datasets.partial.labels import PartialLabels, hide, known_matrix, sparse_known
from relabel.datasets.pixels.location import stored_sample
from relabel.errors import ConfigError, DataError


def made(dense, **changes):
    values = np.asarray(dense, np.int8)
    given = {
        "name": "set",
        "root": None,
        "file_names": [f"{i}.jpg" for i in range(len(values))],
        "classes": tuple(f"c{i}" for i in range(values.shape[1])),
        "known": sparse_known(values),
    }
    return PartialLabels(**{**given, **changes})


def test_hidden_entries_are_those_of_the_published_code():
    # The first numbers of numpy.random.seed(0) are .5488 .7152 .6028 | .5449 .4237 .6459.
    full = made([[1, -1, 1], [-1, 1, -1]])
    assert hide(full, 0.6, 0).dense().tolist() == [[1, 0, 0], [-1, 1, 0]]
    assert hide(full, 0.5, 0).dense().tolist() == [[0, 0, 0], [0, 1, 0]]
    assert hide(full, 0.61, 0).dense().tolist() == [[1, 0, 1], [-1, 1, 0]]


@pytest.mark.parametrize("cells", [1, 50, 1 << 22])
def test_hiding_goes_in_blocks_and_leaves_unknown_entries_their_numbers(monkeypatch, cells):
    monkeypatch.setattr(module, "_BLOCK_CELLS", cells)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 1 + cells % 7)
    values = np.random.default_rng(1).integers(-1, 2, (40, 7)).astype(np.int8)
    numbers = np.random.RandomState(3).rand(40, 7)
    expected = np.where(numbers < 0.3, values, 0)
    full = made(values)
    assert (hide(full, 0.3, 3).dense() == expected).all()
    assert (full.dense() == values).all()


def test_hiding_nothing_and_everything():
    full = made([[1, -1], [-1, 1]])
    assert hide(full, 1, 0).dense().tolist() == full.dense().tolist()
    assert hide(full, 0, 0).known.nnz == 0


@pytest.mark.parametrize(("proportion", "seed"), [(-0.1, 0), (1.1, 0), (float("nan"), 0), (1, -1)])
def test_proportions_and_seeds_outside_their_range(proportion, seed):
    with pytest.raises(ConfigError):
        hide(made([[1]]), proportion, seed)


def test_a_class_and_an_image_twice_are_one_line():
    with pytest.raises(DataError, match="class 'cat' is there twice"):
        made([[1, -1]], classes=("cat", "cat"))
    with pytest.raises(DataError, match=r"image 'a.jpg' is there twice"):
        made([[1], [1]], file_names=["a.jpg", "a.jpg"])
    with pytest.raises(DataError, match="no class"):
        made(np.zeros((1, 0)))


def test_other_values_and_shapes_are_refused():
    with pytest.raises(ValueError, match="other values"):
        made([[1, 1]], known=csr_array(np.array([[2, 1]], np.int8)))
    with pytest.raises(ValueError, match="other values"):
        made([[1, 1]], known=csr_array((np.array([0, 1], np.int8), [0, 1], [0, 2])))
    with pytest.raises(ValueError, match="not N x C"):
        made([[1, 1]], known=csr_array(np.array([[1]], np.int8)))


def test_selected_rows_keep_their_order_labels_and_places():
    labels = made([[1, 0], [0, -1], [-1, 1]], locations=["zip:a!0", "", "zip:a!2"])
    chosen = labels.select([2, 0])
    assert chosen.file_names == ["2.jpg", "0.jpg"]
    assert chosen.dense().tolist() == [[-1, 1], [1, 0]]
    assert chosen.location(0) == "zip:a!2"
    assert labels.dense(slice(1, 3)).tolist() == [[0, -1], [-1, 1]]


def test_labels_without_pictures_say_so(tmp_path):
    with pytest.raises(DataError, match="without pictures"):
        made([[1]]).location(0)
    assert made([[1]], root=tmp_path).location(0) == str(tmp_path / "0.jpg")


def test_counts_of_each_class():
    present, absent = made([[1, 0, -1], [1, -1, 0]]).counts()
    assert present.tolist() == [2, 0, 0]
    assert absent.tolist() == [0, 1, 1]


def test_everything_looked_at_but_the_doubtful_is_known():
    present = csr_array(np.array([[True, False, False], [False, False, False]]))
    doubtful = csr_array(np.array([[True, True, False], [False, False, False]]))
    assert known_matrix(present, doubtful).toarray().tolist() == [[1, 0, -1], [-1, -1, -1]]


def test_the_fingerprint_tells_labels_images_and_classes_apart(tmp_path):
    labels = made([[1, -1], [0, 1]])
    same = made([[1, -1], [0, 1]])
    unsorted = csr_array(
        (np.array([-1, 1, 1], np.int8), np.array([1, 0, 1]), np.array([0, 2, 3])), shape=(2, 2)
    )
    assert labels.fingerprint() == same.fingerprint()
    assert made([[1, -1], [0, 1]], known=unsorted).fingerprint() == labels.fingerprint()
    others = [
        made([[1, -1], [0, -1]]),
        made([[1, -1], [0, 1]], classes=("a", "b")),
        made([[1, -1], [0, 1]], file_names=["x", "y"]),
    ]
    assert len({o.fingerprint() for o in [labels, *others]}) == 4
    assert others[0].fingerprint(labels=False) == labels.fingerprint(labels=False)
    stored = made([[1, -1], [0, 1]], root=tmp_path)
    before = stored.fingerprint(labels=False)
    (tmp_path / "0.jpg").write_bytes(b"123")
    assert stored.fingerprint(labels=False) != before


def test_the_fingerprint_tells_images_of_one_size_apart(tmp_path):
    """Uncompressed images of one size, numbered from 0 in every split: BMP, PPM."""
    labels = [made([[1, -1]], root=tmp_path / name) for name in "abcd"]
    for stored, at in zip(labels, (0, 30_000, 49_999, None), strict=True):
        content = bytearray(50_000)
        if at is not None:
            content[at] = 1
        assert stored.root is not None
        stored.root.mkdir()
        (stored.root / "0.jpg").write_bytes(content)
    # What lies between the samples does not count: 30,000 of 50,000.
    assert len({stored.fingerprint(labels=False) for stored in labels}) == 3
    os.mkfifo(tmp_path / "d" / "fifo")
    assert stored_sample(str(tmp_path / "d" / "fifo")) == bytes(16)
    assert stored_sample("zip:" + str(tmp_path / "a" / "0.jpg") + "!x") != bytes(16)


def test_a_short_file_that_states_too_many_entries_is_refused():
    wide = csr_array((1 << 20, 1 << 17), dtype=bool)
    with pytest.raises(DataError, match=r"1,048,576 images times 131,072 classes .*GiB"):
        known_matrix(wide, file="x.tsv")


def test_room_is_asked_for_where_it_is_short(monkeypatch):
    class Short:
        available = 1 << 30

    monkeypatch.setattr("psutil.virtual_memory", Short)
    module.check_room(10, 10, 1, None)
    module.check_room(100_000_000, 1_000_000, 100, None)
    with pytest.raises(DataError, match="need 1 GiB"):
        module.check_room(110_000_000, 1_000_000, 110, None)
