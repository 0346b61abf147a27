"""Real processes over gloo: equal copies, the gradients of one process, no sample twice."""

import pytest
import torch

from torch_server import TESTS, run_python


@pytest.fixture(scope="module")
def probes(digits, tmp_path_factory) -> dict[str, dict]:
    """What tests/ddp_probe.py saved on 1 process ("1_0"), on each of 2 ("2_0", "2_1") and of 4."""
    out = tmp_path_factory.mktemp("probes")
    for ranks in (1, 2, 4):
        done = run_python(TESTS / "ddp_probe.py", digits, out, ranks=ranks)
        assert done.returncode == 0, done.stderr
    return {path.stem: torch.load(path, weights_only=True) for path in out.glob("*.pt")}


@pytest.mark.parametrize("model", ["gradients", "spiral"])
def test_gradients_of_two_and_four_processes_are_those_of_one(model, probes):
    alone = probes["1_0"][model]
    assert alone.dtype == torch.float64
    assert alone.abs().max() > 0.01
    for rank in ("2_0", "2_1", "4_0", "4_3"):
        torch.testing.assert_close(probes[rank][model], alone, rtol=0, atol=1e-10)


def test_parameters_are_equal_on_all_ranks_after_training(probes):
    assert torch.equal(probes["2_0"]["parameters"], probes["2_1"]["parameters"])
    assert not torch.equal(probes["2_0"]["parameters"], probes["1_0"]["parameters"])


def test_every_validation_image_is_counted_once(probes):
    assert probes["1_0"]["sums"][2] == 359
    assert [probes[rank]["sums"][2] for rank in ("2_0", "2_1")] == [180, 179]  # no padding


def test_ranks_share_one_shuffle_that_changes_every_epoch(probes):
    for epoch in (0, 1):
        first, second = (probes[rank]["indices"][epoch] for rank in ("2_0", "2_1"))
        assert len(first) == len(second) == 719
        assert set(first) | set(second) == set(range(1438))
    assert probes["2_0"]["indices"][0] != probes["2_0"]["indices"][1]
