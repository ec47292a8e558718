"""Cross entropy, DSM and its scaling against loops in float64, and what keeps them finite."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses import balanced_weights, cross_entropy, dsm_loss, gather, global_mean, lambdas
from pipeline.metrics import IGNORED


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def variance_reference(z):
    if len(z) < 2:
        return 0.0
    total = 0.0
    for d in range(len(z[0])):
        column = [row[d] for row in z]
        mean = sum(column) / len(column)
        total += sum((value - mean) ** 2 for value in column) / (len(column) - 1)
    return total


def paper_reference(z, labels, tau, eta, beta_ib):
    anchors = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        partition = 0.0
        for a in others:
            s = dot(z[i], z[a])
            partition += math.exp(s / tau) * math.exp(-((s - eta) ** 2) / (2 * eta**2))
        anchors.append(-sum(dot(z[i], z[p]) / tau - math.log(partition) for p in positives) / len(positives))
    contrastive = sum(anchors) / len(anchors) if anchors else 0.0
    return contrastive + beta_ib * variance_reference(z), contrastive


def released_reference(z, labels, tau, eta, beta_ib):
    anchors = []
    for i in range(len(z)):
        logits = [dot(z[i], other) / tau for other in z]
        logits = [logit - max(logits) for logit in logits]
        weights = [math.exp(-0.5 * ((logit - eta) / eta) ** 2) for logit in logits]
        log_partition = math.log(sum(math.exp(logit) for logit in logits))
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        terms = [weights[p] / sum(weights) * (logits[p] - log_partition) for p in positives]
        anchors.append(-sum(terms) / max(1, len(positives)))
    contrastive = sum(anchors) / len(anchors)
    return contrastive - beta_ib * (variance_reference(z) + 1e-6 * len(z[0])), contrastive


def unit_rows(features):
    return [[value / math.sqrt(dot(row, row)) for value in row] for row in features.tolist()]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 7),
    width=st.integers(1, 6),
    seed=st.integers(0, 999),
    tau=st.floats(0.05, 1),
    eta=st.floats(0.1, 1),
    beta_ib=st.floats(0, 1),
)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_dsm_equals_its_equations(variant, rows, width, seed, tau, eta, beta_ib):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, width, dtype=torch.float64, generator=generator) * 5
    label = torch.randint(3, (rows,), generator=generator)
    reference = paper_reference if variant == "paper" else released_reference
    loss, contrastive = reference(unit_rows(features), label.tolist(), tau, eta, beta_ib)
    result = dsm_loss(features, label, tau=tau, eta=eta, beta_ib=beta_ib, variant=variant)
    assert result.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-9)
    assert result.contrastive.item() == pytest.approx(contrastive, rel=1e-9, abs=1e-9)


def test_the_variance_has_the_coefficient_of_its_variant():
    features, label = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    paper, released = dsm_loss(features, label), dsm_loss(features, label, variant="released")
    torch.testing.assert_close(paper.loss, paper.contrastive + 0.1 * paper.variance)
    torch.testing.assert_close(released.loss, released.contrastive - 0.5 * released.variance)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_dsm_gradients_are_right(variant):
    torch.manual_seed(0)
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 0, 1, IGNORED, 1])
    # The released loss detaches its row maximum, which cancels in value but not in a finite difference.
    if variant == "paper":
        assert torch.autograd.gradcheck(lambda x: dsm_loss(x, label).loss, (features,))
    dsm_loss(features, label, variant=variant).loss.backward()
    assert features.grad[3].abs().max() == 0 and features.grad[:3].abs().min() > 0
    # Only the direction of a feature counts, so no gradient points along it.
    along = (features.grad * features).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-10)


def test_padding_rows_change_nothing():
    torch.manual_seed(0)
    features, label = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 2, 0])
    padded = torch.cat([features[:2], 9 * torch.randn(3, 4), features[2:]])
    padded_label = torch.cat([label[:2], torch.full((3,), IGNORED), label[2:]])
    for variant in ("paper", "released"):
        plain = dsm_loss(features, label, variant=variant)
        torch.testing.assert_close(tuple(dsm_loss(padded, padded_label, variant=variant)), tuple(plain))


def test_pulling_classes_apart_lowers_the_loss():
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    apart = torch.eye(2)[label]
    mixed = torch.eye(2)[torch.tensor([0, 1, 0, 1, 0, 1])]
    assert dsm_loss(apart, label).contrastive < dsm_loss(mixed, label).contrastive - 5


def test_gradient_descent_on_dsm_gathers_the_classes():
    torch.manual_seed(0)
    features, label = torch.randn(12, 8, requires_grad=True), torch.arange(12) % 3
    optimizer = torch.optim.SGD([features], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        dsm_loss(features, label).loss.backward()
        optimizer.step()
    z = torch.nn.functional.normalize(features.detach(), dim=1)
    same = label[:, None] == label
    assert (z @ z.T)[same].min() > 0.9 and (z @ z.T)[~same].max() < 0.7


CASES = {
    "one clip": (torch.randn(1, 4), [2]),
    "no positive pair": (torch.randn(3, 4), [0, 1, 2]),
    "one class": (torch.randn(4, 4), [1, 1, 1, 1]),
    "padding only": (torch.randn(3, 4), [IGNORED] * 3),
    "equal features": (torch.ones(4, 4), [0, 0, 1, 1]),
    "opposite features": (torch.tensor([[1.0], [-1.0], [1.0]]), [0, 0, 1]),
    "zero features": (torch.zeros(4, 4), [0, 0, 1, 1]),
    "one zero row": (torch.cat([torch.zeros(1, 4), torch.randn(3, 4)]), [0, 0, 1, 1]),
    "huge features": (torch.randn(4, 4) * 1e37, [0, 0, 1, 1]),
    "tiny features": (torch.randn(4, 4) * 1e-9, [0, 0, 1, 1]),
}


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_dsm_stays_finite(case, dtype, variant):
    features, label = CASES[case]
    features = features.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = dsm_loss(features, torch.tensor(label), variant=variant)
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert all(part.isfinite() for part in result) and features.grad.isfinite().all()


@pytest.mark.parametrize("case", ["one clip", "no positive pair", "padding only"])
def test_without_a_positive_pair_nothing_contrasts(case):
    features, label = CASES[case]
    assert dsm_loss(features, torch.tensor(label)).contrastive == 0


def test_the_size_of_features_does_not_matter():
    features, label = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = dsm_loss(features, label).loss
    for scale in (1e-8, 1e8, 1e30):
        torch.testing.assert_close(dsm_loss(features * scale, label).loss, expected, rtol=1e-5, atol=1e-5)


def test_gather_on_one_rank_passes_through():
    features, label = torch.randn(2, 3, requires_grad=True), torch.tensor([0, 1])
    assert gather(features, label)[0] is features and gather(features, label)[1] is label


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 6),
    smoothing=st.floats(0, 0.9),
    weighted=st.booleans(),
    seed=st.integers(0, 999),
    padding=st.integers(0, 2),
)
def test_cross_entropy_equals_its_equation(rows, smoothing, weighted, seed, padding):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows + padding, 4, dtype=torch.float64, generator=generator)
    label = torch.randint(4, (rows,), generator=generator)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0]) if weighted else None
    expected = 0.0
    for row, target in zip(logits.tolist(), label.tolist(), strict=False):
        log_partition = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            wanted = (1 - smoothing) * (k == target) + smoothing / 4
            expected -= (weights[k].item() if weighted else 1) * wanted * (value - log_partition)
    padded = torch.cat([label, torch.full((padding,), IGNORED)])
    total, count = cross_entropy(logits, padded, smoothing=smoothing, class_weights_K=weights)
    assert total.item() == pytest.approx(expected, rel=1e-9, abs=1e-9) and count == rows
    assert global_mean(total, count).item() == pytest.approx(expected / rows, rel=1e-9, abs=1e-9)


def test_a_batch_of_padding_has_zero_loss_and_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = global_mean(*cross_entropy(logits, torch.full((2,), IGNORED), smoothing=0.1))
    loss.backward()
    assert loss == 0 and logits.grad.abs().max() == 0


def test_cross_entropy_is_computed_in_float32_under_autocast():
    logits = torch.tensor([[300.0, 0.0]], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = cross_entropy(logits, torch.tensor([1]))
    assert total.dtype == torch.float32 and total == 300


def test_balanced_weights_average_to_one_over_the_clips():
    counts = torch.tensor([90, 9, 0, 1])
    weights = balanced_weights(counts.tolist())
    assert weights[2] == 0
    torch.testing.assert_close((weights * counts)[[0, 1, 3]], torch.full((3,), 100 / 3))


@given(g=st.floats(0, 1e30))
def test_lambdas_shift_weight_with_the_gradient(g):
    ce, sc = lambdas(g, alpha=10, beta=0.1)
    assert ce == pytest.approx(10 * g / (g + 1)) and sc == pytest.approx(0.1 / (g + 1))
    assert 0 <= ce <= 10 and 0 < sc <= 0.1
    assert lambdas(g, alpha=10, beta=0.1, variant="released") == (10, 0.1)


def test_lambdas_at_start_and_without_meaning():
    assert lambdas(1.0) == (5.0, 0.05)
    for g in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            lambdas(g)
