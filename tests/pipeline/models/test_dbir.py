import math

import pytest
import torch

from pipeline.models.dbir import Dbir, balance_term, make_router, routing_stats

MODES = ("global", "regional", "dual")


def moved_router(mode="dual", **more) -> Dbir:
    """A router whose embeddings have left their start at zero."""
    torch.manual_seed(0)
    router = make_router(mode, 24, 4, **more)
    torch.nn.init.normal_(router.embeddings)
    if router.attend is not None:
        torch.nn.init.normal_(router.attend.weight)
    return router


@pytest.mark.parametrize("mode", ["static", *MODES])
def test_routing_starts_uniform(mode):
    weights = make_router(mode, 24, 4)(torch.randn(5, 10, 24))
    assert torch.allclose(weights, torch.ones(5, 4))


@pytest.mark.parametrize("mode", MODES)
def test_weights_sum_to_the_number_of_adapters_and_depend_on_the_sample(mode):
    weights = moved_router(mode)(torch.randn(5, 10, 24))
    assert torch.allclose(weights.sum(dim=1), torch.full((5,), 4.0))
    assert weights.min() > 0 and weights.std(dim=0).min() > 1e-3


@pytest.mark.parametrize(("prefix", "class_token"), [(1, True), (5, True), (0, False)])
@pytest.mark.parametrize("mode", MODES)
def test_order_of_patches_does_not_matter(mode, prefix, class_token):
    router = moved_router(mode, prefix_tokens=prefix, class_token=class_token)
    tokens = torch.randn(3, 14, 24)
    order = torch.cat([torch.arange(prefix), prefix + torch.randperm(14 - prefix)])
    assert torch.allclose(router(tokens), router(tokens[:, order]), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_is_routed_alike_in_any_batch(mode):
    router, tokens = moved_router(mode), torch.randn(6, 10, 24)
    alone = router(tokens[2:3])
    assert torch.allclose(router(tokens)[2:3], alone, atol=1e-5)
    assert torch.allclose(router(torch.cat([100 * tokens[:1], tokens[2:3]]))[1:], alone, atol=1e-5)


def test_branches_see_what_they_are_named_after():
    tokens = torch.randn(2, 10, 24)
    other_patches = torch.cat([tokens[:, :1], torch.randn(2, 9, 24)], dim=1)
    other_class = torch.cat([torch.randn(2, 1, 24), tokens[:, 1:]], dim=1)
    by_class, by_region = moved_router("global"), moved_router("regional")
    assert torch.equal(by_class(tokens), by_class(other_patches))
    assert not torch.allclose(by_class(tokens), by_class(other_class))
    assert torch.equal(by_region(tokens), by_region(other_class))
    assert not torch.allclose(by_region(tokens), by_region(other_patches))


def test_dual_matches_the_written_equations():
    router, tokens = moved_router("dual", tau=0.7), torch.randn(3, 10, 24)
    x_c, patches = tokens[:, 0], tokens[:, 1:]
    norm = torch.nn.LayerNorm(24, elementwise_affine=False)
    u = router.down_global(norm(x_c))
    a = torch.softmax(norm(patches) @ router.attend.weight[0], dim=1)
    v = router.down_regional(torch.einsum("bl,bld->bd", a, patches))
    query = u * torch.sigmoid(router.gate_regional(v)) + v * torch.sigmoid(router.gate_global(u))
    rows = router.embeddings
    rows = rows + torch.softmax(rows @ rows.T / math.sqrt(8), dim=1) @ rows
    expected = 4 * torch.softmax(query @ rows.T / 0.7, dim=1)
    assert torch.allclose(router(tokens), expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_the_embeddings_first_and_then_every_branch(mode):
    torch.manual_seed(0)
    router = make_router(mode, 24, 4)
    tokens, towards = torch.randn(6, 10, 24), torch.randn(6, 4)
    optimizer = torch.optim.SGD(router.parameters(), lr=0.1)
    (router(tokens) * towards).sum().backward()
    assert router.embeddings.grad.abs().sum() > 0
    optimizer.step()
    optimizer.zero_grad()
    (router(tokens) * towards).sum().backward()
    silent = [name for name, p in router.named_parameters() if p.grad.abs().sum() == 0]
    assert silent == []


def test_mode_none_has_no_router():
    assert make_router("none", 24, 4) is None


def test_balance_term_is_the_squared_coefficient_of_variation():
    uniform, skewed = torch.ones(3, 2), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert balance_term([uniform]) == 0
    assert torch.isclose(balance_term([uniform, skewed]), torch.tensor(0.5 * 0.25))
    opposite = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert balance_term([opposite]) == 0


def test_balance_term_pulls_a_skewed_router_back():
    router = make_router("static", 24, 4)
    router.logits.data = torch.tensor([2.0, 0.0, 0.0, 0.0])
    optimizer = torch.optim.SGD(router.parameters(), lr=0.5)
    tokens, start = torch.zeros(2, 3, 24), None
    for _ in range(50):
        optimizer.zero_grad()
        loss = balance_term([router(tokens)])
        start = start or loss.item()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * start


def test_stats_of_uniform_and_of_collapsed_routing():
    collapsed = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    stats = routing_stats([torch.ones(2, 2), collapsed], (4, 16))
    assert torch.isclose(stats["router/block00/entropy"], torch.tensor(math.log(2)))
    assert stats["router/block01/entropy"] == 0
    assert stats["router/block01/share_s16"] == 1
    assert torch.isclose(stats["router/share_s4"], torch.tensor(0.25))
    assert all(value.dim() == 0 for value in stats.values())
