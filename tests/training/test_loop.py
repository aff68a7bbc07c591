"""The training loop: schedule, averaging, order of batches, exact resume."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relabel.errors import RelabelError
from relabel.settings import Runtime, settings_dict
from relabel.training.ema import applied, moving_average
from relabel.training.loop import build_optimizer, fit, lr_factor, step_seed, total_steps
from relabel.training.order import rows_of_step
from relabel.training.prefetch import prefetch
from relabel.training.settings import TrainSettings

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)


def test_learning_rate_rises_then_falls_to_one_percent() -> None:
    assert lr_factor(0, 100, 0.1) == pytest.approx(0.1)
    assert lr_factor(9, 100, 0.1) == pytest.approx(1.0)
    assert lr_factor(55, 100, 0.1) == pytest.approx(0.505)
    assert lr_factor(100, 100, 0.1) == pytest.approx(0.01)


def test_learning_rate_may_stay_at_its_peak_before_it_falls() -> None:
    assert lr_factor(10, 100, 0.1, 0.25) == lr_factor(74, 100, 0.1, 0.25) == 1.0
    assert lr_factor(75, 100, 0.1, 0.25) == pytest.approx(1.0)
    assert lr_factor(87, 100, 0.1, 0.26) == pytest.approx(0.505)
    assert lr_factor(100, 100, 0.1, 0.25) == pytest.approx(0.01)
    assert [lr_factor(s, 100, 0.1, 1.0) for s in range(100)] == [
        lr_factor(s, 100, 0.1) for s in range(100)
    ]


def test_steps_override_epochs() -> None:
    assert total_steps(TrainSettings(epochs=2, batch_size=4), 10) == 5
    assert total_steps(TrainSettings(epochs=2, batch_size=4, steps=7), 10) == 7


def test_every_epoch_shows_every_image_once() -> None:
    rows = np.concatenate([rows_of_step(10, step, 4, seed=3) for step in range(5)])
    assert sorted(rows[:10]) == list(range(10))
    assert sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_step_seeds_differ_by_step_and_seed_and_fit_a_generator() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 4000
    assert all(0 <= s < 2**63 for s in seeds)


def test_prefetch_keeps_order_whatever_finishes_first() -> None:
    def slow_when_even(i: int) -> int:
        time.sleep(0.01 if i % 2 == 0 else 0)
        return i

    assert list(prefetch(slow_when_even, 3, 20, workers=4)) == list(range(3, 20))
    assert list(prefetch(slow_when_even, 3, 6, workers=0)) == [3, 4, 5]


def test_prefetch_raises_what_a_batch_raised() -> None:
    def broken(i: int) -> int:
        if i == 2:
            raise ValueError("batch 2")
        return i

    got = []
    with pytest.raises(ValueError, match="batch 2"):
        for value in prefetch(broken, 0, 10, workers=2):
            got.append(value)
    assert got == [0, 1]


def test_average_follows_the_weights_with_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = moving_average(model, decay=0.9)
    average.update_parameters(model)
    nn.init.constant_(model.weight, 1.0)
    average.update_parameters(model)  # decay min(0.9, 2/11)
    assert float(average.module.state_dict()["weight"]) == pytest.approx(1 - 2 / 11)
    with applied(average, model):
        assert float(model.weight) == pytest.approx(1 - 2 / 11)
    assert float(model.weight) == 1.0


def test_the_average_is_that_of_single_interpolations_to_the_bit() -> None:
    """Weights and statistics of norms; counters are copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(5))
    model(torch.randn(2, 3, 9, 9))
    average = moving_average(model, decay=0.5, use_buffers=True)
    expected = {}
    for update in range(8):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(2, 3, 9, 9))
        average.update_parameters(model)
        weight = 1 - min(0.5, (1 + update) / (10 + update)) if update else 1
        for name, value in model.state_dict().items():
            mine = value.is_floating_point() and update
            expected[name] = torch.lerp(expected[name], value, weight) if mine else value.clone()
    found = average.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_norms_and_biases_get_no_weight_decay_and_the_backbone_its_own_rate() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = build_optimizer(
        model, TrainSettings(lr=1e-2, backbone_lr_scale=0.1), {id(model[0].weight)}
    )
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found[id(model[0].weight)] == (pytest.approx(1e-3), 0.05)
    assert found[id(model[0].bias)] == (1e-2, 0.0)
    assert found[id(model[1].weight)] == (1e-2, 0.0)


def _problem(model: nn.Module) -> tuple[Any, Any]:
    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=generator)
        return x, x.sum(dim=1, keepdim=True)

    def losses(net: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"mse": nn.functional.mse_loss(net(data[0]), data[1])}

    return batch, losses


def _model() -> nn.Module:
    torch.manual_seed(0)
    # Dropout makes the weights depend on the random state of every step.
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_interrupted_training_resumes_to_the_same_bits(tmp_path: Path, ema: float) -> None:
    settings = TrainSettings(
        steps=30, precision="fp32", checkpoint_every=0.0, ema=ema, lr=1e-2, warmup=0.1
    )

    def train(out: Path, stop_at: int | None = None) -> nn.Module:
        model = _model()
        batch, losses = _problem(model)
        calls = 0

        def stopping(net: nn.Module, data: Any) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return losses(net, data)

        fit(
            model,
            batch,
            stopping,
            steps=30,
            out=out,
            settings=settings,
            runtime=RUNTIME,
            description="test",
        )
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=12)
    resumed = train(tmp_path / "cut")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    log = (tmp_path / "cut" / "training.json").read_bytes()
    assert log == (tmp_path / "whole" / "training.json").read_bytes()


class _Sum:
    """Adds up the first weight after every step: wrong if a step is missed or done twice."""

    def __init__(self) -> None:
        self.total = 0.0
        self.steps: list[int] = []

    def add(self, model: nn.Module, step: int) -> None:
        self.total += float(next(model.parameters()).detach().flatten()[0])
        self.steps.append(step)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.steps = state["total"], list(state["steps"])


def test_further_state_survives_an_interruption(tmp_path: Path) -> None:
    def train(out: Path, stop_at: int = -1) -> _Sum:
        model, sums = _model(), _Sum()
        batch, losses = _problem(model)

        def stopping(step: int) -> Any:
            if step == stop_at:
                raise KeyboardInterrupt
            return batch(step)

        fit(
            model,
            stopping,
            losses,
            steps=10,
            out=out,
            settings=TrainSettings(precision="fp32", checkpoint_every=0.0, lr=1e-2),
            runtime=RUNTIME,
            description="test",
            after_step=sums.add,
            stateful=[sums],
        )
        return sums

    whole = train(tmp_path / "whole")
    assert whole.steps == list(range(1, 11))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=6)
    assert train(tmp_path / "cut").state_dict() == whole.state_dict()


def test_training_learns_and_evaluates(tmp_path: Path) -> None:
    model = _model()
    batch, losses = _problem(model)
    seen: list[int] = []

    def evaluate(net: nn.Module, step: int) -> dict[str, float]:
        seen.append(step)
        x, y = batch(10_000)
        return {"mse": float(nn.functional.mse_loss(net(x), y))}

    settings = TrainSettings(steps=200, precision="fp32", lr=2e-2, eval_every=100)
    result = fit(
        model,
        batch,
        losses,
        steps=200,
        out=tmp_path,
        settings=settings,
        runtime=RUNTIME,
        description="test",
        evaluate=evaluate,
    )
    assert seen == [100, 200]
    # The target's variance is 4: a model that learned nothing scores about that.
    assert result.history[-1]["mse"] < 0.5


def test_a_loss_that_is_not_a_number_is_one_clear_error(tmp_path: Path) -> None:
    model = _model()
    batch, _ = _problem(model)

    def broken(net: nn.Module, data: Any) -> dict[str, Tensor]:
        return {"mse": net(data[0]).sum() * float("nan")}

    with pytest.raises(RelabelError, match=r"loss became nan at step 0.*learning rate"):
        fit(
            model,
            batch,
            broken,
            steps=3,
            out=tmp_path,
            settings=TrainSettings(precision="fp32"),
            runtime=RUNTIME,
            description="test",
        )


def test_the_same_settings_have_the_same_fingerprint_however_they_are_written() -> None:
    written, read = TrainSettings(epochs=12), TrainSettings(epochs=12.0)
    assert json.dumps(settings_dict(written)) == json.dumps(settings_dict(read))
    assert isinstance(settings_dict(TrainSettings(steps=3))["steps"], int)


def test_trainings_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    seen = []

    def losses(net: nn.Module, data: Tensor) -> dict[str, Tensor]:
        seen.append(torch.is_autocast_enabled("cpu"))
        return {"l": net(data).float().pow(2).mean()}

    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        fit(
            nn.Linear(2, 1),
            lambda step: torch.ones(4, 2),
            losses,
            steps=1,
            out=tmp_path / str(number),
            settings=TrainSettings(precision=precision),
            runtime=RUNTIME,
            description="test",
        )
    assert seen == [False, True, False]


def test_a_trained_model_is_the_one_that_its_weights_make(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    settings = TrainSettings(precision="bf16")

    def losses(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {"l2": net(x).float().pow(2).mean()}

    x = torch.randn(4, 3)
    fit(
        model,
        lambda _: x,
        losses,
        steps=2,
        out=tmp_path,
        settings=settings,
        runtime=RUNTIME,
        description="test",
    )
    read_back = nn.Linear(3, 2)
    read_back.load_state_dict(model.state_dict())
    # No rounding to bfloat16 is left from training.
    assert torch.equal(model(x), read_back(x))
