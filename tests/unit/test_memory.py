import gc
import pickle
import threading

import numpy as np
import pytest
import torch

from augpipe.data.memory import Pool

FLOAT = np.dtype(np.float32)


def place(array: object) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


def test_what_nobody_holds_is_given_again() -> None:
    pool = Pool(2)
    places = set()
    for _ in range(5):
        array = pool((4, 5), FLOAT)
        assert (array.shape, array.dtype) == ((4, 5), FLOAT)
        array[:] = 1
        places.add(place(array))
        del array
    assert len(places) == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda array: torch.from_numpy(array)[1:],
        lambda array: torch.from_numpy(array).permute(1, 0),
        lambda array: torch.from_numpy(array).numpy(),
        lambda array: torch.from_numpy(array)[0].numpy()[1:],
        lambda array: torch.from_numpy(array).untyped_storage(),
        lambda array: memoryview(array),
        lambda array: array,
    ],
)
def test_what_is_held_stays(view: object) -> None:
    pool = Pool(2)
    array = pool((4, 5), FLOAT)
    first = place(array)
    held = view(array)  # type: ignore[operator]
    del array
    gc.collect()
    assert place(pool((4, 5), FLOAT)) != first
    others = [pool((4, 5), FLOAT) for _ in range(4)]
    assert first not in [place(each) for each in others]
    del held
    assert place(pool((4, 5), FLOAT)) in (first, *[place(pool((4, 5), FLOAT)) for _ in range(2)])


def test_only_so_many_pieces_are_kept() -> None:
    pool = Pool(2)
    held = [pool((8,), FLOAT) for _ in range(5)]
    kept = {place(each) for each in held[3:]}
    for _ in range(5):
        held.pop(0)
    again = [pool((8,), FLOAT) for _ in range(2)]
    assert {place(each) for each in again} == kept
    assert not pool._free


def test_memory_is_taken_for_what_fills_half_of_it() -> None:
    pool = Pool(4)
    first = place(pool((100,), FLOAT))
    assert place(pool((101,), FLOAT)) != first
    small = pool((49,), FLOAT)
    assert place(small) != first
    array = pool((50,), FLOAT)
    assert place(array) in (first, *[place(pool((100,), FLOAT))])
    assert len(array) == 50


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_any_dtype_and_no_element(kind: type) -> None:
    pool = Pool(2)
    for shape in ((3, 5), (0, 4), ()):
        for _ in range(2):
            array = pool(shape, np.dtype(kind))
            assert (array.shape, array.dtype) == (shape, np.dtype(kind))
            assert array.flags.aligned
            assert array.flags.c_contiguous
            assert array.flags.writeable


def test_a_copy_in_another_process_is_empty_and_as_large() -> None:
    pool = Pool(3)
    pool((4,), FLOAT)
    copy = pickle.loads(pickle.dumps(pool))
    assert not copy._free
    assert copy._free.maxlen == 3


def test_threads_never_share_a_piece() -> None:
    pool = Pool(4)
    wrong = []

    def work(number: int) -> None:
        for _ in range(2000):
            array = pool((50,), FLOAT)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert len(pool._free) <= 4
