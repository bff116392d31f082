"""Training in bfloat16 and float16 follows training in float32, and float32 means what the setting says."""

import csv
import statistics

import pytest
import torch
from rich.console import Console

from istvt.config import DataSettings, ISTVTConfig, TrainingSettings
from istvt.device import allow_tf32, pick_device, resolve_precision
from istvt.training.trainer import train

CONFIG = ISTVTConfig(image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


@pytest.fixture(scope="module")
def curve(synthetic_set, tmp_path_factory):
    """Training loss of every step in a precision, from a seed; each run is made once."""
    made: dict[tuple[str, int], list[float]] = {}

    def run(precision: str, seed: int = 0) -> list[float]:
        if (precision, seed) not in made:
            output = tmp_path_factory.mktemp(f"{precision}-{seed}")
            training = TrainingSettings(
                epochs=6, batch_size=8, learning_rate=1e-3, warmup_epochs=0, augment=False, precision=precision,
                seed=seed, log_steps=1,
            )  # fmt: skip
            data = DataSettings(root=synthetic_set, evaluation_clips=1)
            train(data, CONFIG, training, output, console=Console(quiet=True))
            rows = list(csv.DictReader((output / "steps.csv").open()))
            made[precision, seed] = [float(row["loss"]) for row in rows]
        return made[precision, seed]

    return run


def distance(first: list[float], second: list[float]) -> float:
    """Mean absolute difference of two curves, step by step."""
    return statistics.fmean(abs(a - b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_loss_curve_stays_within_the_noise_of_float32(curve, precision):
    """Noise: how far two float32 runs are apart that differ in their seed alone."""
    exact = curve("float32")
    assert statistics.fmean(exact[-6:]) < statistics.fmean(exact[:6])  # it learns: the curves are not just flat
    noise = distance(exact, curve("float32", seed=1))
    assert 0 < distance(exact, curve(precision)) < 0.5 * noise


def test_auto_is_float32_on_a_cpu_and_the_names_are_what_they_say():
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == resolve_precision("float32", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    assert resolve_precision("float16", cpu) == torch.float16


def test_float32_is_float32_in_every_command_that_takes_a_device():
    """PyTorch rounds convolutions to TF32 unless told otherwise: once only training told it."""
    torch.backends.cudnn.allow_tf32 = True
    pick_device("cpu")
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cuda.matmul.allow_tf32 is False


@pytest.mark.gpu
def test_auto_is_bfloat16_on_a_gpu_that_has_it():
    has = torch.cuda.is_bf16_supported(including_emulation=False)
    assert resolve_precision("auto", torch.device("cuda")) == (torch.bfloat16 if has else torch.float32)


def test_tf32_is_a_setting_and_off_unless_asked_for():
    assert TrainingSettings().tf32 is False
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
            # What the Triton kernels and torch.compile ask.
            assert (torch.backends.cuda.matmul.fp32_precision == "tf32") is allowed
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    finally:
        allow_tf32(False)


def test_weights_and_optimizer_state_are_float32_in_every_precision(synthetic_set, tmp_path):
    from istvt.training.distributed import Processes
    from istvt.training.trainer import Trainer

    training = TrainingSettings(precision="bfloat16")
    run = Trainer(
        DataSettings(synthetic_set), CONFIG, training, tmp_path, Processes(), torch.device("cpu"), Console(quiet=True)
    )
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert {t.dtype for p in run.model.parameters() for t in run.step.optimizer.state[p].values()} == {torch.float32}
