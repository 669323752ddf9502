import faiss
import numpy as np
import pytest

from facegallery.indexer.derived import flat
from tests import synthetic


def by_faiss(ids: np.ndarray, xb: np.ndarray) -> bytes:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(xb.shape[1]))
    if len(xb):
        index.add_with_ids(xb, ids)
    return faiss.serialize_index(index).tobytes()


@pytest.mark.parametrize("n, block", [(0, 7), (1, 7), (7, 7), (50, 7), (50, 1000)])
def test_the_bytes_are_those_that_faiss_writes(n, block):
    xb, ids, written = synthetic.vectors(n, 1), 3 * np.arange(n, dtype=np.int64) + 5, []
    flat.write(written.append, n, synthetic.D, ((ids[i : i + block], xb[i : i + block]) for i in range(0, n, block)))
    assert b"".join(written) == by_faiss(ids, xb)


def test_a_file_is_searched_where_it_lies(tmp_path):
    xb, ids = synthetic.vectors(40, 1), np.arange(40, dtype=np.int64) * 2
    (tmp_path / "f").write_bytes(by_faiss(ids, xb))
    index = flat.opened(tmp_path / "f")
    assert (flat.rows(flat.inner(index)) == xb).all() and not flat.inner(index).codes.is_owned
    assert (index.search(xb, 1)[1][:, 0] == ids).all()


def test_an_empty_index_has_no_rows():
    assert flat.rows(faiss.IndexFlatIP(16)).shape == (0, 16)
