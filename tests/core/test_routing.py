"""Learned boundaries: what is chosen, what the cap forces, and where the gradients push."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig, LearnedGroups, Level
from hrt_mm.core.per_step import training_step
from hrt_mm.core.plan import LevelPlan
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.routing import DifferenceRouter, Router, Routing
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.core.transition import TopDown, Transition

DIM = 16


def router(target: float = 3, longest: int = 5) -> DifferenceRouter:
    return DifferenceRouter(DIM, LearnedGroups(type="learned", target=target, max=longest))


def blocks(lengths: list[int]) -> Tensor:
    """Tokens alike within runs; neighbours of two runs point opposite ways, so that a fresh router sees the border."""
    sign = torch.tensor([(-1.0) ** index for index in range(len(lengths))])
    return torch.cat([sign[i].expand(length, DIM) for i, length in enumerate(lengths)]) + 0.01 * torch.randn(
        sum(lengths), DIM
    )


def decide(x: Tensor, lengths: list[int], **kwargs: int) -> Routing:
    result: Routing = router(**kwargs)(x, Spans.from_lengths(lengths))
    return result


def test_a_fresh_router_cuts_where_neighbours_differ() -> None:
    routing = decide(blocks([3, 2, 4]), [9])
    assert routing.starts_T.nonzero().flatten().tolist() == [0, 3, 5]
    assert routing.forced == 0


def test_every_sample_starts_a_group() -> None:
    routing = decide(torch.ones(9, DIM), [3, 0, 4, 2, 0])
    assert routing.starts_T.nonzero().flatten().tolist() == [0, 3, 7]


@pytest.mark.parametrize("longest", [1, 2, 4, 7])
def test_no_group_is_longer_than_the_cap(longest: int) -> None:
    samples = Spans.from_lengths([13, 0, 5, 30])
    for seed in range(20):
        torch.manual_seed(seed)
        one = router(target=1.5, longest=max(2, longest))
        one.max_length = longest
        for parameter in one.parameters():
            nn.init.normal_(parameter)
        starts_T = one(torch.randn(48, DIM), samples).starts_T
        assert Spans.from_starts(starts_T, samples)[0].max_seqlen <= longest


def test_the_share_that_the_cap_forced_is_told() -> None:
    routing = decide(torch.ones(10, DIM), [10], longest=5)
    assert routing.starts_T.nonzero().flatten().tolist() == [0, 5]
    assert routing.forced == 0.5


@pytest.mark.parametrize("lengths", [[0], [], [1], [0, 0], [1, 1]], ids=str)
def test_tiny_batches(lengths: list[int]) -> None:
    routing = decide(torch.randn(sum(lengths), DIM), lengths)
    assert routing.starts_T.all()
    assert routing.loss is not None and routing.loss.isfinite()
    assert routing.forced == 0


def test_the_confidence_is_exactly_one_and_pushes_towards_the_decision() -> None:
    x = torch.randn(200, DIM, requires_grad=True)
    routing = decide(x, [200], target=2)
    assert routing.confidence_T.eq(1).all()
    one = router()
    probabilities: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        probabilities.append(output)

    one.here.register_forward_hook(keep)
    routing = one(x, Spans.from_lengths([200]))
    grad = torch.autograd.grad(routing.confidence_T.sum(), probabilities[0])[0]
    # A step along the gradient makes neighbours at a start differ more, and within a group alike more.
    moved = probabilities[0].detach() + 0.1 * grad
    before = one.before(nn.functional.rms_norm(x, (DIM,), eps=1e-6)[:-1]).detach()
    change = nn.functional.cosine_similarity(before, moved, dim=-1) - nn.functional.cosine_similarity(
        before, probabilities[0].detach(), dim=-1
    )
    chosen = routing.starts_T[1:]
    assert change[chosen].sum() < 0
    assert change[~chosen].sum() > 0


def test_the_loss_is_least_at_the_target() -> None:
    one = router(target=4)

    def at(share: float) -> float:
        chosen = torch.arange(1000) < share * 1000
        return float(one._ratio_loss(chosen, chosen.float()))

    assert at(0.25) == pytest.approx(1, abs=1e-5)
    shares = [0.02, 0.1, 0.2, 0.25, 0.3, 0.5, 0.9]
    values = [at(share) for share in shares]
    assert min(values) == at(0.25)
    assert values == sorted(values[:4], reverse=True) + sorted(values[4:])


@pytest.mark.parametrize(("share", "sign"), [(0.6, 1), (0.05, -1)], ids=["too-many", "too-few"])
def test_the_loss_pushes_probabilities_towards_the_target(share: float, sign: int) -> None:
    prob_T = torch.rand(500, requires_grad=True)
    chosen_T = torch.arange(500) < share * 500
    (grad,) = torch.autograd.grad(router(target=4)._ratio_loss(chosen_T, prob_T), prob_T)
    assert (grad.sign() == sign).all()


def test_the_decision_at_a_token_looks_at_no_later_one() -> None:
    one = router().eval()
    samples = Spans.from_lengths([30])
    x = torch.randn(30, DIM)
    whole = one(x, samples)
    for at in range(30):
        changed = x.clone()
        changed[at:] = torch.randn(30 - at, DIM)
        assert torch.equal(one(changed, samples).starts_T[:at], whole.starts_T[:at])


SYMBOLS, SEGMENTS = 6, 40


class Planted:
    """Segments of noisy copies of a symbol; the targets are the symbols, and nothing tells where segments start."""

    def __init__(self) -> None:
        self.table = torch.randn(SYMBOLS, DIM)

    def draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(2, 7, (SEGMENTS,), generator=generator)
        steps = torch.randint(1, SYMBOLS, (SEGMENTS,), generator=generator)
        label_T = (steps.cumsum(0) % SYMBOLS).repeat_interleave(lengths)
        x_TD = self.table[label_T] + 0.3 * torch.randn(len(label_T), DIM, generator=generator)
        starts_T = torch.zeros(len(label_T), dtype=torch.bool)
        starts_T[lengths.cumsum(0)[:-1]] = starts_T[0] = True
        return x_TD, label_T, starts_T

    def f1(self, one: Router) -> float:
        scores = []
        for seed in range(5):
            x_TD, _, starts_T = self.draw(seed)
            found_T = one(x_TD, Spans.from_lengths([len(x_TD)])).starts_T
            scores.append(float(2 * (found_T & starts_T).sum() / (found_T.sum() + starts_T.sum())))
        return sum(scores) / len(scores)


@pytest.mark.parametrize(("reads", "least"), [("coarse", 0.65), ("down", 0.85)])
def test_planted_boundaries_are_learned_from_the_task_alone(reads: str, least: float) -> None:
    """Whether the task reads the groups' tokens, or what each token gets back from its group."""
    torch.manual_seed(2)
    data = Planted()
    fine = Level(
        name="fine", dim=DIM, heads=1, depth=0, group=LearnedGroups(type="learned", target=4, max=12), pool="mean"
    )
    config = HierarchyConfig(levels=(fine, Level(name="coarse", dim=32, heads=1, depth=0)))
    transition = Transition(config, 0, 1, 1e4)
    assert transition.router is not None
    for parameter in transition.router.parameters():
        parameter.data += 0.3 * torch.randn(DIM, DIM)
    down = TopDown(transition)
    head = nn.Linear(32 if reads == "coarse" else DIM, SYMBOLS)
    optimizer = torch.optim.Adam([*transition.parameters(), *down.parameters(), *head.parameters()], lr=0.005)
    before = data.f1(transition.router)
    for step in range(450):
        x_TD, label_T, _ = data.draw(1000 + step)
        pooled = transition(x_TD, LevelPlan.of(Tokens.pack([x_TD]), fine, ()))
        if reads == "coarse":
            scores = head(nn.functional.rms_norm(pooled.x_GE, (32,)))[pooled.groups.spans.ids]
        else:
            scores = head(down(pooled.x_GE, pooled.groups, transition.pooling) * pooled.confidence_T1)
        loss = nn.functional.cross_entropy(scores, label_T) + 3 * pooled.losses["ratio/fine"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = data.f1(transition.router)
    assert after > max(least, before + 0.1), f"F1 of the boundaries went from {before:.2f} to {after:.2f}"


@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_the_task_alone_moves_the_boundaries(pool: str) -> None:
    """A norm follows the pooling: a confidence that only scales what is pooled gets no gradient through it."""
    fine = Level(
        name="fine", dim=DIM, heads=1, depth=0, group=LearnedGroups(type="learned", target=4, max=12), pool=pool
    )
    model = Hierarchy(HierarchyConfig(levels=(fine, Level(name="coarse", dim=DIM, heads=1, depth=1))))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    pyramid = model(Tokens.pack([torch.randn(60, DIM), torch.randn(25, DIM)]))
    (pyramid["coarse"].x * torch.randn(DIM)).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if "router" in name}
    assert len(grads) == 2
    for name, grad in grads.items():
        assert grad is not None
        assert grad.norm() > 1e-2, f"{name}: {grad.norm():.1e}"


def test_the_target_warms_up_while_training_alone() -> None:
    one = DifferenceRouter(DIM, LearnedGroups(type="learned", target=6, max=9, warmup=4))
    x, samples = torch.randn(30, DIM), Spans.from_lengths([30])
    assert float(one.current_target()) == 2
    result = []
    for _ in range(6):
        one(x, samples)
        result.append(float(one.current_target()))
    assert result == [3, 4, 5, 6, 6, 6]
    one.eval()(x, samples)
    assert int(one.batches) == 6
    other = DifferenceRouter(DIM, LearnedGroups(type="learned", target=6, max=9, warmup=4))
    other.load_state_dict(one.state_dict())
    assert float(other.current_target()) == 6
    assert "batches" not in router().state_dict()


@pytest.mark.parametrize("target", [2.5, 6, 11])
def test_the_target_is_reached_and_stays(target: float) -> None:
    """Without any training of weights; 16 tokens are the longest group, so that some are split."""
    torch.manual_seed(0)
    one = router(target=target, longest=16)
    for _ in range(20):
        one(torch.randn(900, DIM), Spans.from_lengths([500, 1, 399]))
    sizes = [900 / float(one(torch.randn(900, DIM), Spans.from_lengths([900])).starts_T.sum()) for _ in range(10)]
    assert sum(sizes) / len(sizes) == pytest.approx(target, rel=0.05)
    size = 4000 / float(one.eval()(torch.randn(4000, DIM), Spans.from_lengths([4000])).starts_T.sum())
    assert size == pytest.approx(target, rel=0.1)


def test_tokens_that_are_all_alike_are_split_at_the_maximum() -> None:
    one, samples = router(target=4, longest=8), Spans.from_lengths([64])
    for _ in range(5):
        routing = one(torch.ones(64, DIM), samples)
        assert routing.starts_T.nonzero().flatten().tolist() == list(range(0, 64, 8))
        assert one.offset.isfinite()


def test_a_step_may_be_divided_in_any_way() -> None:
    samples = [torch.randn(50, DIM) for _ in range(4)]
    offsets = []
    for share in (4, 2, 1):
        one = router(target=6, longest=16)
        with training_step(one):
            for first in range(0, 4, share):
                one(torch.cat(samples[first : first + share]), Spans.from_lengths([50] * share))
            assert float(one.offset) == float(one.next_offset) == 0
        offsets.append(float(one.next_offset))
    assert offsets[0] != 0
    assert offsets == pytest.approx([offsets[0]] * 3, abs=1e-6)


def test_packed_samples_are_cut_as_one_by_one_in_training() -> None:
    one = router(target=6, longest=16)
    one(torch.randn(100, DIM), Spans.from_lengths([100]))
    samples = [torch.randn(length, DIM) for length in (30, 1, 50)]
    with training_step(one):
        packed = one(torch.cat(samples), Spans.from_lengths([30, 1, 50])).starts_T
        assert float(one.offset) != 0
        alone = torch.cat([one(sample, Spans.from_lengths([len(sample)])).starts_T for sample in samples])
    assert torch.equal(packed, alone)


def test_checkpoints_from_before_the_control_load_and_cut_as_before() -> None:
    one, x, samples = router(), torch.randn(40, DIM), Spans.from_lengths([40])
    expected = one.eval()(x, samples).starts_T
    former = {name: value for name, value in one.state_dict().items() if name.endswith("weight")}
    other = router(target=9, longest=12)
    other.next_offset.fill_(3)
    other.load_state_dict(former)
    other.max_length = one.max_length
    assert torch.equal(other.eval()(x, samples).starts_T, expected)


def test_supervision_moves_boundaries_to_where_they_are_named() -> None:
    """Fresh groups start where neighbours differ; taught ones where the data says, which is somewhere else."""
    torch.manual_seed(0)
    fine = Level(
        name="fine",
        dim=DIM,
        depth=1,
        heads=2,
        group=LearnedGroups(type="learned", target=4, max=8, weight=0, supervise="words"),
    )
    config = HierarchyConfig(levels=(fine, Level(name="coarse", dim=DIM, depth=0, heads=2)))
    model = Hierarchy(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def batch() -> tuple[Tokens, Tensor]:
        samples = [blocks([3, 2, 4, 3, 5, 2]) for _ in range(8)]
        truth = torch.zeros(19, dtype=torch.bool)
        truth[[0, 4, 10, 15]] = True
        return Tokens.pack(samples, boundaries={"words": [truth] * 8}), truth.repeat(8)

    def agreement() -> float:
        tokens, truth = batch()
        with torch.no_grad():
            starts = torch.zeros(len(truth), dtype=torch.bool)
            starts[model(tokens).groups["fine"].host[:-1]] = True
        return float(2 * (starts & truth).sum() / (starts.sum() + truth.sum()))

    before = agreement()
    for _ in range(150):
        losses = model(batch()[0]).losses
        assert set(losses) == {"boundary/fine"}
        losses["boundary/fine"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before < 0.6
    assert agreement() > 0.95


def test_supervision_is_the_cross_entropy_without_first_tokens() -> None:
    layer = router()
    samples = Spans.from_lengths([3, 1, 4])
    routing = layer(torch.randn(8, DIM), samples)
    truth = torch.tensor([1, 0, 1, 1, 0, 1, 0, 0], dtype=torch.bool)
    kept = [1, 2, 5, 6, 7]
    expected = nn.functional.binary_cross_entropy(routing.prob_T[kept], truth[kept].float())
    assert torch.allclose(layer.supervised(routing, truth, samples), expected)


def test_without_its_boundary_nothing_is_taught() -> None:
    group = LearnedGroups(type="learned", target=4, max=8, supervise="words")
    levels = (Level(name="fine", dim=DIM, heads=2, group=group), Level(name="coarse", dim=DIM, heads=2))
    losses = Hierarchy(HierarchyConfig(levels=levels))(Tokens.pack([torch.randn(9, DIM)])).losses
    assert set(losses) == {"ratio/fine"}


def test_a_weight_of_no_supervision_is_refused() -> None:
    with pytest.raises(ValueError, match="name a boundary"):
        LearnedGroups(type="learned", target=4, max=8, supervision=0.5)
