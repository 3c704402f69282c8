import torch

from ffpipe.learn.workspace import Workspace


def test_the_same_memory_serves_everybody_by_name_and_format() -> None:
    workspace = Workspace(torch.device("cpu"))
    first = workspace.take("activity", (4, 3), torch.float32)
    assert workspace.take("activity", (2, 5), torch.float32).data_ptr() == first.data_ptr()
    assert workspace.take("activity", (4, 3), torch.bfloat16).data_ptr() != first.data_ptr()
    assert workspace.take("gradient", (4, 3), torch.float32).data_ptr() != first.data_ptr()


def test_a_buffer_grows_to_the_largest_that_was_asked_for() -> None:
    workspace = Workspace(torch.device("cpu"))
    for rows in (1, 7, 3):
        taken = workspace.take("activity", (rows, 11), torch.float32)
        assert taken.shape == (rows, 11)
        assert taken.is_contiguous()
    assert taken.untyped_storage().nbytes() == 7 * 11 * 4
