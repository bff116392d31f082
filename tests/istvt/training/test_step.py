"""The training step: gradient and update, steps that are not finite, no synchronization with the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.config import TrainingSettings
from istvt.training.compile import accelerate
from istvt.training.distributed import Processes
from istvt.training.optim import STEPS_TO_GROW, LossScale, build_optimizer, warmup_cosine
from istvt.training.step import Distillation, TrainingStep, batches_by_position

CONFIG = ISTVTConfig(
    frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8)
)  # 3x3 positions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Batch:
    """The fields of a `dataloading.clips.loader.Batch`, whose module needs video packages."""

    clips: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    rehearsed: torch.Tensor | None = None


def batch(seed: int, size: int = 4, device: str = "cpu") -> Batch:
    random = torch.Generator().manual_seed(seed)
    clips = torch.rand(size, 3, 3, 40, 40, generator=random) * 2 - 1
    return Batch(clips.to(device), (torch.arange(size) % 2).float().to(device), torch.arange(size))


def made(training: TrainingSettings, dtype: torch.dtype = torch.float32, device: str = "cpu") -> TrainingStep:
    torch.manual_seed(0)
    model = ISTVT(CONFIG).train().to(device)
    return TrainingStep(model, model, build_optimizer(model, training), dtype, training, Processes())


def state(step: TrainingStep) -> dict[str, torch.Tensor]:
    """Everything that a step may change: floating-point weights and statistics, and the optimizer's state."""
    tensors = {name: t for name, t in step.model.state_dict().items() if t.is_floating_point()}
    for name, parameter in step.model.named_parameters():
        tensors |= {f"{name}.{key}": value for key, value in step.optimizer.state[parameter].items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_is_mean_loss_clipped_norm_and_pytorchs_optimizer(optimizer):
    training = TrainingSettings(optimizer=optimizer, batch_size=4, gradient_clip=0.5)
    ours = made(training)
    model = made(training).model
    groups = [
        {"params": [p for n, p in model.named_parameters() if p.dim() > 1 and "embedding" not in n]},
        {"params": [p for n, p in model.named_parameters() if p.dim() <= 1 or "embedding" in n], "weight_decay": 0.0},
    ]
    textbook = (
        torch.optim.AdamW(groups, lr=1e-3, weight_decay=training.weight_decay)
        if optimizer == "adamw"
        else torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=training.weight_decay)
    )
    for seed in range(3):
        ours(iter([batch(seed)]), 1, 1e-3)
        textbook.zero_grad()
        functional.binary_cross_entropy_with_logits(model(batch(seed).clips), batch(seed).labels).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5) > 0.5  # or the clipping is not tested
        textbook.step()
    for (name, expected), actual in zip(model.named_parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_batches_of_different_sizes_accumulate_to_the_mean_over_their_clips():
    whole = batch(0, size=4)
    parts = [
        Batch(whole.clips[:3], whole.labels[:3], whole.indices[:3]),
        Batch(whole.clips[3:], whole.labels[3:], whole.indices[3:]),
    ]
    results = []
    for batches, accumulation in (([whole], 1), (parts, 2)):
        step = made(TrainingSettings(batch_size=4, accumulation=accumulation, gradient_clip=0, optimizer="sgd"))
        step.model.backbone.eval()  # batch statistics would differ between the parts
        step(iter(batches), accumulation, 0.1)
        results.append((state(step), step.counts()))
    for name, tensor in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], tensor, rtol=1e-4, atol=1e-6)
    assert results[0][1].loss_sum == pytest.approx(results[1][1].loss_sum)
    assert results[0][1].clips == results[1][1].clips == 4


def test_distillation_is_the_divergence_from_an_old_networks_probability_and_zero_where_they_agree():
    torch.manual_seed(1)
    old, clips = ISTVT(CONFIG).eval(), batch(0).clips
    loss = Distillation(old, weight=3.0, temperature=2.0)
    with torch.no_grad():
        agreed = old(clips)
    logits = (agreed + torch.tensor([0.0, 0.5, -1.0, 4.0])).requires_grad_()
    found = loss(clips, logits, torch.float32)
    was, now = (torch.distributions.Bernoulli(logits=z / 2) for z in (agreed, logits))
    torch.testing.assert_close(found, 12 * torch.distributions.kl_divergence(was, now), rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert logits.grad[0].abs() < 1e-6
    assert all(parameter.grad is None for parameter in old.parameters())


def test_a_step_distills_on_rehearsed_clips_alone():
    """The places of rehearsed clips are those of the batch before it is filled."""
    torch.manual_seed(1)
    old = ISTVT(CONFIG).eval()
    found = {}
    for name, rehearsed in {"none": None, "some": [1, 2]}.items():
        training = TrainingSettings(batch_size=6)
        step = made(training)
        step.distillation = Distillation(old, 1.0, 2.0)
        part = batch(0)
        part.rehearsed = rehearsed and torch.tensor(rehearsed)
        with torch.no_grad():
            filled = part.clips[torch.arange(6) % 4]
            logits = made(training).model(filled)[:4]
            labels = functional.binary_cross_entropy_with_logits(logits, part.labels, reduction="sum")
            kept = step.distillation(part.clips, logits, torch.float32)
        step(iter([part]), 1, 1e-3)
        found[name] = step.counts().loss_sum, (labels + (kept[[1, 2]].sum() if rehearsed else 0)).item()
    for actual, expected in found.values():
        assert actual == pytest.approx(expected, rel=1e-4)
    assert found["some"][0] > found["none"][0]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", DTYPES)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(precision, optimizer):
    step = made(TrainingSettings(batch_size=4, optimizer=optimizer), DTYPES[precision])
    bad = batch(1)
    bad.clips[0, 0, 0, 0, 0] = float("nan")
    before = state(step)
    step(iter([bad]), 1, 1e-3)
    assert equal(before, state(step))
    assert step.counts().skipped_steps == 1
    assert step.counts().clips == 0
    step(iter([batch(2)]), 1, 1e-3)
    after = state(step)
    assert not equal(before, after)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert step.counts().clips == 4


def test_steps_that_are_not_finite_are_counted_in_a_row():
    step = made(TrainingSettings(batch_size=4))
    bad = Batch(torch.full((4, 3, 3, 40, 40), float("inf")), torch.zeros(4), torch.arange(4))
    for batches, longest in ((bad, 1), (bad, 2), (batch(0), 2), (bad, 2), (bad, 2), (bad, 3)):
        step(iter([batches]), 1, 1e-3)
        assert step.counts().longest_row == longest
    assert step.counts().skipped_steps == 5


def test_a_float16_overflow_halves_the_loss_scale_and_many_finite_steps_double_it():
    scale = LossScale(torch.device("cpu"), torch.float16)
    first = scale.value.item()
    scale.update(torch.tensor(False))
    assert scale.value.item() == first / 2
    for _ in range(STEPS_TO_GROW):
        assert scale.value.item() == first / 2
        scale.update(torch.tensor(True))
    assert scale.value.item() == first
    assert LossScale(torch.device("cpu"), torch.bfloat16).value.item() == 1


def test_a_loss_scale_that_overflows_costs_steps_and_not_weights():
    step = made(TrainingSettings(batch_size=4), torch.float16)
    step.loss_scale.value.fill_(2.0**40)
    before = state(step)
    step(iter([batch(0)]), 1, 1e-3)
    assert equal(before, state(step))
    assert step.loss_scale.value.item() == 2.0**39


def test_the_loss_scale_leaves_the_step_as_it_is():
    """float32 arithmetic with and without a scale: the weights agree, so unscaling is right."""
    steps = [made(TrainingSettings(batch_size=4)) for _ in range(2)]
    steps[1].loss_scale.value.fill_(1024.0)
    for step in steps:
        step(iter([batch(0)]), 1, 1e-3)
    assert equal(state(steps[0]), state(steps[1]))  # a power of two: not even the rounding differs


class NothingIsRead(TorchDispatchMode):
    """Fails where a tensor's value is brought to the host: .item(), bool(), float(), if tensor."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert "_local_scalar_dense" not in str(function), "a step waits for the device"
        assert "nonzero" not in str(function), "a step waits for the device"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("precision", DTYPES)
def test_a_step_reads_nothing_back_from_the_device(precision):
    step = made(TrainingSettings(batch_size=4, accumulation=2, ema_decay=0.99), DTYPES[precision])
    with NothingIsRead():
        step(iter([batch(0), batch(1)]), 2, 1e-3)
        step(iter([batch(0), None]), 2, 1e-3)
    with pytest.raises(AssertionError, match="waits"), NothingIsRead():
        assert torch.ones(()) > 0  # the mode sees what it should


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_synchronizes():
    step = made(TrainingSettings(batch_size=4, accumulation=2, ema_decay=0.99), torch.bfloat16, "cuda")
    batches = [batch(0, device="cuda"), batch(1, device="cuda")]  # a copy to the device waits for it
    step(iter(batches), 2, 1e-3)  # kernels are compiled here
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(iter(batches), 2, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.counts().clips == 16


def test_the_average_of_the_weights_is_what_it_says_and_skipped_steps_do_not_count():
    step = made(TrainingSettings(batch_size=4, ema_decay=0.15))
    expected = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    infinite = batch(3)
    infinite.clips[0, 0, 0, 0, 0] = float("nan")
    for number, decay in enumerate((0.1, 0.15, 0.15)):  # (1 + n) / (10 + n) is below 0.15 for n = 0 alone
        step(iter([batch(number)]), 1, 1e-2)
        for name, tensor in step.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
        step(iter([infinite]), 1, 1e-2)
        step(iter([None]), 1, 1e-2)
    assert step.counts().skipped_steps == 3
    assert step.average.updates == 3
    for name, tensor in step.average.whole().items():
        if not tensor.is_floating_point():
            continue
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.allclose(step.average.tensors["head.weight"], step.model.head.weight, atol=1e-4)


def test_a_step_without_a_single_clip_changes_nothing_and_is_no_divergence():
    step = made(TrainingSettings(batch_size=4))
    step(iter([batch(0)]), 1, 1e-3)
    before = state(step)
    step(iter([None]), 1, 1e-3)
    assert equal(before, state(step))
    assert step.counts().skipped_steps == 0
    assert step.counts().clips == 4


class FourBatchesOfTwo:
    """Stands for a loader of eight clips that gives the batches at `places`."""

    batch_size = 2

    def __init__(self, places: list[int]) -> None:
        self.places = places

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Batch]:
        for place in self.places:
            yield Batch(torch.zeros(1), torch.zeros(1), torch.tensor([2 * place + 1]))


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [1, 2], [0, 3], [3], []])
def test_every_batch_of_an_epoch_has_its_position_even_if_it_is_empty(places):
    # Another process has a clip more than this one, and with it a batch.
    given = list(batches_by_position(FourBatchesOfTwo(places), 5))
    assert [place for place, item in enumerate(given) if item is not None] == places
    assert len(given) == 5


@pytest.mark.parametrize("size", [1, 3])
def test_a_short_batch_teaches_a_compiled_step_what_it_teaches_an_eager_one(size):
    """Only compiled steps filled it up, so that repeated clips were in the batch statistics of these alone."""
    states = []
    for execution in ("eager", "compile"):
        torch._dynamo.reset()
        training = TrainingSettings(batch_size=4, execution=execution, optimizer="sgd")
        step = made(training)
        accelerate(step.model, training, backend="eager")
        step(iter([batch(0, size=size)]), 1, 0.1)
        assert step.counts().clips == size
        states.append(state(step))
    for name, tensor in states[0].items():
        torch.testing.assert_close(
            states[1][name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_without_a_single_clip_leaves_the_step_of_the_others_as_it_is(precision):
    """It runs with zeros in place of clips, and their statistics used to be counted with the weight of real clips."""
    states = []
    for batches in ([batch(0)], [None, batch(0)], [batch(0), None]):
        step = made(TrainingSettings(batch_size=4, accumulation=2), DTYPES[precision])
        step(iter(batches), len(batches), 1e-3)
        assert step.counts().clips == 4
        states.append(state(step))
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


@pytest.mark.parametrize("execution", ["eager", "compile"])
def test_a_step_sees_one_shape_and_filling_it_up_adds_no_clip(execution):
    step = made(TrainingSettings(batch_size=4, execution=execution))
    shapes = []
    step.model.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    for item in (batch(0), batch(1, size=3), batch(2, size=1), None):
        step(iter([item]), 1, 1e-3)
    assert set(shapes) == {(4, 3, 3, 40, 40)}
    assert step.counts().clips == 8


def test_sgd_for_sharded_parameters_is_refused_in_one_sentence(tmp_path):
    """PyTorch's fused SGD has no rule for DTensors: once two processes with fsdp crashed in their first step."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = ISTVT(CONFIG)
        fully_shard(model)
        with pytest.raises(InputError, match=r"optimizer is 'sgd' and training\.parallel 'fsdp'.*use ddp, or adamw"):
            build_optimizer(model, TrainingSettings(optimizer="sgd"))
        assert build_optimizer(model, TrainingSettings(optimizer="adamw")).state
    finally:
        torch.distributed.destroy_process_group()


def test_the_learning_rate_warms_up_linearly_and_falls_to_zero_as_a_cosine():
    rates = [warmup_cosine(step, 4, 24) for step in range(25)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1
    assert rates[14] == pytest.approx(0.5)
    assert rates[24] == pytest.approx(0)
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
