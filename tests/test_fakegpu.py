"""The pretended GPU refuses what CUDA refuses, allows what it allows, and computes what the CPU computes."""

from __future__ import annotations

import copy

import fakegpu
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

GPU = fakegpu.install()


def on_gpu(*shape: int, **options) -> torch.Tensor:
    return torch.ones(*shape, device=GPU, **options)


REFUSED = {
    "a CPU tensor beside it": lambda x: x + torch.ones(3),
    "a CPU mask": lambda x: x.masked_fill(torch.tensor([True, False, True]), 0.0),
    "a CPU condition": lambda x: torch.where(torch.tensor([True, False, True]), x, 0.0),
    "CPU ids": lambda x: functional.embedding(torch.tensor([0]), on_gpu(3, 2)),
    "a CPU index to gather": lambda x: x.gather(0, torch.tensor([0])),
    "a CPU part": lambda x: torch.cat([x, torch.ones(1)]),
    "a device index into a CPU tensor": lambda x: torch.ones(3)[x.long()],
    "a CPU value put in": lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(2)),
    "a sum on the CPU": lambda x: torch.zeros(3).add_(x),
    "a CPU mask of attention": lambda x: functional.scaled_dot_product_attention(
        *[on_gpu(1, 1, 3, 8)] * 3, attn_mask=torch.ones(3, 3, dtype=torch.bool)
    ),
    "a CPU generator": lambda x: torch.rand(3, device=GPU, generator=torch.Generator()),
    "a CPU generator to multinomial": lambda x: torch.multinomial(x, 1, generator=torch.Generator()),
    "numpy": lambda x: x.numpy(),
    "numpy by itself": lambda x: np.asarray(x),
    "comparing": lambda x: torch.equal(x, torch.ones(3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name):
    with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|can't convert|either on cpu"):
        REFUSED[name](on_gpu(3))


def test_what_cuda_allows_is_allowed():
    x = on_gpu(3)
    assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3  # a number, whatever it is wrapped in
    assert x[torch.tensor([0, 1])].shape == (2,)
    assert x[torch.tensor([True, False, False])].shape == (1,)
    x[1:] = torch.zeros(2)  # a copy
    assert x.cpu().numpy().tolist() == [1.0, 0.0, 0.0]
    assert float(x.sum()) == 1.0


def test_views_share_memory_and_in_place_operators_return_themselves():
    x = on_gpu(2, 3)
    x.t()[0].zero_()
    assert x.tolist() == [[0.0, 1.0, 1.0]] * 2
    assert x.add_(1.0) is x
    assert x.chunk(2)[1].data_ptr() == x.data_ptr() + 12


def test_training_gives_the_cpus_numbers():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    x, found = torch.randn(5, 3), []
    for device in ("cpu", GPU):
        model = copy.deepcopy(plain).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True)
        for _ in range(3):
            optimizer.zero_grad()
            model(x.to(device)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        found.append([p.detach().cpu() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[1][0], plain[0].weight)


def test_fp16_products_are_rounded_once():
    torch.manual_seed(0)
    a, b = (torch.randn(4, 900).half() for _ in range(2))
    exact = (a.double() @ b.double().T).half()
    assert torch.equal((a.to(GPU) @ b.to(GPU).T).cpu(), exact)
    assert torch.equal(torch.mm(a.to(GPU), b.to(GPU).T, out=torch.empty(0, device=GPU).half()).cpu(), exact)
    assert (on_gpu(1, 9, dtype=torch.float16) * 1e4 @ on_gpu(9, 1, dtype=torch.float16)).item() == float(
        "inf"
    )


def test_autocast_is_cudas():
    x, w = on_gpu(2, 4), on_gpu(4, 4)
    with torch.autocast("fakegpu", torch.float16):
        assert (x @ w).dtype == torch.float16
        assert (x @ w).softmax(-1).dtype == torch.float32  # on a CPU it stays in 16 bits
        assert (x @ w).sum().dtype == torch.float32


def test_it_can_be_saved_loaded_and_copied(tmp_path):
    model = torch.nn.Linear(3, 2).to(GPU)
    assert copy.deepcopy(model).weight.device.type == "fakegpu"
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with fakegpu.trainers():
        assert torch.load(tmp_path / "a.pt")["weight"].device.type == "fakegpu"
    assert torch.load(tmp_path / "a.pt", map_location="cpu")["weight"].device.type == "cpu"
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["weight"], model.weight.detach().cpu())


def test_it_has_its_own_random_numbers():
    torch.manual_seed(1)
    here, there = torch.rand(3), torch.rand(3, device=GPU)
    torch.manual_seed(1)
    torch.rand(5, device=GPU)
    assert torch.equal(torch.rand(3), here)  # the CPU's went on as if nothing had been drawn there
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3, device=GPU).cpu(), there.cpu())


def test_what_waits_for_the_device_is_counted():
    x, before = on_gpu(3), fakegpu.transfers.total()
    assert bool(x[0] > 0)
    x.tolist()
    x.cpu()
    assert fakegpu.transfers.total() == before + 3
    x * 2
    assert fakegpu.transfers.total() == before + 3


def test_outside_its_block_nobody_finds_it():
    from accelerate import PartialState

    with fakegpu.course("fp16") as device:
        assert torch.accelerator.is_available()
        assert PartialState().device == device
    assert not torch.accelerator.is_available()
    assert PartialState().device.type == "cpu"
