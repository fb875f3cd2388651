"""From events to files: grids and single files, as they come, and what a fault leaves."""

import pytest
import torch

from cascade.cli import show
from cascade.events import StageFinished
from cascade.output.destinations import output_for
from cascade.request import Request
from data.errors import RunError
from tests.cascade.chains import finished
from tests.cascade.output.files import files, pixels


def test_a_grid_has_a_row_for_each_label(tmp_path, model):
    request = Request(num=3, labels=(0, 2), batch=4)
    output = output_for(str(tmp_path / "new" / "out.png"), stages=True)
    written = list(output.write(model.sample(request), model.resolve(request)))
    assert files(tmp_path) == ["new/out.base_8.png", "new/out.png"]
    assert sorted(written) == [tmp_path / "new" / name for name in ("out.base_8.png", "out.png")]
    sheet = pixels(tmp_path / "new" / "out.png")
    assert sheet.shape == (3, 2 * 18 + 2, 3 * 18 + 2)
    images = finished(model.sample(request))
    assert torch.equal(sheet[:, 2:18, 2:18], images[0])
    assert torch.equal(sheet[:, 20:36, 38:54], images[5])


def test_single_files_come_with_each_chunk(tmp_path, model):
    request = Request(num=5, batch=2)
    output = output_for(f"{tmp_path}/new/", stages=True)
    paths = output.write(model.sample(request), model.resolve(request))
    assert next(paths) == tmp_path / "new" / "000000.base_8.png"
    assert [next(paths).name for _ in range(3)] == ["000001.base_8.png", "000000.png", "000001.png"]
    assert len(files(tmp_path)) == 4
    assert len(list(paths)) == 6
    assert torch.equal(pixels(tmp_path / "new" / "000004.png"), finished(model.sample(request))[4])


@pytest.mark.parametrize("is_grid", [True, False])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, RunError, OSError])
def test_a_fault_while_sampling_keeps_what_is_finished(tmp_path, model, is_grid, fault):
    """And the same request goes on from there, to the bytes of an undisturbed one; chunks that were begun are made whole."""
    request = Request(num=7, batch=2, labels=(1,))

    def interrupted():
        for event in model.sample(request):
            if isinstance(event, StageFinished) and event.last and event.index[0] == 4:
                raise fault("full")
            yield event

    def place(name: str):
        return output_for(f"{tmp_path}/{name}/" + "out.png" * is_grid, stages=False)

    list(place("whole").write(model.sample(request), model.resolve(request)))
    output = place("new")
    with pytest.raises(fault):
        list(output.write(show(interrupted(), request.total), model.resolve(request)))
    kept = [f"{'new/out.parts' if is_grid else 'new'}/{k:06d}.png" for k in range(4)]
    assert [name for name in files(tmp_path) if name.startswith("new")] == kept
    assert output.count(model.resolve(request)) == 4
    (tmp_path / kept[3]).unlink()
    with output.held():
        left = output.claim(model.resolve(request))
        assert list(left) == [2, 3, 4, 5, 6]
        list(output.write(model.sample(model.resolve(request).picked(left)), model.resolve(request)))
        assert output.claim(model.resolve(request)) is None
    names = [name for name in files(tmp_path / "new")]
    assert names == files(tmp_path / "whole")
    assert all((tmp_path / "new" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


def test_the_first_of_a_billion_images_comes_at_once(tmp_path, model):
    request = Request(num=10**9, batch=2)
    output = output_for(f"{tmp_path}/", stages=False)
    paths = output.write(model.sample(request), model.resolve(request))
    assert [next(paths).name for _ in range(3)] == ["000000.png", "000001.png", "000002.png"]
    left = output.claim(model.resolve(request))
    assert (
        next(output.write(model.sample(model.resolve(request).picked(left)), model.resolve(request))).name
        == "000002.png"
    )


def test_progress_where_there_is_no_terminal(capsys, model):
    request = Request(num=3, batch=2)
    assert len(list(show(model.sample(request), request.total))) == len(list(model.sample(request)))
    assert capsys.readouterr().err.splitlines() == [
        f"{stage}: images {first} to {last} of 3 done"
        for first, last in ((0, 1), (2, 2))
        for stage in ("base_8", "sr_16")
    ]
